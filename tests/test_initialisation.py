"""Starting weights: what each kind of layer is drawn from, by its moments, as in mmsegmentation."""

import math
import re
from pathlib import Path

import pytest
import torch

from lib.base.errors import UserError
from lib.models import build_segmentor
from lib.models.initialisation import INITIALISATIONS
from lib.tasks import load_config, make_task

CONFIGS = Path(__file__).parents[1] / "configs" / "seg"
BLOCK = {"name": "disentangled", "whitening": "instance", "gain": False, "output_conv": True, "output_norm": True}
DNL = {"name": "nonlocal", "block": BLOCK}
HEADS = {
    "dnl": DNL,
    "snl": {"name": "nonlocal", "block": {"name": "spectral", "chebyshev_of": "laplacian"}},
    "nl": {"name": "nonlocal", "block": {"name": "nonlocal", "gain": False, "output_conv": True, "output_norm": True}},
    "gc": {"name": "global_context"},
    "ann": {"name": "asymmetric"},
    "psp": {"name": "psp"},
    "deeplab_v3": {"name": "deeplab_v3"},
    "fcn": {"name": "fcn"},
}

# The start of every parameter, by the first expression that its name matches. He: normal of sd sqrt(2 / (channels out x
# kernel)); normal: of sd 0.01; torch: uniform within 1 / sqrt(channels in x kernel), biases too.
KINDS = [
    # residual units of ResNet-18, whose second norm is the last
    (r"backbone\.layer\d\.\d\.bn2\.weight", "zero"),
    (r"head\.block\.output_norm\.weight", "zero"),
    (r"classifier\.weight", "normal"),
    (r"head\.block\.(query|key|value)\.weight", {"snl": "he", "ann": "torch", "": "normal"}),
    # the global context block: fan-in of its mask; the first convolution as PyTorch draws it, the last one at 0
    (r"head\.block\.add\.expand\.(weight|bias)", "zero"),
    (r"head\.block\.add\.conv\.(weight|bias)", "torch"),
    (r"head\.block\.mask\.weight", {"gc": "he fan in", "": "torch"}),
    (r"head\.block\.mask\.bias", {"gc": "zero", "": "torch"}),
    # ANN's attentions: plain values, outputs at 0
    (r"branches\.\d\.value\.(weight|bias)", "torch"),
    (r"branches\.\d\.output\.weight", "zero"),
    (r"norm\.weight|bn\d\.weight|downsample\.1\.weight", "one"),
    (r"bias", "zero"),
    (r"weight", "he"),
]


def network(head, init="mmseg", seed=0, backbone="resnet18"):
    torch.manual_seed(seed)
    spec = {"name": backbone, "stem": "v1c", "ceil_mode": False}
    return build_segmentor(num_classes=60, backbone=spec, head=HEADS[head], aux={}, init=init)


def kind_of(name, head):
    found = next(kind for expression, kind in KINDS if re.search(expression, name))
    return found if isinstance(found, str) else found.get(head, found[""])


def assert_drawn(values, deviation, *, uniform, name):
    """Mean, variance and fourth moment lie within 5 standard errors of the distribution's."""
    values, count = values.double() / deviation, values.numel()
    fourth, eighth = (9 / 5, 9.0) if uniform else (3.0, 105.0)
    moments = {1: (0.0, 1.0), 2: (1.0, fourth), 4: (fourth, eighth)}
    for power, (expected, square) in moments.items():
        error = math.sqrt(max(square - expected**2, 1e-9) / count)
        assert abs((values**power).mean() - expected) < 5 * error, (name, power)
    if uniform:
        assert values.abs().max() <= math.sqrt(3) * (1 + 1e-6), name


@pytest.mark.parametrize("head", HEADS)
def test_every_layer_starts_as_in_mmsegmentation(head):
    started = network(head)
    shapes = {name: parameter.shape for name, parameter in started.named_parameters()}
    seen = set()
    for name, parameter in started.named_parameters():
        kind, values = kind_of(name, head), parameter.detach()
        seen.add(kind)
        if kind in ("zero", "one"):
            assert (values == (kind == "one")).all(), name
            continue
        out, fan_in = shapes[name.replace("bias", "weight")][:2]
        kernel = math.prod(shapes[name.replace("bias", "weight")][2:])
        deviation = {
            "he": math.sqrt(2 / (out * kernel)),
            "he fan in": math.sqrt(2 / (fan_in * kernel)),
            "normal": 0.01,
            "torch": 1 / math.sqrt(3 * fan_in * kernel),
        }[kind]
        assert_drawn(values, deviation, uniform=kind == "torch", name=name)
    assert {"he", "normal", "zero", "one"} <= seen


def test_the_blocks_output_of_the_published_width_has_the_published_deviation():
    started = network("dnl", backbone="resnet50")
    block = started.head.block
    assert block.output.weight.shape[:2] == (512, 256)
    assert block.output.weight.std().item() == pytest.approx(0.0625, rel=0.01)
    assert not block.output_norm.weight.any() and not block.output_norm.bias.any()
    # bottlenecks end with their third norm
    units = [unit for stage in started.backbone.stages[1:] for layer in stage for unit in layer]
    assert len(units) == 16
    assert not any(unit.bn3.weight.any() for unit in units) and all((unit.bn2.weight == 1).all() for unit in units)


@pytest.mark.parametrize("backbone", ["hrnet_w18", "mobilenet_v2"])
def test_other_backbones_keep_the_start_that_they_have_there(backbone):
    def started(init):
        torch.manual_seed(0)
        head = {"name": "fcn", "inner": 8, "width": 8}
        return build_segmentor(num_classes=3, backbone={"name": backbone}, head=head, aux=None, init=init)

    ours, theirs = started("default").backbone.state_dict(), started("mmseg").backbone.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_default_changes_and_draws_nothing():
    started = network("dnl", init="default")
    before = {name: entry.clone() for name, entry in started.state_dict().items()}
    torch.manual_seed(7)
    INITIALISATIONS["default"](started)
    assert all(torch.equal(entry, before[name]) for name, entry in started.state_dict().items())
    drawn = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(1))


def test_the_start_follows_from_the_seed():
    first, again, other = (network("dnl", seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.classifier.weight"], other["head.classifier.weight"])


def test_without_auxiliary_head_and_without_numbers_it_works_too():
    with torch.device("meta"):
        build_segmentor(num_classes=3, backbone={"name": "resnet18"}, head=DNL, aux=None, init="mmseg")
    bare = build_segmentor(num_classes=3, backbone={"name": "resnet18"}, head=DNL, aux=None, init="mmseg")
    assert bare.aux_head is None


def test_an_unknown_start_is_named():
    with pytest.raises(UserError, match=r"model\.init: there is no 'mmsge'; did you mean mmseg"):
        network("dnl", init="mmsge")
    with pytest.raises(UserError, match=r"model\.init=mmsge: choose one of default, mmseg"):
        load_config(CONFIGS / "cityscapes" / "dnl_r101.yaml", ["model.init=mmsge"])


def test_mmsegmentations_recipes_and_snl_start_so_and_no_others():
    recipes = sorted(CONFIGS.glob("*/*.yaml"))
    chosen = {file.stem for file in recipes if load_config(file, []).model.init == "mmseg"}
    assert chosen == {file.stem for file in recipes if file.stem.startswith("mmseg_")} | {"snl_r50"}


def test_a_recipes_network_has_its_start():
    config = load_config(CONFIGS / "cityscapes" / "snl_r50.yaml", ["model.backbone.name=resnet18"])
    started = make_task(config).network()
    assert started.head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not started.backbone.layer1[0].bn2.weight.any()
