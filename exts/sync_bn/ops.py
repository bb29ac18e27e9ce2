"""The operators ``torch.ops.sync_bn``: kernels, collectives, shapes for tracing, and gradients.

x is N x C x ..., contiguous or channels-last; C vectors and statistics are float64 whatever x is, which costs nothing
at C numbers and leaves no error of the mean in the output. A row of statistics is [mean..., M2..., count] of 2C + 1
numbers, M2 the sum of squared deviations from the mean. ``slope`` says what the activation does to negative numbers:
1 nothing, 0 ReLU, else leaky ReLU. ``group`` is a process group's name, or "" for this process alone.

    statistics      x -> row
    gather          row -> W rows, one of each process, in one collective
    finish          rows -> mean, 1 / sqrt(var + eps), count over all rows; updates the running statistics by
                    ``momentum``, or by 1 / ``batches`` where it is None
    normalise       -> activation((x - mean) invstd weight + bias); differentiable. With ``count``, mean and invstd are
                    functions of x, as they came from ``finish``; without, constants
    normalise_      the same, in place
    sums            -> [sum of d, sum of d times normalised x], d the gradient at the activation's input
    reduce          sums -> their sum over the processes, in one collective
    input_gradient  -> the gradient of x, from ``total``, the reduced sums, and ``count``

The last three read what the forward pass saved: x, or with ``from_output`` its output, from which they recover x.
"""

from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from exts.sync_bn import formulas
from exts.sync_bn.build import library_path

VECTORS = "Tensor? weight, Tensor? bias, Tensor mean, Tensor invstd"
SCHEMAS = {
    "statistics": "(Tensor x) -> Tensor",
    "gather": "(Tensor row, str group) -> Tensor",
    "finish": "(Tensor rows, float eps, Tensor(a!)? running_mean, Tensor(b!)? running_var, float? momentum, "
    "Tensor? batches) -> (Tensor, Tensor, Tensor)",
    "normalise": f"(Tensor x, {VECTORS}, Tensor? count, float slope, str group) -> Tensor",
    "normalise_": f"(Tensor(a!) x, {VECTORS}, float slope) -> ()",
    "sums": f"(Tensor grad, Tensor saved, {VECTORS}, float slope, bool from_output) -> Tensor",
    "reduce": "(Tensor sums, str group) -> Tensor",
    "input_gradient": f"(Tensor grad, Tensor saved, {VECTORS}, Tensor? total, Tensor? count, float slope, "
    "bool from_output) -> Tensor",
}
LIBRARY = torch.library.Library("sync_bn", "DEF")


def gather(row: Tensor, group: str) -> Tensor:
    process_group = dist.distributed_c10d._resolve_process_group(group)
    rows = row.new_empty(dist.get_world_size(process_group), row.numel())
    dist.all_gather_into_tensor(rows.view(-1), row, group=process_group)
    return rows


def reduce(sums: Tensor, group: str) -> Tensor:
    total = sums.clone()
    dist.all_reduce(total, group=dist.distributed_c10d._resolve_process_group(group))
    return total


def _load() -> frozenset[str]:
    """Load what is built for this PyTorch and return the device types that it serves."""
    compiled = set()
    for device in ("cpu", "cuda"):
        path = library_path(device)
        # A build that was killed leaves half a library, which the next one replaces.
        if path.exists():
            with suppress(OSError):
                torch.ops.load_library(path)
                compiled.add(device)
    return frozenset(compiled)


def _define() -> None:
    """Formulas serve every device; a compiled library, once loaded, takes precedence on its own."""
    for name, schema in SCHEMAS.items():
        LIBRARY.define(name + schema)
        LIBRARY.impl(name, globals().get(name) or getattr(formulas, name), "CompositeExplicitAutograd")


_define()
COMPILED = _load()
"""The device types, ``cpu`` and ``cuda``, for which the extension is built."""


@torch.library.register_fake("sync_bn::statistics")
def _(x: Tensor) -> Tensor:
    return x.new_empty(2 * x.shape[1] + 1, dtype=torch.float64)


@torch.library.register_fake("sync_bn::gather")
def _(row: Tensor, group: str) -> Tensor:
    size = dist.get_world_size(dist.distributed_c10d._resolve_process_group(group))
    return row.new_empty(size, row.numel())


@torch.library.register_fake("sync_bn::finish")
def _(rows: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    channels = rows.shape[1] // 2
    return rows.new_empty(channels), rows.new_empty(channels), rows.new_empty(())


@torch.library.register_fake("sync_bn::normalise")
def _(x: Tensor, *_: Any) -> Tensor:
    return _dense_like(x)


@torch.library.register_fake("sync_bn::normalise_")
def _(x: Tensor, *_: Any) -> None:
    return None


@torch.library.register_fake("sync_bn::sums")
def _(grad: Tensor, saved: Tensor, *_: Any) -> Tensor:
    return saved.new_empty(2, saved.shape[1], dtype=torch.float64)


@torch.library.register_fake("sync_bn::reduce")
def _(sums: Tensor, group: str) -> Tensor:
    return torch.empty_like(sums)


@torch.library.register_fake("sync_bn::input_gradient")
def _(grad: Tensor, saved: Tensor, *_: Any) -> Tensor:
    return _dense_like(saved)


def _dense_like(x: Tensor) -> Tensor:
    """A tensor laid out as the kernels lay out their output: as ``x`` where that is dense, else contiguous."""
    is_dense = x.is_contiguous() or x.movedim(1, -1).is_contiguous()
    return torch.empty_like(x, memory_format=torch.preserve_format if is_dense else torch.contiguous_format)


def _gradients(ctx: Any, grad: Tensor, *, from_output: bool) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight and bias; those of weight and bias are this process's share, as for any layer."""
    saved, weight, bias, mean, invstd, count = ctx.saved_tensors
    needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    ops = torch.ops.sync_bn
    arguments = (grad, saved, weight, bias, mean, invstd)
    grad_x = grad_weight = grad_bias = total = None
    if needs_weight or needs_bias or count is not None:
        total = ops.sums(*arguments, ctx.slope, from_output)
        grad_bias = total[0].to(bias.dtype) if needs_bias else None
        grad_weight = total[1].to(weight.dtype) if needs_weight else None
    if needs_x:
        if count is None:
            total = None
        elif ctx.group:
            total = ops.reduce(total, ctx.group)
        grad_x = ops.input_gradient(*arguments, total, count, ctx.slope, from_output)
    return grad_x, grad_weight, grad_bias, None, None, None, None, None


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.slope, ctx.group = inputs
    ctx.save_for_backward(*tensors)


def _refuse(ctx: Any, *_: Any) -> None:
    raise RuntimeError("SyncBatchNorm has no second derivative: use torch.nn.BatchNorm2d where one is needed")


torch.library.register_autograd(
    "sync_bn::normalise", lambda ctx, grad: _gradients(ctx, grad, from_output=False), setup_context=_save
)
for _name in ("sums", "input_gradient"):
    torch.library.register_autograd(f"sync_bn::{_name}", _refuse)


class NormaliseInPlace(torch.autograd.Function):
    """``normalise`` into x itself; takes the same arguments and saves its output, from which backward recovers x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        invstd: Tensor,
        count: Tensor | None,
        slope: float,
        group: str,
    ) -> Tensor:
        torch.ops.sync_bn.normalise_(x, weight, bias, mean, invstd, slope)
        ctx.mark_dirty(x)
        ctx.slope, ctx.group = slope, group
        ctx.save_for_backward(x, weight, bias, mean, invstd, count)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, grad, from_output=True)
