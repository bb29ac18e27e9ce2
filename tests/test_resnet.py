"""ResNets equal torchvision's where both exist, and their dilation is the arithmetic it replaces."""

import pytest
import torch
import torchvision

from lib.errors import UserError
from lib.models.backbones.resnet import ResNet
from lib.weights.names import RESNET, rename


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def dilations(network, stage):
    """Those of the 3x3 convolutions of a stage, in order."""
    layers = getattr(network, f"layer{stage}").modules()
    return [layer.dilation[0] for layer in layers if getattr(layer, "kernel_size", None) == (3, 3)]


@pytest.mark.parametrize(
    ("depth", "stride"), [(18, 32), (50, 32), pytest.param(50, 8, marks=pytest.mark.filterwarnings("ignore"))]
)
def test_a_plain_stem_makes_torchvisions_network(depth, stride):
    dilated = [False, stride == 8, stride == 8]
    theirs = getattr(torchvision.models, f"resnet{depth}")(
        replace_stride_with_dilation=dilated if stride == 8 else None
    )
    ours = ResNet(depth, stem="plain", output_stride=stride, ceil_mode=False)
    state, _ = rename(theirs.state_dict(), RESNET)
    ours.load_state_dict(state)
    image = torch.randn(1, 3, 45, 64)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    for layer, output in zip(("layer1", "layer2", "layer3", "layer4"), ours(image), strict=True):
        x = getattr(theirs, layer)(x)
        torch.testing.assert_close(output, x)


@pytest.mark.parametrize("depth", [18, 50])
def test_a_dilated_network_computes_the_strided_one_at_more_places(depth):
    dense, strided = ResNet(depth, output_stride=8).eval(), ResNet(depth, output_stride=32).eval()
    strided.load_state_dict(dense.state_dict())
    image = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        torch.testing.assert_close(dense(image)[3][:, :, ::4, ::4], strided(image)[3], rtol=1e-3, atol=1e-4)


def test_contraction_spares_the_convolution_that_gave_up_its_stride():
    assert dilations(ResNet(50, output_stride=8), 4) == [2, 4, 4]
    assert dilations(ResNet(50, output_stride=8, contract_dilation=False), 4) == [4, 4, 4]
    assert dilations(ResNet(50, output_stride=8, contract_dilation=False), 3) == [2] * 6


def test_mmsegmentations_basic_blocks_dilate_their_first_convolution_only():
    assert dilations(ResNet(18, output_stride=8, dilate_second=False), 4) == [2, 1, 4, 1]
    assert dilations(ResNet(18, output_stride=8), 4) == [2, 4, 4, 4]


@pytest.mark.parametrize(("stem", "widths"), [("deep", [64, 64, 128]), ("v1c", [32, 32, 64]), ("plain", [64])])
def test_stems_have_the_published_widths(stem, widths):
    network = ResNet(18, stem=stem)
    assert [layer.conv.out_channels for layer in network.stem] == widths
    assert network.layer1[0].conv1.in_channels == widths[-1]


@pytest.mark.parametrize(("ceil_mode", "size"), [(True, 13), (False, 12)])
def test_ceil_mode_decides_how_pooling_rounds(ceil_mode, size):
    # 48 pixels are 24 after the stem: pooling by 2 with a border of 1 fits 12.5 times
    assert ResNet(18, ceil_mode=ceil_mode)(torch.zeros(1, 3, 48, 48))[0].shape == (1, 64, size, size)


@pytest.mark.parametrize("options", [{"stem": "v1d"}, {"output_stride": 4}, {"multi_grid": (1,)}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError):
        ResNet(18, **options)
