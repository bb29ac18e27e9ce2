"""Softmax attention over all positions whose memory grows linearly with their number."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.models.standard import by_blocks, is_standard

# Entries of the affinity map that a CPU holds at a time: few enough for the cache, enough for fast products.
CHUNK_ENTRIES = 2 << 20

# Rows of a product that is added to a sum of a wider type: few, as it is held in both types.
PRODUCT_ROWS = 1024

# Of the operators below; another one where the project is imported a second time under another name (``dnl_hub``).
NAMESPACE = "_".join(["dnl", *__name__.split(".")[: __name__.split(".").index("lib")]])

softmax_backward = torch.ops.aten._softmax_backward_data.out


def attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float = 1.0) -> Tensor:
    """``softmax(scale * query @ key^T) @ value``, without ever holding the N x M affinity map.

    Accelerators use PyTorch's fused kernels. On a CPU those are slower than the plain formula in bfloat16, so there
    rows of the map are made, used and dropped a chunk at a time, and made again in the backward pass. For export it is
    the plain formula, in blocks of queries (``lib.models.standard``).

    Args:
        query: B x N x D.
        key: B x M x D.
        value: B x M x E, of the same type as query and key.
        scale: factor of the affinities.

    Returns:
        B x N x E. Differentiable once; second derivatives on a CPU raise a RuntimeError.
    """
    if is_standard():
        return by_blocks(scale * query, key.shape[1], lambda rows: torch.softmax(rows @ key.mT, dim=-1) @ value)
    if query.device.type == "cpu":
        return chunked_attention(scale * query, key, value)
    # B x N x D -> B x 1 x N x D: the fused kernels expect heads, and entries of a row that lie side by side; to others
    # PyTorch applies the plain formula.
    heads = (tensor.unsqueeze(1).contiguous() for tensor in (query, key, value))
    return F.scaled_dot_product_attention(*heads, scale=scale).squeeze(1)


def attention_rows(query: Tensor, key: Tensor, *, scale: float = 1.0) -> Tensor:
    """The map's rows of R queries: B x R x D and B x M x D -> B x R x M of at least float32, rows sum to 1."""
    wide = torch.promote_types(query.dtype, torch.float32)
    return torch.softmax(scale * query.to(wide) @ key.to(wide).mT, dim=-1)


@torch.library.custom_op(f"{NAMESPACE}::chunked_attention", mutates_args=())
def chunked_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``attend`` with scale 1 through chunks of the queries."""
    out = query.new_empty(*query.shape[:2], value.shape[2])
    for item, (queries, keys, values) in enumerate(zip(query, key, value, strict=True)):
        chunks, (buffer,) = _chunks(queries, keys, buffers=1)
        for rows in chunks:
            torch.mm(_attention(queries[rows], keys, buffer), values, out=out[item, rows])
    return out


@torch.library.custom_op(f"{NAMESPACE}::chunked_attention_backward", mutates_args=())
def chunked_attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``chunked_attention`` with respect to query, key and value; ``grad`` is B x N x E."""
    # Many chunks add to the gradients of key and value: in bfloat16 each addition would round the sum.
    wide = torch.promote_types(query.dtype, torch.float32)
    grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
    grad_key = torch.zeros_like(key, dtype=wide, memory_format=torch.contiguous_format)
    grad_value = torch.zeros_like(value, dtype=wide, memory_format=torch.contiguous_format)
    for item in zip(grad, query, key, value, grad_query, grad_key, grad_value, strict=True):
        _backward_of_item(*item)
    # one by one, so that the wide ones are not all held until the end
    grad_key = grad_key.to(key.dtype)
    return grad_query, grad_key, grad_value.to(value.dtype)


def _backward_of_item(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, grad_query: Tensor, grad_key: Tensor, grad_value: Tensor
) -> None:
    """Write the gradient of one image's query, add those of its key and value; tensors as above without the batch."""
    chunks, (buffer, grad_buffer) = _chunks(query, key, buffers=2)
    for rows in chunks:
        attention = _attention(query[rows], key, buffer)
        _add_product(grad_value, attention, grad[rows])
        grad_map = torch.mm(grad[rows], value.mT, out=grad_buffer[: len(attention)])
        softmax_backward(grad_map, attention, -1, grad_map.dtype, grad_input=grad_map)
        torch.mm(grad_map, key, out=grad_query[rows])
        _add_product(grad_key, grad_map, query[rows])


def _chunks(query: Tensor, key: Tensor, *, buffers: int) -> tuple[list[slice], list[Tensor]]:
    """Slices of queries N x D, and memory for ``buffers`` chunks of their map, which all slices use in turn."""
    queries, keys = len(query), len(key)
    rows = min(queries, max(64, CHUNK_ENTRIES // keys))
    slices = [slice(start, min(start + rows, queries)) for start in range(0, queries, rows)]
    return slices, [query.new_empty(rows, keys) for _ in range(buffers)]


def _attention(query: Tensor, key: Tensor, buffer: Tensor) -> Tensor:
    """R x D and M x D -> R x M, rows sum to 1, in ``buffer``."""
    affinity = torch.mm(query, key.mT, out=buffer[: len(query)])
    return torch.softmax(affinity, dim=-1, out=affinity)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left^T @ right``, where ``total`` may be of a wider type."""
    if total.dtype == left.dtype:
        total.addmm_(left.mT, right)
        return
    for part, columns in zip(total.split(PRODUCT_ROWS), left.split(PRODUCT_ROWS, dim=1), strict=True):
        part += columns.mT @ right


@chunked_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return query.new_empty(*query.shape[:2], value.shape[2])


@chunked_attention_backward.register_fake
def _(grad: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (query, key, value))


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad: Tensor):
    return chunked_attention_backward(grad, *ctx.saved_tensors)


chunked_attention.register_autograd(_backward, setup_context=_save)
