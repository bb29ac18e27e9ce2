"""Converting a network changes neither what it computes nor the names in its state dict."""

import copy

import pytest
import torch
from torch import nn

from exts.sync_bn import SyncBatchNorm, convert_sync_batchnorm
from lib.models import build_segmentor
from lib.models.backbones import resnet
from lib.models.common import ConvNormRelu


def norms(network: nn.Module) -> dict[str, str]:
    """The activation of each converted layer."""
    return {name: layer.activation for name, layer in network.named_modules() if isinstance(layer, SyncBatchNorm)}


def outputs_and_gradients(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """In training, then in evaluation with the statistics of that step."""
    network.train()
    network.zero_grad()
    outputs = network(x)
    sum(output.square().mean() for output in outputs).backward()
    with torch.no_grad():
        evaluated = network.eval()(x)
    return [*outputs, *evaluated, *(parameter.grad for parameter in network.parameters())]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("depth", [18, 50])
def test_a_network_computes_the_same_as_before(depth):
    original = resnet.ResNet(depth).double()
    network = convert_sync_batchnorm(copy.deepcopy(original))
    assert list(network.state_dict()) == list(original.state_dict())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    x = torch.randn(2, 3, 33, 33, dtype=torch.float64)
    for found, expected in zip(outputs_and_gradients(network, x), outputs_and_gradients(original, x), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(dict(network.state_dict()), dict(original.state_dict()))


def test_a_whole_segmentor_computes_the_same_as_before():
    head = {"name": "nonlocal", "dropout": 0.0, "block": {"name": "disentangled", "whitening": "layer"}}
    original = build_segmentor(num_classes=5, backbone={"name": "resnet18"}, head=head, aux={"dropout": 0.0})
    torch.nn.init.ones_(original.head.block.gamma)
    original.double()
    network, image = convert_sync_batchnorm(copy.deepcopy(original)), torch.randn(2, 3, 33, 33, dtype=torch.float64)
    assert list(network.state_dict()) == list(original.state_dict())
    for _ in range(2):
        found, expected = network(image), original(image)
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
        network.eval(), original.eval()


def test_every_relu_right_behind_a_norm_is_fused_and_no_other():
    activations = norms(convert_sync_batchnorm(resnet.ResNet(50)))
    unfused = [name for name, activation in activations.items() if activation == "none"]
    assert all("bn3" in name or "downsample" in name for name in unfused)
    assert len(unfused) == 16 + 4 and len(activations) == 3 + 3 * 16 + 4


def test_relu_is_fused_in_a_sequence_where_it_comes_next():
    network = nn.Sequential(
        nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()),
        nn.Sequential(nn.BatchNorm2d(3), nn.LeakyReLU(0.3)),
        nn.Sequential(nn.BatchNorm2d(3), nn.ReLU6()),
        nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.0), nn.ReLU()),
        ConvNormRelu(3, 3),
    )
    x = torch.randn(2, 3, 5, 5)
    expected = copy.deepcopy(network)(x)
    convert_sync_batchnorm(network)
    assert list(norms(network).values()) == ["relu", "leaky_relu", "none", "none", "relu"]
    assert network[1][0].slope == 0.3
    torch.testing.assert_close(network(x), expected)


def test_a_relu_that_something_else_might_need_is_left_alone():
    class Branching(nn.Sequential):
        def forward(self, x):
            y = self[0](x)
            return y + self[1](y)

    shared, watched = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    seen = []
    hooked = nn.Sequential(watched, nn.ReLU())
    hooked[1].register_forward_hook(lambda layer, inputs, output: seen.append(inputs))
    network = nn.Sequential(
        Branching(nn.BatchNorm1d(3), nn.ReLU()), nn.Sequential(shared, nn.ReLU()), nn.Sequential(shared), hooked
    )
    x = torch.randn(4, 3)
    expected = copy.deepcopy(network)(x)
    convert_sync_batchnorm(network)
    assert set(norms(network).values()) == {"none"}
    assert network[1][0] is network[2][0]
    torch.testing.assert_close(network(x), expected)
    assert seen


def test_parameters_stay_the_optimisers_and_settings_are_kept():
    norm = nn.BatchNorm3d(4, eps=1e-3, momentum=None, affine=True).double().eval()
    norm.bias.requires_grad_(False)
    network = nn.ModuleDict({"norm": norm})
    convert_sync_batchnorm(network)
    converted = network["norm"]
    assert converted.weight is norm.weight and converted.running_var is norm.running_var
    assert (converted.eps, converted.momentum, converted.training) == (1e-3, None, False)
    assert not converted.bias.requires_grad and converted.weight.dtype == torch.float64


def test_one_norm_by_itself_is_converted_and_a_second_time_changes_nothing():
    converted = convert_sync_batchnorm(nn.SyncBatchNorm(4))
    assert type(converted) is SyncBatchNorm
    assert convert_sync_batchnorm(converted) is converted
    network = convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()))
    first = network[0]
    assert convert_sync_batchnorm(network)[0] is first and first.activation == "relu"


def test_converted_networks_can_be_copied():
    network = convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()))
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(copy.deepcopy(network)(x), network(x))
