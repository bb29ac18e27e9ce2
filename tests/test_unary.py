"""The unary block adds one softmax-weighted mean of values to every position, as published."""

import pytest
import torch
from block_fixtures import assert_replays, fixtures

from lib.models.blocks.unary import Unary
from lib.weights.nonlocal_blocks import UNARY, unary_options


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


@pytest.mark.parametrize("options", [{}, {"subsample": True}, {"output_conv": True, "output_norm": True}])
def test_gradients_equal_finite_differences(options):
    block, x = make(**options), data(2, 6, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda *_: block(x), (x, *block.parameters()), fast_mode=True)


@pytest.mark.parametrize(("dimensions", "shape"), [(1, (2, 6, 12)), (3, (2, 6, 1, 3, 4))])
def test_other_dimensions_equal_two(dimensions, shape):
    flat, other = make(), make(dimensions=dimensions)
    shapes = other.state_dict()
    other.load_state_dict({name: value.view(shapes[name].shape) for name, value in flat.state_dict().items()})
    x = data(2, 6, 3, 4)
    torch.testing.assert_close(other(x.view(shape)), flat(x).view(shape))


def test_positions_have_no_order_and_images_no_neighbours():
    block, x, order = make(), data(3, 6, 12), torch.randperm(12)
    out = block(x.view(3, 6, 3, 4)).flatten(2)
    torch.testing.assert_close(block(x[..., order].view(3, 6, 3, 4)).flatten(2), out[..., order])
    torch.testing.assert_close(torch.cat([block(image.view(1, 6, 3, 4)) for image in x]).flatten(2), out)


def test_every_position_receives_the_same():
    block, x = make(subsample=True), data(2, 6, 4, 4)
    added = (block(x) - x).flatten(2)
    torch.testing.assert_close(added, added[..., :1].expand_as(added))


# The family's name is also that of a network.
@pytest.mark.parametrize("file", [case for case in fixtures("torchcv/unary") if not str(case.id).startswith("net_")])
def test_torchcv_fixture_is_replayed(file):
    assert_replays(file, lambda case: Unary(case["inplanes"], **unary_options(case)), UNARY)
