"""Pre-activation ResNets have the paper's sizes and shortcuts that nothing stands in."""

import pytest
import torch
import torch.nn.functional as F

from lib.base.errors import UserError
from lib.models.backbones.preact_resnet import PreActivationResNet, PreActivationUnit


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_sizes_are_those_of_the_cifar_networks(depth, millions):
    # table 6 of He et al., "Deep Residual Learning for Image Recognition"; the classifier has 650 parameters
    count = sum(parameter.numel() for parameter in PreActivationResNet(depth).parameters()) + 650
    assert count / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize(("bottleneck", "channels"), [(False, (16, 32, 64)), (True, (64, 128, 256))])
def test_stages_halve_the_resolution(bottleneck, channels):
    network = PreActivationResNet(20, bottleneck=bottleneck).eval()
    assert network.channels == channels
    outputs = network(torch.randn(2, 3, 32, 32))
    assert [output.shape for output in outputs] == [
        (2, width, size, size) for width, size in zip(channels, (32, 16, 8), strict=True)
    ]
    assert outputs[2].min() == 0 > outputs[1].min()


@pytest.mark.parametrize("expansion", [1, 4])
def test_a_unit_adds_to_its_input_what_follows_norm_and_relu(expansion):
    torch.manual_seed(0)
    unit = PreActivationUnit(8 * expansion, 8, expansion=expansion, stride=1).double().eval()
    for layer in unit.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    x = out = torch.randn(2, 8 * expansion, 5, 6, dtype=torch.float64)
    for norm, _, conv in unit.residual:
        out = (out - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + 1e-5).sqrt()
        out = F.conv2d(out.clamp(min=0), conv.weight, padding=conv.kernel_size[0] // 2)
    torch.testing.assert_close(unit(x), x + out)


def test_the_gradient_passes_a_network_whose_units_are_silent():
    network = PreActivationResNet(20)
    for layer in (network.layer1, network.layer2, network.layer3):
        for unit in layer:
            torch.nn.init.zeros_(unit.residual[-1][2].weight)
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(network(image)[0], network.stem(image))
    network(image)[2].sum().backward()
    assert network.stem.weight.grad.abs().sum() > 0


def test_other_depths_are_refused():
    with pytest.raises(UserError, match="depth"):
        PreActivationResNet(18)
