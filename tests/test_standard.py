"""In operators that every runtime has, networks say what they say otherwise."""

import pytest
import torch
from test_block_properties import CASES, data, make
from torch import nn

from lib.models.blocks import BLOCKS
from lib.models.standard import adaptive_mean, by_blocks, inverse, plan_blocks, standard_operators


@pytest.mark.parametrize("name, options", CASES)
def test_blocks_say_what_they_say_otherwise(name, options):
    block = make(name, options).eval()
    x = data(2, 6, 9, 7)
    with torch.no_grad():
        expected = block(x)
        with plan_blocks(200) as counts:
            torch.testing.assert_close(block(x), expected, rtol=1e-7, atol=1e-7)
        with standard_operators(counts):
            torch.testing.assert_close(block(x), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("size, bins", [((7, 9), 3), ((8, 6), 8), ((3, 2), 6), ((5, 5), 1)])
def test_the_pyramids_means_are_torchs(size, bins):
    x = data(2, 3, *size)
    with standard_operators([]):
        actual = adaptive_mean(x, bins)
    torch.testing.assert_close(actual, nn.functional.adaptive_avg_pool2d(x, bins))


def test_maps_are_no_larger_than_what_is_allowed():
    seen = []

    def product(rows):
        seen.append(rows.shape[1])
        return 2 * rows

    # at most 5 queries of 10 keys, and 1 where not even one fits
    for queries, entries, most, blocks in ((23, 50, 5, 5), (25, 50, 5, 6), (5, 50, 5, 1), (23, 5, 1, 24)):
        query = data(2, queries, 4)
        with plan_blocks(entries) as counts:
            assert torch.equal(by_blocks(query, 10, product), 2 * query)
        assert counts == [blocks] and max(seen) == most
        seen.clear()


def test_the_inverse_is_that_of_float64():
    """Of eigenvalues 1 to 1000, with bases that are well and badly conditioned."""
    basis, values = torch.linalg.qr(data(3, 20, 20)).Q, torch.logspace(0, 3, 20, dtype=torch.float64)
    for scales in (torch.ones(20, dtype=torch.float64), 10 ** data(20)):
        vectors = scales[:, None] * basis
        expected = vectors @ torch.diag(1 / values) @ torch.linalg.inv(vectors)
        matrix = vectors @ torch.diag(values) @ torch.linalg.inv(vectors)
        torch.testing.assert_close(inverse(matrix), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [{"order": 1}, {"order": 3}, {"order": 2, "affinity": "relu"}])
def test_cayley_filters_of_any_weights_are_those_of_complex_numbers(options):
    for seed in range(20):
        torch.manual_seed(seed)
        block = BLOCKS["spectral"](8, unit="cayley", embedding=4, **options).eval()
        torch.nn.init.normal_(block.units[0].log_zoom)
        x = 2 * torch.randn(2, 8, 9, 13)
        with torch.no_grad():
            expected = block(x)
            with plan_blocks(200):
                actual = block(x)
        assert (actual - expected).abs().max() < 1e-4 * (expected.max() - expected.min())
