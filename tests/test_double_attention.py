"""Double attention equals the code that people use, written out position by position."""

import pytest
import torch
from block_fixtures import assert_replays, fixtures

from lib.models.blocks.double_attention import DoubleAttention
from lib.weights.spectral_blocks import DOUBLE_ATTENTION, double_attention_options


@pytest.mark.parametrize("file", fixtures("torchcv/a2block"))
def test_fixtures_replay(file):
    assert_replays(file, lambda case: DoubleAttention(**double_attention_options(case)), DOUBLE_ATTENTION)


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


def test_gradients_equal_finite_differences():
    block = make()
    inputs = (torch.randn(2, 6, 3, 4, dtype=torch.float64, requires_grad=True), *block.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: block(x), inputs, fast_mode=True)


def test_positions_have_no_order_and_images_no_neighbours():
    block, x, order = make(), torch.randn(2, 6, 3, 4, dtype=torch.float64), torch.randperm(12)
    out = block(x)
    shuffled = block(x.flatten(2)[..., order].view(x.shape)).flatten(2)
    torch.testing.assert_close(shuffled, out.flatten(2)[..., order])
    torch.testing.assert_close(block(x[1:]), out[1:])


@pytest.mark.parametrize(("dimensions", "shape"), [(1, (2, 6, 12)), (3, (2, 6, 2, 2, 3))])
def test_other_dimensions_equal_two(dimensions, shape):
    flat, other = make(), make(dimensions=dimensions)
    names = other.state_dict()
    other.load_state_dict({name: value.view(names[name].shape) for name, value in flat.state_dict().items()})
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(other(x.view(shape)), flat(x).view(shape))


def test_bfloat16_is_no_worse_than_written_out():
    torch.manual_seed(0)
    block, x = DoubleAttention(32), torch.randn(1, 32, 30, 30)
    block.output.weight.data *= 100  # the sums over positions are small
    truth = block.double()(x.double())
    half, x = block.bfloat16(), x.bfloat16()
    assert (half(x) - truth).norm() <= 1.1 * (written_out(half, x) - truth).norm()
