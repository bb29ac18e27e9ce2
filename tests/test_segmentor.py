"""A segmentor is built from names and options, whose mistakes are named, and returns logits of the image's size."""

import pytest
import torch
import torch.nn.functional as F

from lib.base.errors import UserError
from lib.models import build_segmentor

SPEC = {
    "num_classes": 5,
    "backbone": {"name": "resnet18", "output_stride": 16},
    "head": {"name": "nonlocal", "dropout": 0.0, "block": {"name": "disentangled", "whitening": "layer"}},
    "aux": {"dropout": 0.0},
}
IMAGE = torch.randn(2, 3, 33, 50)


def test_logits_have_the_size_of_the_image_and_aux_comes_in_training_only():
    network = build_segmentor(**SPEC)
    assert {name: logits.shape for name, logits in network(IMAGE).items()} == {
        "out": (2, 5, 33, 50),
        "aux": (2, 5, 33, 50),
    }
    assert network(IMAGE, with_aux=False).keys() == {"out"}
    assert network.eval()(IMAGE).keys() == {"out"}
    assert network(IMAGE, with_aux=True).keys() == {"out", "aux"}
    assert build_segmentor(**SPEC | {"aux": None})(IMAGE).keys() == {"out"}


@pytest.mark.parametrize("align_corners", [True, False])
def test_logits_are_brought_to_size_bilinearly(align_corners):
    network = build_segmentor(**SPEC, align_corners=align_corners).eval()
    low = network.head(network.backbone(IMAGE))
    expected = F.interpolate(low, (33, 50), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(network(IMAGE)["out"], expected)


def test_every_parameter_learns():
    network = build_segmentor(**SPEC)
    torch.nn.init.ones_(network.head.block.gamma)
    sum(logits.square().mean() for logits in network(IMAGE).values()).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_logits_are_float32_under_autocast():
    network = build_segmentor(**SPEC)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {logits.dtype for logits in network(IMAGE).values()} == {torch.float32}


def test_a_head_without_a_block_passes_over_its_options():
    network = build_segmentor(**SPEC | {"head": SPEC["head"] | {"name": "fcn"}})
    assert isinstance(network.head.block, torch.nn.Identity)


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        ("backbone", {"name": "resnet5"}, r"model\.backbone\.name: there is no 'resnet5'; did you mean resnet50"),
        ("backbone", {"outputstride": 8}, r"model\.backbone\.outputstride; did you mean output_stride"),
        ("backbone", {"output_stride": 4}, r"model\.backbone\.output_stride is 4: it must be one of 8, 16, 32"),
        ("backbone", {"multi_grid": [1, 2.5, 4]}, r"model\.backbone\.multi_grid is .* whole number"),
        ("head", {"name": "nonlocl"}, r"model\.head\.name: .* did you mean nonlocal"),
        ("head", {"dropout": "much"}, r"model\.head\.dropout is 'much': it must be a number"),
        ("head", {"block": {"name": "disentangle"}}, r"model\.head\.block\.name: .* did you mean disentangled"),
        ("head", {"block": {"name": "disentangled", "whitenin": "layer"}}, r"head\.block\.whitenin; .* whitening"),
        ("head", {"block": {"name": "disentangled", "unary": 1}}, r"head\.block\.unary is 1: .* true or false"),
        ("head", {"block": {"name": "disentangled", "no_decay": ["quary"]}}, r"no_decay is .* query, key"),
        ("aux", {"channels": 3}, r"unknown option model\.aux\.channels"),
    ],
)
def test_mistakes_in_options_are_named(part, options, message):
    with pytest.raises(UserError, match=message):
        build_segmentor(**SPEC | {part: SPEC[part] | options})
