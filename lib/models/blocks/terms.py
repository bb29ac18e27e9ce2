"""What a block's attention is made of: each term as rows to look at, and as an operator that never makes them all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Term:
    """A matrix of weights from M positions to N, kept as two functions.

    Attributes:
        rows: indices of Q of the N positions, counted along the rows of the map -> their weights B x Q x M, of at least
            float32.
        apply: values B x M x V -> their weighted sums B x N x V, in memory that is linear in the positions.
        constant: whether all N rows are the same.
        signed: whether weights may be negative.
    """

    rows: Callable[[Sequence[int]], Tensor]
    apply: Callable[[Tensor], Tensor]
    constant: bool = False
    signed: bool = False


@dataclass(frozen=True)
class AttentionTerms:
    """The attention of a block for one input.

    Attributes:
        terms: ``pairwise``: what depends on the pair of positions; ``unary``: what is the same for every query;
            ``applied``: what the block really takes of its values, both with their factors. A block lacks what it does
            not have; ``applied`` is always there.
        queries: height and width (or as many sizes as the input has dimensions) of the N positions that attend.
        sources: those of the M positions that are attended.
        gamma: the factor of the pairwise term in ``applied``; None where the block has none, and it is 1.
        note: what ``applied`` leaves out, if anything.
    """

    terms: dict[str, Term]
    queries: tuple[int, ...]
    sources: tuple[int, ...]
    gamma: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Cells:
    """Pooling by ``kernel`` from the positions of ``size``, each cell as large: which of them a pooled one stands for.

    A weight of a pooled position is spread evenly over its cell; positions that no cell has, at the far end of odd
    sizes, have weight 0.
    """

    size: tuple[int, ...]
    kernel: tuple[int, ...] = field(default=())

    def gather(self, values: Tensor) -> Tensor:
        """B x N x V -> means of cells, B x M x V."""
        pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(self.size)]
        return pool(values.mT.unflatten(2, self.size), self.kernel).flatten(2).mT

    def spread(self, rows: Tensor) -> Tensor:
        """B x Q x M -> B x Q x N of the same sums."""
        rows = rows.unflatten(2, [side // step for side, step in zip(self.size, self.kernel, strict=True)])
        for dimension, (side, step) in enumerate(zip(self.size, self.kernel, strict=True), start=2):
            rows = rows.repeat_interleave(step, dimension)
            padding = [0, 0] * (rows.dim() - 1 - dimension) + [0, side - rows.shape[dimension]]
            rows = F.pad(rows, padding)
        return rows.flatten(2) / prod(self.kernel)


def unary_term(weights: Tensor, count: int, cells: Cells | None = None) -> Term:
    """The term of B x 1 x M weights that ``count`` queries share."""

    def rows(positions: Sequence[int]) -> Tensor:
        spread = weights if cells is None else cells.spread(weights)
        return widen(spread).expand(-1, len(positions), -1)

    def apply(values: Tensor) -> Tensor:
        values = values if cells is None else cells.gather(values)
        return (weights.to(values.dtype) @ values).expand(-1, count, -1)

    return Term(rows, apply, constant=True)


def added(terms: Sequence[tuple[float, Term]]) -> Term:
    """The sum of terms, each times its factor."""
    (factor, first), *others = terms
    if not others and factor == 1:
        return first

    def rows(positions: Sequence[int]) -> Tensor:
        return sum(factor * term.rows(positions) for factor, term in terms)

    def apply(values: Tensor) -> Tensor:
        return sum(factor * term.apply(values) for factor, term in terms)

    signed = any(term.signed or factor < 0 for factor, term in terms)
    return Term(rows, apply, constant=all(term.constant for _, term in terms), signed=signed)


def one_hot(positions: Sequence[int], like: Tensor, count: int) -> Tensor:
    """For each of Q positions the signal that is 1 there and 0 at the other ``count`` - 1: B x Q x N."""
    index = torch.as_tensor(positions, device=like.device)
    return F.one_hot(index, count).to(like.dtype).expand(len(like), -1, -1)


def widen(x: Tensor) -> Tensor:
    """``x`` in float32 or wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
