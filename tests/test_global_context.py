"""The global context block pools, transforms and fuses as its paper says and its code does."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from lib.base.errors import UserError
from lib.models.blocks.global_context import GlobalContext

OPTIONS = [
    {"pooling": pooling, "add": add, "multiply": multiply, "layers": layers}
    for pooling, (add, multiply), layers in itertools.product(
        ("attention", "average"), ((True, False), (False, True), (True, True)), (1, 2)
    )
]


def make(**options):
    """A block in float64 with random parameters (they start at 0)."""
    torch.manual_seed(0)
    block = GlobalContext(8, embedding=3, **options).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return block


def data(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def transform(branch, context):
    """B x C -> B x C with the parameters of a branch, written as matrices."""

    def apply(layer, z):
        return z @ layer.weight.flatten(1).T + layer.bias

    z = apply(branch.conv, context)
    z = (z - z.mean(1, keepdim=True)) / (z.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    z = z * branch.norm.weight.flatten() + branch.norm.bias.flatten()
    return apply(branch.expand, F.relu(z)) if hasattr(branch, "expand") else z


@pytest.mark.parametrize("options", OPTIONS)
def test_output_is_the_formula(options):
    block, x = make(**options), data(2, 8, 3, 5)
    flat = x.flatten(2)
    context = flat.mean(2)
    if options["pooling"] == "attention":
        weights = torch.softmax(torch.einsum("c,bcn->bn", block.mask.weight.flatten(), flat), dim=1)
        context = torch.einsum("bcn,bn->bc", flat, weights)  # the bias of the mask cancels
    expected = flat
    if options["multiply"]:
        expected = expected * torch.sigmoid(transform(block.multiply, context))[:, :, None]
    if options["add"]:
        expected = expected + transform(block.add, context)[:, :, None]
    torch.testing.assert_close(block(x), expected.view_as(x))


@pytest.mark.parametrize("layers", [1, 2])
def test_a_new_block_returns_its_input_halved_where_it_multiplies(layers):
    x = torch.randn(2, 8, 3, 4)
    torch.testing.assert_close(GlobalContext(8, layers=layers)(x), x)
    torch.testing.assert_close(GlobalContext(8, multiply=True, layers=layers)(x), x / 2)


def test_autocast_and_channels_last_stay_close_to_float32():
    block, x = make(multiply=True).float(), data(2, 8, 12, 12).float()
    expected = block(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = block(x.to(memory_format=torch.channels_last))
    assert (out - expected).norm() < 0.02 * (expected - x).norm()


@pytest.mark.parametrize("options", [{"add": False}, {"pooling": "max"}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError):
        GlobalContext(8, **options)
