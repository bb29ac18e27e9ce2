"""Criss-cross attention equals the paper's formula, one position at a time."""

import pytest
import torch

from lib.base.errors import UserError
from lib.models.blocks.criss_cross import CrissCrossAttention


def make(**options):
    torch.manual_seed(0)
    block = CrissCrossAttention(6, embedding=4, **options).double()
    torch.nn.init.constant_(block.gamma, 0.7)
    return block


def one_pass(block, x):
    query, key, value = block.query(x), block.key(x), block.value(x)
    out = x.clone()
    for image in range(x.shape[0]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                cross = [(i, column) for column in range(x.shape[3])] + [
                    (row, j) for row in range(x.shape[2]) if row != i
                ]
                affinity = torch.stack([query[image, :, i, j] @ key[image, :, r, c] for r, c in cross])
                values = torch.stack([value[image, :, r, c] for r, c in cross])
                out[image, :, i, j] += block.gamma[0] * (affinity.softmax(dim=0) @ values)
    return out


@pytest.mark.parametrize("size", [(3, 5), (4, 1), (1, 4), (1, 1)])
@pytest.mark.parametrize("recurrence", [1, 2])
def test_output_is_the_formula(size, recurrence):
    block, x = make(recurrence=recurrence), torch.randn(2, 6, *size, dtype=torch.float64)
    expected = x
    for _ in range(recurrence):
        expected = one_pass(block, expected)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("recurrence", "seen"), [(1, 3 + 4 - 1), (2, 12)])
def test_two_passes_see_every_position(recurrence, seen):
    block = make(recurrence=recurrence)
    x = torch.randn(1, 6, 3, 4, dtype=torch.float64, requires_grad=True)
    block(x)[0, :, 1, 2].sum().backward()
    assert x.grad.abs().sum(1).gt(0).sum() == seen


def test_chosen_rows_are_those_of_one_pass():
    block, x = make(recurrence=1), torch.randn(2, 6, 3, 5, dtype=torch.float64)
    rows = block.affinity_rows(x, range(15)).double()
    context = rows @ block.value(x).flatten(2).mT
    torch.testing.assert_close(one_pass(block, x) - x, 0.7 * context.mT.view_as(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(block.affinity_rows(x, [7, 2]).double(), rows[:, [7, 2]])


def test_a_new_block_gives_its_input():
    x = torch.randn(1, 16, 5, 4)
    torch.testing.assert_close(CrissCrossAttention(16)(x), x)


def test_rows_and_columns_have_no_order_and_images_no_neighbours():
    block, x = make(), torch.randn(2, 6, 4, 5, dtype=torch.float64)
    rows, columns = torch.randperm(4), torch.randperm(5)
    out = block(x)
    torch.testing.assert_close(block(x[:, :, rows][..., columns]), out[:, :, rows][..., columns])
    torch.testing.assert_close(block(x.mT), out.mT)
    torch.testing.assert_close(block(x[1:]), out[1:])


def test_autocast_and_channels_last_stay_close_to_float32():
    torch.manual_seed(0)
    block, x = CrissCrossAttention(32), torch.randn(2, 32, 9, 12)
    torch.nn.init.ones_(block.gamma)
    expected = block(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = block(x.to(memory_format=torch.channels_last))
    assert (out - expected).norm() < 0.02 * (expected - x).norm()


def test_no_pass_is_refused():
    with pytest.raises(UserError):
        CrissCrossAttention(8, recurrence=0)
