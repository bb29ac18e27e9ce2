"""The compact generalized block equals attention between all pairs of entries, written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from lib.base.errors import UserError
from lib.models.blocks.compact_generalized import CompactGeneralizedNonLocal

OPTIONS = [
    {},
    {"groups": 2, "order": 1},
    {"groups": 2, "order": 3, "gamma": 0.3},
    {"order": 4, "gamma": 0.2, "scale": True},
    {"kernel": "dot", "groups": 2},
    {"kernel": "dot", "scale": True},
]


def make(**options):
    torch.manual_seed(0)
    block = CompactGeneralizedNonLocal(8, embedding=4, **options).double()
    torch.nn.init.normal_(block.norm.weight, mean=1.0)
    return block


def written_out(block, x, *, groups=1, kernel="rbf", order=2, gamma=1e-4, scale=False):
    """Each entry of a group attends to each other one."""
    query, key, value = (layer(x).chunk(groups, dim=1) for layer in (block.query, block.key, block.value))
    context = []
    for t, p, g in zip(query, key, value, strict=True):
        products = t.flatten(1)[:, :, None] * p.flatten(1)[:, None, :]
        if kernel == "rbf":
            terms = [(2 * gamma * products) ** k / math.factorial(k) for k in range(order + 1)]
            products = sum(terms) * math.exp(-2 * gamma)
        if scale:
            products = products / products.shape[1] ** 0.5
        context.append((products @ g.flatten(1)[:, :, None]).view(t.shape))
    context = F.conv2d(torch.cat(context, dim=1), block.output.weight, groups=groups)
    return x + F.group_norm(context, groups, block.norm.weight, block.norm.bias)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("size", [(3, 4), (1, 2), (6, 5)])
def test_output_is_the_formula(options, size):
    block, x = make(**options), torch.randn(2, 8, *size, dtype=torch.float64)
    torch.testing.assert_close(block(x), written_out(block, x, **options), rtol=1e-7, atol=1e-8)


def test_a_high_order_approaches_the_gaussian_kernel():
    block, x = make(order=12, gamma=0.1), torch.randn(1, 8, 2, 3, dtype=torch.float64)
    query, key, value = (layer(x).flatten(1) for layer in (block.query, block.key, block.value))
    # exp(-gamma |t - p|^2) for |t| = |p| = 1
    kernel = torch.exp(0.2 * (query[:, :, None] * key[:, None, :] - 1))
    context = F.conv2d((kernel @ value[:, :, None]).view(1, 4, 2, 3), block.output.weight)
    expected = x + F.group_norm(context, 1, block.norm.weight, block.norm.bias)
    torch.testing.assert_close(block(x), expected, rtol=1e-6, atol=1e-6)


def test_a_new_block_gives_its_input():
    x = torch.randn(1, 8, 5, 5)
    torch.testing.assert_close(CompactGeneralizedNonLocal(8)(x), x)


def test_autocast_keeps_what_varies_about_the_constant_term():
    torch.manual_seed(0)
    block = CompactGeneralizedNonLocal(32, groups=4)
    torch.nn.init.ones_(block.norm.weight)
    x = torch.randn(2, 32, 12, 12)

    def varying(out):
        context = out - x
        return context - context.mean((2, 3), keepdim=True)

    expected = varying(block(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = varying(block(x))
    assert (ours - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("options", [{"groups": 3}, {"groups": 0}, {"order": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError):
        CompactGeneralizedNonLocal(8, **options)
