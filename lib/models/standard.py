"""Networks in operators that every runtime has: what stands in for our own kernels while a network is exported.

Within ``standard_operators`` blocks and heads take the plain formula for what is otherwise a custom or a fused
operator, or one that other runtimes lack. The maps of affinities are then made in blocks of queries, whose number is
planned for the size of an example by ``plan_blocks``: a graph for any size can have symbols for sizes, but not for a
number of steps.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor

INVERSE_STEPS = 48
"""Of Newton's iteration for an inverse: it takes about log2(|A| / smallest eigenvalue) and 6."""

Count = Callable[[int, int], int]
"""Queries and keys -> in how many blocks of queries the map is made."""

_count: ContextVar[Count | None] = ContextVar("count", default=None)


@contextmanager
def plan_blocks(entries: int) -> Iterator[list[int]]:
    """A context in which networks run in standard operators and write down the blocks of each map, in order.

    Args:
        entries: the most of one image's map that are held at a time; at least one query's are.
    """
    counts: list[int] = []

    def count(queries: int, keys: int) -> int:
        rows = max(1, entries // keys)
        # One more than divides them: ``by_blocks`` always fills up.
        counts.append(1 if queries <= rows else queries // rows + 1)
        return counts[-1]

    with _counting(count):
        yield counts


@contextmanager
def standard_operators(counts: list[int]) -> Iterator[None]:
    """A context in which networks run in standard operators, their maps in as many blocks as were planned."""
    # A trace may run the network more than once.
    following = cycle(counts)
    with _counting(lambda queries, keys: next(following)):
        yield


@contextmanager
def _counting(count: Count) -> Iterator[None]:
    token = _count.set(count)
    try:
        yield
    finally:
        _count.reset(token)


def is_standard() -> bool:
    """Whether this is one of the contexts above."""
    return _count.get() is not None


def by_blocks(query: Tensor, keys: int, product: Callable[[Tensor], Tensor]) -> Tensor:
    """``product`` of B x N x D queries, B x N x E, in blocks of them; ``keys`` is M, the columns of its N x M map."""
    queries = query.shape[1]
    count = _count.get()(queries, keys)
    if count == 1:
        return product(query)
    # Blocks of one length, so that sizes may be symbols; what fills them up, 1 to ``count`` queries whatever the size,
    # is cut off again.
    padded = F.pad(query, (0, 0, 0, count - queries % count))
    parts = [product(part) for part in padded.unflatten(1, (count, queries // count + 1)).unbind(1)]
    return torch.cat(parts, dim=1)[:, :queries]


def adaptive_mean(x: Tensor, bins: int) -> Tensor:
    """``F.adaptive_avg_pool2d(x, bins)``; in standard operators as two products with matrices of shares."""
    if not is_standard():
        return F.adaptive_avg_pool2d(x, bins)
    rows, columns = (_shares(length, bins, x) for length in x.shape[2:])
    return rows @ x @ columns.mT


def _shares(length: int, bins: int, like: Tensor) -> Tensor:
    """What each of ``length`` positions counts in each bin: bins x length, rows of sum 1."""
    index = torch.arange(bins, device=like.device)[:, None]
    place = torch.arange(length, device=like.device)
    first, end = index * length // bins, ((index + 1) * length + bins - 1) // bins
    inside = ((place >= first) & (place < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def inverse(matrix: Tensor) -> Tensor:
    """The inverse of B x R x R by Newton's iteration X <- X (2 I - A X) in float64, which corrects itself.

    All eigenvalues must be real and positive. From the start I / |A| the error's eigenvalues are 1 - lambda / |A|,
    below 1, and are squared with every step, however far the matrix is from a normal one.
    """
    wide = matrix.double()
    norm = torch.minimum(wide.abs().sum(1).amax(1), wide.abs().sum(2).amax(1))
    identity = torch.eye(matrix.shape[1], dtype=wide.dtype, device=wide.device)
    found = identity / norm[:, None, None]
    for _ in range(INVERSE_STEPS):
        found = found @ (2 * identity - wide @ found)
    return found
