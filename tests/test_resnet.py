"""ResNets equal torchvision's, and dilation changes where features are computed, never what they are."""

import pytest
import torch
import torchvision

from lib.base.errors import UserError
from lib.models.backbones import BACKBONES
from lib.models.backbones.resnet import ResNet
from lib.weights.names import RESNET, rename

IMAGE = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def with_statistics(network):
    """Give batch norms something to do: running statistics other than 0 and 1."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def stages(theirs, image):
    """The outputs of the stages of torchvision's network."""
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    outputs = []
    for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        x = layer(x)
        outputs.append(x)
    return outputs


def plain(depth, state, **options):
    """Ours with torchvision's weights."""
    ours = ResNet(depth, stem="plain", ceil_mode=False, **options).eval()
    renamed, classifier = rename(state, RESNET)
    assert classifier == ["fc.weight", "fc.bias"]
    ours.load_state_dict(renamed)
    return ours


@torch.no_grad()
@pytest.mark.parametrize("depth", [18, 34, 50])
def test_features_equal_those_of_torchvision(depth):
    theirs = with_statistics(getattr(torchvision.models, f"resnet{depth}")(weights=None))
    ours = plain(depth, theirs.state_dict(), output_stride=32)
    torch.testing.assert_close(ours(IMAGE), stages(theirs, IMAGE), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", [101, 152])
def test_deep_networks_have_the_parameters_of_torchvision(depth):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None)
        plain(depth, theirs.state_dict(), output_stride=32)


@torch.no_grad()
@pytest.mark.parametrize(("output_stride", "dilated"), [(8, [False, True, True]), (16, [False, False, True])])
def test_dilation_equals_that_of_torchvision(output_stride, dilated):
    theirs = with_statistics(torchvision.models.resnet50(weights=None, replace_stride_with_dilation=dilated))
    ours = plain(50, theirs.state_dict(), output_stride=output_stride)
    torch.testing.assert_close(ours(IMAGE), stages(theirs, IMAGE), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("depth", [18, 50])
def test_a_dilated_network_computes_the_same_features_more_densely(depth):
    coarse = with_statistics(ResNet(depth, output_stride=32))
    fine = ResNet(depth, output_stride=8).eval()
    fine.load_state_dict(coarse.state_dict())
    image = torch.randn(1, 3, 129, 97)
    torch.testing.assert_close(fine(image)[3][..., ::4, ::4], coarse(image)[3], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in BACKBONES if name.startswith("resnet")])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_channels_and_strides_are_as_announced(name, output_stride):
    with torch.device("meta"):
        backbone = BACKBONES[name](output_stride=output_stride)
        outputs = backbone(torch.empty(1, 3, 65, 129))
    assert tuple(output.shape[1] for output in outputs) == backbone.channels
    strides = [min(stride, output_stride) for stride in (4, 8, 16, 32)]
    assert [tuple(output.shape[2:]) for output in outputs] == [
        (64 // stride + 1, 128 // stride + 1) for stride in strides
    ]


def dilations(depth, **options):
    """Those of the 3x3 convolutions of stage 4, in order."""
    with torch.device("meta"):
        layers = ResNet(depth, **options).layer4.modules()
    return [layer.dilation[0] for layer in layers if getattr(layer, "kernel_size", None) == (3, 3)]


def test_multi_grid_multiplies_the_dilation_of_the_last_stage():
    # the first convolution gave up its stride: half of 4 x 1
    assert dilations(50, output_stride=8, multi_grid=(1, 2, 4)) == [2, 8, 16]
    assert dilations(50, output_stride=16, multi_grid=(2, 2, 2)) == [2, 4, 4]


def test_contraction_spares_the_convolution_that_gave_up_its_stride():
    assert dilations(50, output_stride=8) == [2, 4, 4]
    assert dilations(50, output_stride=8, contract_dilation=False) == [4, 4, 4]


def test_mmsegmentations_basic_blocks_dilate_their_first_convolution_only():
    assert dilations(18, output_stride=8, dilate_second=False) == [2, 1, 4, 1]
    assert dilations(18, output_stride=8) == [2, 4, 4, 4]


@pytest.mark.parametrize(("stem", "widths"), [("deep", [64, 64, 128]), ("v1c", [32, 32, 64]), ("plain", [64])])
def test_stems_have_the_published_widths(stem, widths):
    network = ResNet(18, stem=stem)
    assert [layer.conv.out_channels for layer in network.stem] == widths
    assert network.layer1[0].conv1.in_channels == widths[-1]


def test_torchcv_rounds_the_stem_pooling_up():
    with torch.device("meta"):
        sizes = [ResNet(18, ceil_mode=mode)(torch.empty(1, 3, 64, 64))[0].shape[2] for mode in (True, False)]
    assert sizes == [17, 16]


@pytest.mark.parametrize(
    ("depth", "options", "named"),
    [
        (20, {}, "depth 20"),
        (50, {"stem": "thin"}, "stem"),
        (50, {"output_stride": 4}, "output_stride"),
        (50, {"multi_grid": (1, 2)}, "multi_grid"),
        (50, {"multi_grid": (1, 2, 4), "output_stride": 32}, "multi_grid"),
    ],
)
def test_impossible_options_are_refused_by_name(depth, options, named):
    with pytest.raises(UserError, match=named):
        ResNet(depth, **options)
