"""MobileNetV2 equals torchvision's, and its dilation is the published one."""

import pytest
import torch
import torchvision

from lib.base.errors import UserError
from lib.models.backbones.mobilenet import MobileNetV2


def randomise_norms(network):
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, std=0.2)


def test_with_all_its_strides_it_is_torchvisions_network():
    torch.manual_seed(0)
    theirs, ours = torchvision.models.mobilenet_v2().features[:-1].eval(), MobileNetV2(output_stride=32).eval()
    randomise_norms(theirs)
    # both list their layers in the order in which they run
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(1, 3, 65, 96)
    outputs = iter(ours(x))
    for index, unit in enumerate(theirs):
        x = unit(x)
        if index in (3, 6, 14, 17):
            torch.testing.assert_close(next(outputs), x)


@pytest.mark.parametrize(
    ("output_stride", "dilations", "strides"),
    [
        (8, [1] * 6 + [2] * 7 + [4] * 4, (4, 8, 8, 8)),
        (16, [1] * 13 + [2] * 4, (4, 8, 16, 16)),
        (32, [1] * 17, (4, 8, 32, 32)),
    ],
)
def test_units_after_a_stride_given_up_are_dilated(output_stride, dilations, strides):
    network = MobileNetV2(output_stride=output_stride)
    assert [unit.depthwise.conv.dilation[0] for unit in network.units] == dilations
    outputs = network(torch.zeros(2, 3, 64, 96))
    assert network.channels == (24, 32, 160, 320)
    for output, channels, stride in zip(outputs, network.channels, strides, strict=True):
        assert output.shape == (2, channels, 64 // stride, 96 // stride)


def test_other_output_strides_are_refused():
    with pytest.raises(UserError, match="output_stride"):
        MobileNetV2(output_stride=4)
