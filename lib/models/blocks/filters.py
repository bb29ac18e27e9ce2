"""What makes the filters of a spectral stage visible: transposed affinities, and one filter in place of many."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lib.models.blocks.attention import CHUNK_ENTRIES
from lib.models.blocks.terms import widen


def nearest_filter(matrices: Sequence[Tensor]) -> tuple[list[float], float]:
    """The numbers c_k, whose moduli add up to 1, for which sum_k c_k P_k is one filter in place of sum_k W_k P_k.

    Of all c_k and matrices W of channels, the sum of c_k W P_k is the nearest to that of W_k P_k, in the squares of the
    entries of W_k - c_k W.

    Args:
        matrices: the W_k, C x E each.

    Returns:
        c_k, the largest one positive, and the share, 0..1, of the squares of the W_k that c_k W has: 1 for one matrix.
    """
    mixed = torch.stack([matrix.flatten() for matrix in matrices]).double()
    strengths, vectors = torch.linalg.eigh(mixed @ mixed.mT)
    leading = vectors[:, -1] * vectors[:, -1][vectors[:, -1].abs().argmax()].sign()
    return (leading / leading.abs().sum()).tolist(), (strengths[-1] / strengths.sum().clamp_min(1e-300)).item()


class Transposed:
    """The transpose of an N x N matrix A, given by its rows, which are made and dropped a chunk at a time."""

    def __init__(self, wide_rows: Callable[[Sequence[int]], Tensor]) -> None:
        self.wide_rows = wide_rows

    def __call__(self, signal: Tensor) -> Tensor:
        """``A^T @ signal`` for a signal of B x E x (N positions of any dimensions), of the same shape."""
        flat = widen(signal.flatten(2))
        count = flat.shape[2]
        out, step = torch.zeros_like(flat), max(1, CHUNK_ENTRIES // count)
        for start in range(0, count, step):
            chunk = range(start, min(start + step, count))
            out += flat[:, :, chunk] @ self.wide_rows(chunk)
        return out.to(signal.dtype).reshape(signal.shape)
