"""Checkpoints damaged or forged in any place load as they were or end in one line; never in anything else.

``python tests/test_damaged_checkpoints.py [N [SEED]]`` damages N times, 5000 without a number, and tells what became of
it.
"""

import copy
import io
import random
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from lib import optim
from lib.base.errors import UserError
from lib.engine.checkpoint import CheckpointFiles, random_state
from lib.engine.restoring import optimizer_state, read_run
from lib.weights.loading import load_weights

ODD = (
    *(
        None,
        True,
        -1,
        2**70,
        1.5,
        float("nan"),
        float("inf"),
        "text",
        "two\nlines",
        b"bytes",
        (),
        [],
        {},
        [[]],
        {"a": 1},
    ),
    *({1: {2: 3}}, torch.zeros(()), torch.zeros(0), torch.zeros(3, 3, 3, 3, 3), torch.zeros(1).expand(1000)),
    *(torch.zeros(2, dtype=torch.int16), torch.zeros(2, dtype=torch.bool), torch.zeros(2, 2).to_sparse()),
)
# What a run takes as it stands, whatever its value
FREE = {"best_score", "validation_is_due", "unlogged", "loss_names"}


class Small(nn.Module):
    """The parts of a segmentor that an optimiser and a checkpoint ask for, and one that has no gradient."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, image):
        return self.head(self.backbone(image))


def build(name):
    model = Small().to(memory_format=torch.channels_last)
    return model, optim.build_optimizer(model, name, lr=0.01, weight_decay=0.1, head_lr_factor=10)


def step(model, optimizer, image):
    model(image).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def write(folder, name):
    """A checkpoint with the entries of ``Trainer._save``, by the optimiser ``name``, after three steps."""
    torch.manual_seed(0)
    model, optimizer = build(name)
    schedule = optim.build_schedule(optimizer, max_iters=10)
    for _ in range(3):
        step(model, optimizer, torch.randn(2, 3, 8, 8))
        schedule.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer_state(optimizer),
        "schedule": schedule.state_dict(),
        "iteration": 3,
        "sampler": {"position": 6},
        "random": [random_state(torch.device("cpu"))],
        "best_miou": 0.25,
        "validation_is_due": False,
        "unlogged": [[0.5, 0.25]],
        "loss_names": ["loss", "out"],
        "ema": {key: value // 2 if key.endswith("tracked") else value / 2 for key, value in model.state_dict().items()},
    }
    CheckpointFiles(folder, keep=1).save(state, 3, is_best=False)
    return folder / "latest.pth"


def read(path, name):
    """What ``resume`` takes from the checkpoint, and what ``val`` does; with the former, a step."""
    model, optimizer = build(name)
    found = read_run(path, model, optimizer, "best_miou")
    model.load_state_dict(found.model)
    optimizer.load_state_dict(copy.deepcopy(found.optimizer))
    step(model, optimizer, torch.ones(2, 3, 8, 8))
    return {field.name: getattr(found, field.name) for field in fields(found)}


def evaluated(path):
    model = Small()
    load_weights(model, path)
    return dict(model.state_dict())


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


def without_zeros(optimizer):
    """The numbers in its state, without those of parameters that have only zeros."""
    states = {n: {key: v.tolist() for key, v in entries.items()} for n, entries in optimizer["state"].items()}
    return {n: entries for n, entries in states.items() if any(optimizer["state"][n][key].any() for key in entries)}


def damage_bytes(content, chance):
    """Flipped bits, overwritten, removed or inserted bytes, an end that is cut off."""
    content = bytearray(content)
    kind, place = (
        chance.choice(["flip", "flip", "overwrite", "cut", "remove", "insert"]),
        chance.randrange(len(content)),
    )
    count = chance.choice([1, 1, 2, 8, 64, 1000])
    # Half of the time where few bytes mean much: the directory at the end, the headers.
    if chance.random() < 0.5:
        marks = [place for place in range(len(content) - 4) if content[place : place + 2] == b"PK"]
        place = min(len(content) - 1, chance.choice(marks) + chance.randrange(60))
    if kind == "flip":
        for _ in range(count):
            content[min(len(content) - 1, place + chance.randrange(count))] ^= 1 << chance.randrange(8)
    elif kind == "overwrite":
        content[place : place + count] = chance.randbytes(count)[: len(content) - place]
    elif kind == "insert":
        content[place:place] = chance.randbytes(count)
    else:
        del content[place : None if kind == "cut" else place + count]
    return bytes(content)


def damage_entries(content, chance):
    """A checkpoint with right checksums, one of whose entries is removed, renamed or of another kind, shape or type."""
    state = torch.load(io.BytesIO(content), weights_only=True)
    holder, key = {"": state}, ""
    while isinstance(holder[key], (dict, list)) and holder[key] and (holder[key] is state or chance.random() < 0.85):
        holder = holder[key]
        key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    value = holder[key]
    if isinstance(value, torch.Tensor) and chance.random() < 0.6:
        changes = (
            *(lambda: value.flatten()[:-1], lambda: value[None], lambda: value.expand(2, *value.shape)),
            *(lambda: value.double(), lambda: value.half(), lambda: value.to(torch.uint8), lambda: value.bool()),
            *(lambda: value.to(torch.int32), lambda: value.to(torch.complex64), lambda: value.transpose(0, -1)),
        )
        try:
            holder[key] = chance.choice(changes)()
        except IndexError:  # a scalar has nothing to transpose
            holder[key] = None
    elif chance.random() < 0.4 and isinstance(holder, dict):
        del holder[key]
        if chance.random() < 0.5:
            holder[chance.choice(["other", 7, None, "two\nlines", ("a", 1)])] = value
    else:
        holder[key] = chance.choice(ODD)
    file = io.BytesIO()
    torch.save(state.get("", state) if isinstance(state, dict) else state, file)
    return file.getvalue()


def campaign(folder, count, seed):
    """Damage a checkpoint ``count`` times; what became of it, counted."""
    counts, chance = Counter(), random.Random(seed)
    for name in ("sgd", "adamw"):
        path = write(folder / name, name)
        content, whole, weights = path.read_bytes(), read(path, name), evaluated(path)
        broken = folder / name / "broken.pth"
        for index in range(count // 2):
            damage = (damage_bytes, damage_entries)[index % 2]
            broken.write_bytes(damage(content, chance))
            for take in (read, evaluated):
                try:
                    found = take(broken, name) if take is read else take(broken)
                except UserError as error:
                    line = str(error)
                    assert str(broken) in line and line.isprintable() and len(line) < 1000, line
                    counts[f"{damage.__name__}: {take.__name__}: one line"] += 1
                    continue
                if damage is damage_bytes:
                    assert equal(found, whole if take is read else weights), "damage went unseen"
                elif take is read:
                    strangers = {key for key in whole if not equal(found[key], whole[key])}
                    if equal(found["average"], found["model"]):
                        # Without an average, as where train.ema is new, one starts from the weights.
                        strangers.discard("average")
                    if without_zeros(found["optimizer"]) == without_zeros(whole["optimizer"]):
                        # Old checkpoints do not note what had no state; it starts from zero.
                        strangers.discard("optimizer")
                    assert strangers <= FREE, (strangers, index, seed)
                counts[f"{damage.__name__}: {take.__name__}: as it was"] += 1
    return counts


def test_whatever_is_damaged_ends_in_one_line_or_loads_as_it_was(tmp_path):
    for name in ("sgd", "adamw"):
        (tmp_path / name).mkdir()
    counts = campaign(tmp_path, 300, seed=0)
    assert len(counts) == 8 and min(counts.values()) > 3


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_momentum_takes_the_memory_layout_of_its_parameter(tmp_path, name, memory_format):
    path = write(tmp_path, name)
    model = Small().to(memory_format=memory_format)
    optimizer = optim.build_optimizer(model, name, lr=0.01, weight_decay=0.1, head_lr_factor=10)
    found = read_run(path, model, optimizer, "best_miou").optimizer
    saved = torch.load(path, weights_only=True)["optimizer"]["state"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, entries in saved.items():
        for entry, value in entries.items():
            assert torch.equal(found["state"][number][entry], value)
            if entry != "step":
                assert found["state"][number][entry].stride() == parameters[number].stride()


def test_a_checkpoint_without_note_of_what_had_no_state_still_resumes(tmp_path):
    path = write(tmp_path, "sgd")
    state = torch.load(path, weights_only=True)
    del state["optimizer"]["stateless"], state["loss_names"]
    torch.save(state, path)
    read(path, "sgd")


@pytest.mark.parametrize("linked", [True, False])
def test_a_damaged_checkpoint_is_named_with_the_whole_one_before_it(tmp_path, linked):
    path = write(tmp_path, "sgd")
    state = torch.load(path, weights_only=True)
    files = CheckpointFiles(tmp_path, keep=9)
    for iteration in (4, 5, 6):
        files.save({key: value for key, value in state.items() if key != "format"}, iteration, is_best=iteration == 4)
    if not linked:
        (tmp_path / "best.pth").unlink()
        (tmp_path / "best.pth").write_bytes((tmp_path / "iter_4.pth").read_bytes())
    for name in ("iter_6.pth", "iter_5.pth"):
        damaged = bytearray((tmp_path / name).read_bytes())
        damaged[len(damaged) // 2] ^= 1
        (tmp_path / name).write_bytes(damaged)
    with pytest.raises(UserError, match=r"latest\.pth is damaged.*before it: checkpoint=.*iter_4\.pth$") as caught:
        read(path, "sgd")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"latest\.pth is damaged.*before it: checkpoint=.*iter_4\.pth$"):
        evaluated(path)
    for name in ("iter_4.pth", "iter_3.pth"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"iter_5\.pth is damaged.*before it: checkpoint=.*best\.pth$"):
        read(tmp_path / "iter_5.pth", "sgd")
    (tmp_path / "best.pth").unlink()
    with pytest.raises(UserError, match=r"iter_5\.pth is damaged.*; copy or download it again$"):
        read(tmp_path / "iter_5.pth", "sgd")


if __name__ == "__main__":
    import tempfile

    total, first_seed = (int(word) for word in ([*sys.argv[1:], "0"] if len(sys.argv) > 1 else ["5000", "0"])[:2])
    with tempfile.TemporaryDirectory() as temporary:
        for optimizer_name in ("sgd", "adamw"):
            (Path(temporary) / optimizer_name).mkdir()
        for what, number in sorted(campaign(Path(temporary), total, first_seed).items()):
            print(f"{what:40} {number}")
