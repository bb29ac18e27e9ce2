"""Processes that share a batch have the losses that ``loss.over`` says, in value and in DDP's averaged gradients."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed import TCPStore

from datasets.seg.classes import load_table
from lib.keys import as_text

ROOT = Path(__file__).parents[1]

JOB = """
import json, sys
import torch
from torch import nn
from lib.engine.distribute import join_world
from lib.losses.mining import hard_pixels
from lib.tasks import load_config, make_task

class Network(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.heads = nn.ParameterDict({name: nn.Parameter(weight) for name, weight in weights.items()})

    def forward(self, image):
        return {name: torch.einsum("kc,bchw->bkhw", weight, image) for name, weight in self.heads.items()}

folder, recipe, cases = sys.argv[1:]
data, results = torch.load(f"{folder}/data.pt"), []
with join_world("cpu") as world:
    mine = slice(*(len(data["image"]) * (world.rank + end) // world.size for end in (0, 1)))
    for overrides in json.loads(cases):
        network = nn.parallel.DistributedDataParallel(Network(data["weights"]))
        loss = make_task(load_config(recipe, overrides)).loss(world)
        parts = loss(network(data["image"][mine]), data["label"][mine])
        parts["loss"].backward()
        told = world.sum(torch.stack([value.detach() for value in parts.values()])) / world.size
        results.append((told, {name: weight.grad for name, weight in network.module.heads.items()}))
    equal = torch.ones(2, 9, 11)
    results.append(world.sum(hard_pixels(equal, equal, equal > 0, None, 20, world).sum()).item())
    if world.is_main:
        torch.save(results, f"{folder}/results.pt")
"""

CASES = [
    {"name": "cross_entropy", "class_weights": True, "mean": "valid"},
    {"name": "cross_entropy", "class_weights": False, "mean": "valid"},
    {"name": "cross_entropy", "class_weights": False, "mean": "all"},
    {"name": "focal", "class_weights": False, "mean": "labelled"},
    {"name": "ohem", "class_weights": True, "mean": "valid", "ohem_threshold": 0.7, "ohem_min_kept": 1},
    # the rarer way: a selection
    {"name": "ohem", "class_weights": True, "mean": "valid", "ohem_threshold": 0.001, "ohem_min_kept": 20},
    {"name": "ohem", "class_weights": False, "mean": "all", "ohem_threshold": 0.001, "ohem_min_kept": 30},
    {"name": "ohem", "class_weights": False, "mean": "labelled", "ohem_threshold": 0.001, "ohem_min_kept": 10**6},
    {"name": "ohem", "class_weights": True, "mean": "all", "ohem_threshold": None, "ohem_min_kept": 20},
    {"name": "ohem", "class_weights": False, "mean": "valid", "ohem_threshold": None, "ohem_min_kept": 50},
]
OVERS = ("batch", "process")


def batch():
    """Four images of random features and 19 classes; what is ignored differs, the last has no label at all."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(4, 6, 9, 11, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 19, (4, 9, 11), generator=generator)
    label[0, :, 8:], label[1, 3:], label[2, :, 1:], label[3] = 255, 255, 255, 255
    weights = {name: torch.randn(19, 6, generator=generator, dtype=torch.float64) for name in ("out", "aux")}
    return {"image": image, "label": label, "weights": weights}


def overrides(case, over):
    return [f"loss.over={over}", *(f"loss.{key}={as_text(value)}" for key, value in case.items())]


@pytest.fixture(scope="module", params=[2, 4])
def job(request, tmp_path_factory):
    """The number of processes; the losses and gradients of all cases: (case's index, over) -> both; "equal" -> how many
    of equally hard pixels were chosen."""
    folder = tmp_path_factory.mktemp("job")
    torch.save(batch(), folder / "data.pt")
    # They meet at a store of this process, whose port is taken already.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    names = [(index, over) for index in range(len(CASES)) for over in OVERS]
    recipe = str(ROOT / "configs" / "seg" / "cityscapes" / "dnl_r101.yaml")
    words = [str(folder), recipe, json.dumps([overrides(CASES[index], over) for index, over in names])]
    group = {"WORLD_SIZE": str(request.param), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    group |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", JOB, *words],
            cwd=ROOT,
            env=os.environ | group | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(request.param)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * request.param, "\n".join(said)
    return request.param, dict(zip([*names, "equal"], torch.load(folder / "results.pt"), strict=True))


def reference(case, features, true, head, kind):
    """Loss, and its gradient with respect to ``head`` [K, C], of ``features`` [N, C] with classes ``true`` [N].

    Float64, written out, with a full sort; ``kind`` names the loss, the images are N / 99.
    """
    valid, images = true != 255, len(true) // 99
    number = len(true)
    features, true = features[valid], true[valid]
    if not len(true):
        return 0.0, np.zeros_like(head)
    scores = np.exp(features @ head.T)
    probability = scores / scores.sum(1, keepdims=True)
    certainty = probability[np.arange(len(true)), true]
    nll = -np.log(certainty)
    weight = np.float64(load_table("cityscapes").weights)[true] if case["class_weights"] else np.ones(len(true))
    loss, slope, hard = nll, np.ones(len(true)), np.ones(len(true), bool)
    if kind == "focal":
        loss, slope = (1 - certainty) ** 2 * nll, (1 - certainty) ** 2 + 2 * (1 - certainty) * certainty * nll
    if kind == "ohem":
        kept, threshold = case["ohem_min_kept"] * images, case["ohem_threshold"]
        if threshold is None:
            hard[np.argsort(-nll * weight)[kept:]] = False
        else:
            hard = certainty < max(threshold, np.sort(certainty)[min(kept, len(true) - 1)])
    divisor = hard.sum() if kind == "ohem" else weight.sum()
    if case["mean"] != "valid":
        divisor = 2.0**-23 + (number if case["mean"] == "all" and not case["class_weights"] else weight.sum())
    share = weight * hard / divisor
    of_scores = (probability - np.eye(len(head))[true]) * (share * slope)[:, None]
    return (loss * share).sum(), of_scores.T @ features


@pytest.mark.parametrize("over", OVERS)
@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda index: "-".join(map(str, CASES[index].values())))
def test_the_loss_and_its_gradient_are_the_batchs_or_the_mean_of_the_processes(job, index, over):
    size, results = job
    told, gradients = results[index, over]
    data, case = batch(), CASES[index]
    shares = 1 if over == "batch" else size
    features = np.split(data["image"].movedim(1, -1).reshape(-1, 6).numpy(), shares)
    true = np.split(data["label"].flatten().numpy(), shares)
    losses = {}
    for output, kind, factor in (("out", case["name"], 1.0), ("aux", "cross_entropy", 0.4)):
        head = data["weights"][output].numpy()
        parts = [reference(case, *part, head, kind) for part in zip(features, true, strict=True)]
        losses[output] = np.mean([loss for loss, _ in parts])
        gradient = factor * np.mean([gradient for _, gradient in parts], axis=0)
        np.testing.assert_allclose(gradients[output].numpy(), gradient, rtol=1e-5, atol=1e-8)
    expected = [losses["out"] + 0.4 * losses["aux"], losses["out"], losses["aux"]]
    assert told.tolist() == pytest.approx(expected, rel=1e-6)


def test_the_settings_differ_where_the_processes_do(job):
    _, results = job
    differ = {
        index: abs(results[index, "batch"][0][1] / results[index, "process"][0][1] - 1) > 1e-4
        for index in range(len(CASES))
    }
    # Every process has as many pixels, so that a mean over all of them is the same.
    assert [index for index, does in differ.items() if not does] == [2]


def test_of_equal_losses_of_all_processes_no_more_are_kept_than_should_be(job):
    size, results = job
    assert results["equal"] == 20 * 2 * size
