"""What the benchmark of the blocks compares with is what the blocks compute."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "bench"))

import blocks as bench

from lib.models.blocks import BLOCKS


@pytest.mark.parametrize("name", bench.CASES)
def test_written_out_formulas_give_what_the_blocks_give(name):
    torch.manual_seed(0)
    case = bench.CASES[name]
    options = {"high_channels": 16} if case.inputs == 2 else {}
    block = case.build(16, **options).double().eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    inputs = [torch.randn(2, 16, 5, 6, dtype=torch.float64) for _ in range(case.inputs)]
    ours, expected = block(*inputs), case.formula(block, *inputs)
    assert (ours - inputs[-1]).abs().max() > 1e-3
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-8)


def test_every_block_is_measured():
    measured = {getattr(case.build, "func", case.build) for case in bench.CASES.values()}
    assert measured >= set(BLOCKS.values())
