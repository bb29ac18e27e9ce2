"""The affinities that a spectral block may have: N x N matrices as operators."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lib.models.blocks.attention import attend, attention_rows
from lib.models.blocks.filters import Transposed
from lib.models.blocks.linear import LinearAffinity, normalised_affinity, relu_affinity


class SoftmaxAffinity:
    """``A_ij = softmax_j(q_i^T k_j)``, or with ``symmetric`` ``softmax_j((q_i^T k_j + k_i^T q_j) / 2)``.

    Args:
        query, key: B x D x (N positions of any dimensions).
    """

    def __init__(self, query: Tensor, key: Tensor, *, symmetric: bool) -> None:
        self.query, self.key, self.scale = query.flatten(2).mT, key.flatten(2).mT, 1.0
        if symmetric:
            self.query, self.key = (torch.cat(pair, dim=2) for pair in ((self.query, self.key), (self.key, self.query)))
            self.scale = 0.5

    def __call__(self, signal: Tensor) -> Tensor:
        """``A @ signal`` for a signal of B x E x (N positions of any dimensions), of the same shape."""
        # attend: B x N x E
        out = attend(self.query, self.key, signal.flatten(2).mT, scale=self.scale)
        return out.mT.reshape(signal.shape)

    def rows(self, positions: Sequence[int]) -> Tensor:
        """The rows of R of the N positions: float32 B x R x N, each of sum 1."""
        return self.wide_rows(positions).float()

    def wide_rows(self, positions: Sequence[int]) -> Tensor:
        """The same of at least float32."""
        return attention_rows(self.query[:, positions], self.key, scale=self.scale)

    def transposed(self) -> Transposed:
        """``A^T``."""
        return Transposed(self.wide_rows)


Affinity = LinearAffinity | SoftmaxAffinity
"""An N x N matrix as an operator: called with a signal of B x E x (N positions), it returns their product."""

AFFINITIES = {"normalised": normalised_affinity, "softmax": SoftmaxAffinity, "relu": relu_affinity}
