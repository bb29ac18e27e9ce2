"""The attention core equals the formula, at the plain formula's accuracy, in memory linear in the positions."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lib.models.blocks import attention
from lib.models.blocks.attention import attend, attention_rows

ROOT = Path(__file__).resolve().parents[1]


def formula(query, key, value, scale=1.0):
    return torch.softmax(scale * query @ key.transpose(1, 2), dim=2) @ value


def make(batch, queries, keys, width, value_width, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, queries, width), (batch, keys, width), (batch, keys, value_width))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(
    ("batch", "queries", "keys", "width", "value_width"),
    [(2, 200, 200, 8, 16), (1, 1, 50, 4, 4), (1, 130, 1, 4, 6), (3, 129, 70, 5, 3), (1, 64, 300, 16, 16)],
)
def test_output_and_gradients_equal_the_formula(monkeypatch, batch, queries, keys, width, value_width):
    monkeypatch.setattr(attention, "CHUNK_ENTRIES", 1)  # the fewest rows a chunk can have, 64
    tensors = make(batch, queries, keys, width, value_width)
    cotangent = torch.randn(batch, queries, value_width, dtype=torch.float64)
    out, expected = attend(*tensors, scale=0.7), formula(*tensors, scale=0.7)
    torch.testing.assert_close(out, expected)
    ours = torch.autograd.grad(out, tensors, cotangent)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, tensors, cotangent))


def test_gradients_equal_finite_differences(monkeypatch):
    monkeypatch.setattr(attention, "CHUNK_ENTRIES", 1)
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, scale=0.5), make(1, 66, 4, 2, 2))


def test_transposed_layouts_give_the_same(monkeypatch):
    monkeypatch.setattr(attention, "CHUNK_ENTRIES", 1)
    rows = make(1, 100, 100, 8, 8)
    columns = [tensor.detach().mT.contiguous().mT.requires_grad_() for tensor in rows]
    for tensors in (rows, columns):
        attend(*tensors).square().sum().backward()
    torch.testing.assert_close([tensor.grad for tensor in rows], [tensor.grad for tensor in columns])


def test_bfloat16_is_as_accurate_as_the_plain_formula():
    tensors = make(1, 600, 600, 64, 32, torch.bfloat16)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = formula(*exact, scale=0.1)
    cotangent = torch.randn(expected.shape)
    wanted = (expected, *torch.autograd.grad(expected, exact, cotangent.double()))

    def errors(function):
        out = function(*tensors, scale=0.1)
        got = (out, *torch.autograd.grad(out, tensors, cotangent.bfloat16()))
        return torch.stack([(a - b).norm() / b.norm() for a, b in zip(got, wanted, strict=True)])

    assert (errors(attend) <= 1.1 * errors(formula)).all()


def test_a_second_derivative_is_refused_not_wrong():
    query, key, value = make(1, 4, 4, 2, 2)
    (gradient,) = torch.autograd.grad(attend(query, key, value).square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="autograd"):
        gradient.sum().backward()


def test_other_devices_than_the_cpu_keep_the_shapes():
    query, key, value = (tensor.to("meta") for tensor in make(2, 30, 40, 8, 16, torch.float32))
    assert attend(query, key, value, scale=0.5).shape == (2, 30, 16)


def test_fused_kernels_are_given_rows_whose_entries_lie_side_by_side(monkeypatch):
    seen = []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *heads, scale: seen.extend(heads) or heads[2])
    columns = [tensor.to("meta").mT.contiguous().mT for tensor in make(2, 30, 30, 8, 16, torch.float32)]
    attend(*columns)
    assert [head.stride(-1) for head in seen] == [1, 1, 1]


def test_chosen_rows_are_those_of_the_whole_map():
    query, key, _ = make(2, 30, 40, 8, 8, torch.float32)
    whole = torch.softmax(0.3 * query.double() @ key.double().mT, dim=2)
    rows = attention_rows(query[:, [3, 17]], key, scale=0.3)
    torch.testing.assert_close(rows.double(), whole[:, [3, 17]], rtol=1e-5, atol=1e-7)


MEMORY_PROBE = """
import sys, torch
from lib.models.blocks.attention import attend
torch.set_num_threads(1)
def use(n):
    tensors = [torch.randn(1, n, 16, requires_grad=True) for _ in range(3)]
    attend(*tensors).sum().backward()
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
use(256)
before = peak()
use(int(sys.argv[1]))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_square_of_the_positions():
    positions = 12_000
    command = [sys.executable, "-c", MEMORY_PROBE, str(positions)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    one_map = positions**2 * 4
    assert one_map / 1000 < int(printed) < one_map / 4
