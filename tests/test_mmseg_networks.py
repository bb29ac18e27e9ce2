"""mmsegmentation's networks: published names and shapes, and options that their fixtures do not show."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lib.base.errors import UserError
from lib.models import build_segmentor
from lib.models.blocks.asymmetric import AsymmetricFusion, AsymmetricPyramid
from lib.models.heads.fcn import AuxiliaryHead, FCNHead
from lib.models.heads.global_context_head import GlobalContextHead
from lib.weights.checkpoints import import_network
from lib.weights.mmseg import convert_mmseg_network, mmseg_network_options
from tests import replay_golden

MORE = Path(__file__).parents[2] / "shared" / "golden" / "more"
FILES = sorted([*MORE.glob("net_mmseg_*.npz"), *MORE.glob("checkpoint_*.npz")])
NETWORKS = [file for file in FILES if file.stem.startswith("net_")]
with_fixtures = pytest.mark.skipif(not FILES, reason="the fixtures are not there")

CASE = {"family": "mmseg/FCNHead", "depth": 50, "align_corners": False, "num_classes": 5, "head_args": {}}


@with_fixtures
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_fixture_holds(file):
    line, holds = replay_golden.replay(file)
    assert holds, line


@with_fixtures
@pytest.mark.parametrize("file", NETWORKS, ids=lambda file: file.stem)
def test_a_published_state_dict_fills_the_network_of_its_options(file):
    case, _ = replay_golden.load_fixture(file)
    rows = (line.split("\t") for line in (MORE / "state_dict_keys" / case["keys"]).read_text().splitlines())
    published = {name: torch.empty(json.loads(shape), device="meta") for name, shape in rows}
    with torch.device("meta"):
        network = build_segmentor(**mmseg_network_options(case))
    names = replay_golden.published_entries(
        case, network, convert_mmseg_network, replay_golden.find_key_lists(MORE), MORE / "state_dict_keys"
    )
    assert {name: tensor.shape for name, tensor in names.items()} == {
        name: tensor.shape for name, tensor in published.items()
    }
    imported, report = import_network(network, {"state_dict": published}, "theirs.pth")
    assert report.project == "mmsegmentation" and (report.missing, report.left_out) == ([], [])
    assert imported.keys() == network.state_dict().keys()


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"strides": [1, 2, 2, 2], "dilations": [1, 1, 1, 1]}, "output_stride", 32),
        ({"strides": [1, 2, 2, 1], "dilations": [1, 1, 1, 2]}, "output_stride", 16),
        ({"contract_dilation": False}, "contract_dilation", False),
        ({}, "output_stride", 8),
    ],
)
def test_the_backbones_strides_become_its_output_stride(changes, key, value):
    assert mmseg_network_options(CASE | changes)["backbone"][key] == value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "mmseg/OCRHead"}, "OCRHead is not known: choose one of .*SNLHead"),
        ({"strides": [1, 1, 1, 1]}, r"strides \[1, 1, 1, 1\] with dilations \[1, 1, 2, 4\]"),
        ({"in_channels": 720}, "in_channels of FCNHead are 720"),
        ({"aux_args": {"num_convs": 2}}, "auxiliary head"),
        ({"family": "mmseg/ASPPHead", "head_args": {"dilations": [6, 12]}}, "the first, and no other, must be 1"),
        (
            {"family": "mmseg/ANNHead", "head_args": {"project_channels": 8, "query_scales": [2]}},
            "fails with any but 1",
        ),
    ],
)
def test_what_this_project_does_not_have_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        mmseg_network_options(CASE | changes)


@pytest.mark.parametrize(
    ("head", "arguments"),
    [
        ("GCHead", {"pooling_type": "avg", "fusion_types": ["channel_mul", "channel_add"], "ratio": 0.125}),
        ("ANNHead", {"project_channels": 16, "query_scales": [1, 1], "key_pool_scales": [1, 2]}),
        ("PSPHead", {"pool_scales": [1, 2, 4, 5, 8]}),
        ("ASPPHead", {"dilations": [1, 6, 12, 18, 24]}),
        ("SNLHead", {"reduction": 4}),
        ("FCNHead", {"num_convs": 3, "dilation": 2, "kernel_size": 1, "concat_input": False}),
        ("NLHead", {"dilation": 2}),
    ],
)
def test_options_that_no_fixture_has_find_names_as_well(head, arguments):
    """Whatever a head's branches, every entry of the network has a published name, by which it can be filled."""
    if not FILES:
        pytest.skip("the lists of names are not there")
    case = CASE | {"family": f"mmseg/{head}", "depth": 18, "head_args": arguments, "channels": [32, 16]}
    with torch.device("meta"):
        network = build_segmentor(**mmseg_network_options(case))
    names = replay_golden.published_entries(case, network, convert_mmseg_network, replay_golden.find_key_lists(MORE))
    assert convert_mmseg_network(names).keys() == network.state_dict().keys()


def reference(x, layer, dilation):
    """A convolution, its norm in eval mode as it starts, and ReLU, in float64."""
    padding = dilation * (layer.conv.kernel_size[0] // 2)
    return (F.conv2d(x, layer.conv.weight, padding=padding, dilation=dilation) / (1 + 1e-5) ** 0.5).relu()


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_the_dilation_of_an_fcn_head_is_that_of_the_convolutions_before_the_join(kernel_size):
    torch.manual_seed(0)
    options = {"inner": 4, "width": 5, "dilation": 3, "kernel_size": kernel_size}
    head = FCNHead((6,), 3, **options).double().eval()
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    context = reference(reference(x, head.reduce, 3), head.refine, 3)
    expected = head.classifier(reference(torch.cat([x, context], 1), head.fuse, 1))
    torch.testing.assert_close(head([x]), expected)
    context_head = GlobalContextHead((6,), 3, embedding=2, **options).double().eval()
    assert context_head.reduce.conv.dilation == context_head.refine.conv.dilation == (3, 3)
    context_head.load_state_dict(head.state_dict(), strict=False)
    torch.testing.assert_close(context_head([x]), expected)  # a new block returns its input


def test_the_auxiliary_head_may_be_dilated_too():
    torch.manual_seed(0)
    head = AuxiliaryHead((6, 8), 3, stage=1, dilation=4).double().eval()
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(head([x, x]), head.classifier(reference(x, head.reduce, 4)))


@pytest.mark.parametrize("head", [FCNHead, AuxiliaryHead])
def test_a_dilation_below_1_is_refused(head):
    with pytest.raises(UserError, match="dilation is 0: it must be at least 1"):
        head((4, 6, 8, 12), 3, dilation=0)


@pytest.mark.parametrize("branches", [1, 2])
def test_asymmetric_blocks_without_redundant_biases_are_those_with_biases_of_0(branches):
    torch.manual_seed(0)
    low, high = (torch.randn(2, channels, 7, 6, dtype=torch.float64) for channels in (4, 6))
    for make, inputs in (
        (lambda **options: AsymmetricFusion(4, 6, **options), (low, high)),
        (lambda **options: AsymmetricPyramid(6, **options), (high,)),
    ):
        options = {"embedding": 3, "branches": branches, "pyramid": (1, 3)}
        plain, biased = (make(bias=bias, **options).double().eval() for bias in (False, True))
        for parameter in plain.parameters():
            torch.nn.init.normal_(parameter)
        state = plain.state_dict()
        missing = biased.load_state_dict(state, strict=False).missing_keys
        assert len(missing) == 1 + branches * (2 if make(bias=True).branches[0].query is not None else 1)
        for name in missing:
            biased.get_parameter(name).data.zero_()
        torch.testing.assert_close(plain(*inputs), biased(*inputs))
