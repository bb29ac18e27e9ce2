"""Affinities that are products of embeddings: applied to a signal without making the map of all pairs."""

from collections.abc import Sequence

import torch
from torch import Tensor


class LinearAffinity:
    """The affinity ``A = left^T right`` of N positions, or its symmetric part (A + A^T) / 2, kept as its factors.

    ``A g = left^T (right g)`` exactly, and in this order time and memory grow linearly with N.

    Args:
        left, right: B x D x N.
        symmetric: whether it is the symmetric part, whose rank R is then 2 D instead of D.
    """

    def __init__(self, left: Tensor, right: Tensor, *, symmetric: bool = False) -> None:
        self.left, self.right, self.symmetric = left, right, symmetric

    def __call__(self, signal: Tensor) -> Tensor:
        """``A @ signal`` for a signal of B x E x (N positions of any dimensions), of the same shape."""
        return self.expand(self.reduce(signal.flatten(2))).reshape(signal.shape)

    def rows(self, positions: Sequence[int]) -> Tensor:
        """The rows of R of the N positions: float32 B x R x N."""
        return self.wide_rows(positions).float()

    def wide_rows(self, positions: Sequence[int]) -> Tensor:
        """The same of at least float32."""
        wide = torch.promote_types(self.left.dtype, torch.float32)
        left, right = self.left.to(wide), self.right.to(wide)
        rows = left[:, :, positions].mT @ right
        return (rows + right[:, :, positions].mT @ left) / 2 if self.symmetric else rows

    def transposed(self) -> "LinearAffinity":
        """``A^T``."""
        return LinearAffinity(self.right, self.left, symmetric=self.symmetric)

    def reduce(self, signal: Tensor) -> Tensor:
        """The inner product, B x E x N -> B x E x R."""
        reduced = signal @ self.right.mT
        if self.symmetric:
            reduced = torch.cat([reduced, signal @ self.left.mT], dim=2) / 2
        return reduced

    def expand(self, coefficients: Tensor) -> Tensor:
        """The outer product, B x E x R -> B x E x N."""
        if not self.symmetric:
            return coefficients @ self.left
        first, second = coefficients.chunk(2, dim=2)
        return torch.baddbmm(first @ self.left, second, self.right)

    def overlap(self) -> Tensor:
        """The product of the factors the other way round, ``right @ left^T``: B x R x R of at least float32.

        Rows as coefficients c: ``reduce(expand(c)) = c @ overlap``. Its eigenvalues other than 0 are those of A.
        """
        wide = torch.promote_types(self.left.dtype, torch.float32)
        left, right = self.left.to(wide), self.right.to(wide)
        with _full_precision(left):
            rows = torch.cat([left, right], dim=1) if self.symmetric else left
            return LinearAffinity(left, right, symmetric=self.symmetric).reduce(rows)


def relu_affinity(query: Tensor, key: Tensor, *, symmetric: bool) -> LinearAffinity:
    """``M_ij = relu(q_i)^T relu(k_j)``, or with ``symmetric`` the mean of M and its transpose.

    Args:
        query, key: B x D x (positions).
    """
    return LinearAffinity(query.flatten(2).relu(), key.flatten(2).relu(), symmetric=symmetric)


def normalised_affinity(query: Tensor, key: Tensor, *, symmetric: bool) -> LinearAffinity:
    """``D^-1/2 M D^-1/2`` with M as in ``relu_affinity`` and D its degrees, the sums of its rows.

    The degrees need no N x N matrix either: ``sum_j q_i^T k_j = q_i^T (sum_j k_j)``. They are at least float32. A
    position of degree 0 has affinity 0 with every other. The eigenvalues of a symmetric affinity are in [-1, 1].
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    left, right = (embedding.flatten(2).relu().to(wide) for embedding in (query, key))
    with _full_precision(query):
        # B x 1 x D @ B x D x N
        degree = right.sum(2).unsqueeze(1) @ left
        if symmetric:
            degree = (degree + left.sum(2).unsqueeze(1) @ right) / 2
    root = torch.where(degree > 0, degree, torch.inf).rsqrt()
    return LinearAffinity((left * root).to(query.dtype), (right * root).to(key.dtype), symmetric=symmetric)


def _full_precision(x: Tensor) -> torch.autocast:
    """No autocast on the device of ``x``; the meta device, which has none, stands for the CPU."""
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)
