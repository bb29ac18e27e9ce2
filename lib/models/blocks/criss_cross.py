"""Criss-cross attention (Huang et al., "CCNet: Criss-Cross Attention for Semantic Segmentation", ICCV 2019)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.base.errors import UserError
from lib.models.blocks.terms import AttentionTerms, Term, one_hot, widen


class CrissCrossAttention(nn.Module):
    """Attention of each position to those of its row and its column, added to the input.

    With q, k and v the projections, and S_u the H + W - 1 positions in u's row and column, u itself counting once
    (paper, eqs. 1 and 2; a gain gamma, which starts at 0, as in the authors' code):

        y_u = sum_{s in S_u} softmax_s(q_u^T k_s) v_s,    out = gamma * y + x.

    Time and memory grow with N (H + W), N = H W. After two passes every position has seen every other.

    Args:
        channels: of the input and the output.
        embedding: channels of query and key; default channels // 8.
        recurrence: number of passes, with the same weights (R in the paper); at least 1.

    Raises:
        UserError: if ``recurrence`` is below 1.
    """

    def __init__(self, channels: int, *, embedding: int | None = None, recurrence: int = 2) -> None:
        super().__init__()
        if recurrence < 1:
            raise UserError(f"recurrence is {recurrence}: criss-cross attention needs at least 1 pass")
        embedding = embedding or channels // 8
        self.recurrence = recurrence
        self.query = nn.Conv2d(channels, embedding, 1)
        self.key = nn.Conv2d(channels, embedding, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Takes B x C x H x W and returns the same shape."""
        # B x C x H x W -> B x H x W x C, in which the entries of a row or column are matrices as they lie
        x = x.permute(0, 2, 3, 1).contiguous()
        for _ in range(self.recurrence):
            x = torch.addcmul(x, self.gamma, self.attend(*self._project(x, self.query, self.key, self.value)))
        return x.permute(0, 3, 1, 2)

    def affinity_rows(self, x: Tensor, positions: Sequence[int]) -> Tensor:
        """What chosen positions take from all of them in the first pass, for pictures.

        Args:
            x: as in ``forward``.
            positions: R of the N positions, counted along the rows of the input.

        Returns:
            float32 B x R x N: rows of sum 1, 0 outside the position's row and column.
        """
        query, key = (z.flatten(1, 2).float() for z in self._project(x.permute(0, 2, 3, 1), self.query, self.key))
        place = torch.arange(key.shape[1], device=x.device)
        row, column = place // x.shape[3], place % x.shape[3]
        crosses = (row[positions, None] == row) | (column[positions, None] == column)
        return (query[:, positions] @ key.mT).masked_fill(~crosses, -torch.inf).softmax(dim=2)

    def attention(self, x: Tensor) -> AttentionTerms:
        """The block's attention for ``x``: ``pairwise`` is the first pass, ``applied`` the product of all passes.

        That product says through how much of each position's values the passes reach; the block adds its input to each.
        """
        size = tuple(x.shape[2:])
        x = x.permute(0, 2, 3, 1).contiguous()
        passes = []
        for _ in range(self.recurrence):
            query, key, value = self._project(x, self.query, self.key, self.value)
            passes.append(Crosses(*self.weights(query, key)))
            x = torch.addcmul(x, self.gamma, passes[-1](value))
        terms = {"pairwise": _composition(passes[:1], size), "applied": _composition(passes, size)}
        return AttentionTerms(terms, size, size, self.gamma.item())

    @staticmethod
    def _project(x: Tensor, *layers: nn.Conv2d) -> list[Tensor]:
        """The 1x1 convolutions of B x H x W x C: B x H x W x D each."""
        return [F.linear(x, layer.weight.flatten(1), layer.bias) for layer in layers]

    @staticmethod
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """y: B x H x W x D twice and B x H x W x C -> B x H x W x C."""
        column, row = (part.to(value.dtype) for part in CrissCrossAttention.weights(query, key))
        from_column = column.transpose(1, 2) @ value.transpose(1, 2)
        return row @ value + from_column.transpose(1, 2)

    @staticmethod
    def weights(query: Tensor, key: Tensor) -> tuple[Tensor, ...]:
        """Of B x H x W x D twice, each position's of its column, B x H x W x H, itself 0, and row, B x H x W x W."""
        height, width = query.shape[1:3]
        # B x W x H x H, then B x H x W x H: the affinities of a position to its column, itself left to the row
        column = query.transpose(1, 2) @ key.transpose(1, 2).mT
        own = torch.eye(height, dtype=torch.bool, device=query.device)
        column = column.masked_fill(own, -torch.inf).transpose(1, 2)
        # B x H x W x W
        row = query @ key.mT
        return torch.cat([column, row], dim=3).softmax(dim=3).split([height, width], dim=3)


class Crosses:
    """The matrix of one pass as an operator on B x H x W x V, from its ``column`` and ``row`` weights."""

    def __init__(self, column: Tensor, row: Tensor) -> None:
        self.column, self.row = widen(column), widen(row)

    def __call__(self, values: Tensor) -> Tensor:
        values = values.to(self.row.dtype)
        return self.row @ values + (self.column.transpose(1, 2) @ values.transpose(1, 2)).transpose(1, 2)

    def transposed(self, values: Tensor) -> Tensor:
        """The transposed matrix's product with ``values``."""
        return self.row.mT @ values + (self.column.transpose(1, 2).mT @ values.transpose(1, 2)).transpose(1, 2)


def _composition(passes: Sequence[Crosses], size: tuple[int, int]) -> Term:
    """The product of the matrices of ``passes``, the first one at the right."""

    def rows(positions: Sequence[int]) -> Tensor:
        # B x Q x N -> B x H x W x Q and back
        found = one_hot(positions, passes[0].row, size[0] * size[1]).mT.unflatten(1, size)
        for one in reversed(passes):
            found = one.transposed(found)
        return found.flatten(1, 2).mT

    def apply(values: Tensor) -> Tensor:
        values = values.unflatten(1, size)
        for one in passes:
            values = one(values)
        return values.flatten(1, 2)

    return Term(rows, apply)
