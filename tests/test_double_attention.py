"""Double attention equals the code that people use, written out position by position."""

import pytest
import torch

from lib.models.blocks.double_attention import DoubleAttention


def make(**options):
    torch.manual_seed(0)
    return DoubleAttention(6, embedding=4, **options).double()


def written_out(block, x):
    """Through the N x N attention map d^T a, which no order of the products but this one needs."""
    flat = x.flatten(2)

    def conv(layer, z):
        return torch.einsum("oc,bcn->bon", layer.weight.flatten(1), z) + layer.bias[:, None]

    features, gather, distribute = (conv(layer, flat) for layer in (block.features, block.gather, block.distribute))
    gather, distribute = (z.exp() / z.exp().sum(2, keepdim=True) for z in (gather, distribute))
    attention = torch.einsum("bin,bim->bnm", distribute, features)
    context = torch.einsum("bnm,bjm->bjn", attention, gather)
    return (flat + conv(block.output, context)).view(x.shape)


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (9, 7)])
def test_output_is_the_formula(size):
    block, x = make(), torch.randn(2, 6, *size, dtype=torch.float64)
    torch.testing.assert_close(block(x), written_out(block, x))


def test_bfloat16_is_no_worse_than_written_out():
    torch.manual_seed(0)
    block, x = DoubleAttention(32), torch.randn(1, 32, 30, 30)
    block.output.weight.data *= 100  # the sums over positions are small
    truth = block.double()(x.double())
    half, x = block.bfloat16(), x.bfloat16()
    assert (half(x) - truth).norm() <= 1.1 * (written_out(half, x) - truth).norm()
