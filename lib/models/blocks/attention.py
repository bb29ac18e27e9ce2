"""Softmax attention over all positions whose memory grows linearly with their number."""

import torch
import torch.nn.functional as F
from torch import Tensor

# What one chunk of the affinity map takes on a CPU: of the sizes that fit the last cache, the fastest measured.
CHUNK_BYTES = 16 << 20


def attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float = 1.0) -> Tensor:
    """``softmax(scale * query @ key^T) @ value``, without ever holding the N x M affinity map.

    Accelerators use PyTorch's fused kernels. On a CPU those are slower than the plain formula in bfloat16, so there
    rows of the map are made, used and dropped a chunk at a time, and made again in the backward pass.

    Args:
        query: B x N x D.
        key: B x M x D.
        value: B x M x E, of the same type as query and key.
        scale: factor of the affinities.

    Returns:
        B x N x E. Differentiable once; second derivatives on a CPU raise a RuntimeError.
    """
    if query.device.type == "cpu":
        return chunked_attention(scale * query, key, value)
    # B x N x D -> B x 1 x N x D: the fused kernels expect heads
    heads = (tensor.unsqueeze(1) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(*heads, scale=scale).squeeze(1)


def attention_rows(query: Tensor, key: Tensor, *, scale: float = 1.0) -> Tensor:
    """The attention map's rows of R chosen queries: B x R x D and B x M x D -> float32 B x R x M, rows sum to 1."""
    return torch.softmax(scale * query.float() @ key.float().mT, dim=-1)


def _chunks(queries: int, keys: int, itemsize: int) -> list[slice]:
    rows = max(64, CHUNK_BYTES // max(1, keys * itemsize))
    return [slice(start, min(start + rows, queries)) for start in range(0, queries, rows)]


@torch.library.custom_op("dnl::chunked_attention", mutates_args=())
def chunked_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``attend`` with scale 1 through chunks of the queries."""
    out = query.new_empty(*query.shape[:2], value.shape[2])
    for item in range(len(query)):
        for rows in _chunks(query.shape[1], key.shape[1], query.element_size()):
            attention = torch.softmax(query[item, rows] @ key[item].mT, dim=-1)
            torch.mm(attention, value[item], out=out[item, rows])
    return out


@torch.library.custom_op("dnl::chunked_attention_backward", mutates_args=())
def chunked_attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``chunked_attention`` with respect to query, key and value; ``grad`` is B x N x E."""
    # Many chunks add to the gradients of key and value: in bfloat16 each addition would round the sum.
    wide = torch.promote_types(query.dtype, torch.float32)
    grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
    grad_key = torch.zeros_like(key, dtype=wide, memory_format=torch.contiguous_format)
    grad_value = torch.zeros_like(value, dtype=wide, memory_format=torch.contiguous_format)
    for item in range(len(query)):
        for rows in _chunks(query.shape[1], key.shape[1], query.element_size()):
            attention = torch.softmax(query[item, rows] @ key[item].mT, dim=-1)
            grad_value[item] += attention.mT @ grad[item, rows]
            grad_attention = grad[item, rows] @ value[item].mT
            grad_affinity = torch.ops.aten._softmax_backward_data(grad_attention, attention, -1, query.dtype)
            grad_query[item, rows] = grad_affinity @ key[item]
            grad_key[item] += grad_affinity.mT @ query[item, rows]
    return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype)


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
