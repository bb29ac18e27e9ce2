"""The unary block adds one softmax-weighted mean of values to every position."""

import pytest
import torch

from lib.models.blocks.unary import Unary


def make(**options):
    """A block in float64 with random parameters (they start near 0)."""
    torch.manual_seed(0)
    block = Unary(6, embedding=4, **options).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return block


def data(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("output_conv", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (7, 5)])
def test_output_is_the_formula(size, output_conv):
    block, x = make(output_conv=output_conv), data(2, 6, *size)
    expected = []
    for image in x.flatten(2):
        logits = (block.mask.weight.flatten() @ image + block.mask.bias).tolist()
        weights = torch.tensor(logits, dtype=torch.float64).exp()
        term = block.value.weight.flatten(1) @ (image @ weights / weights.sum())
        if output_conv:
            term = block.output.weight.flatten(1) @ (term + block.value.bias)
        expected.append(image + term[:, None])
    torch.testing.assert_close(block(x), torch.stack(expected).view_as(x))


def test_every_position_receives_the_same():
    block, x = make(subsample=True), data(2, 6, 4, 4)
    added = (block(x) - x).flatten(2)
    torch.testing.assert_close(added, added[..., :1].expand_as(added))
