"""What a loss may ask of the processes that share a batch. It knows nothing else of them."""

from typing import Protocol

from torch import Tensor


class Peers(Protocol):
    """The processes among which each batch is shared evenly; every one of them makes the same calls."""

    rank: int
    """Which of them this one is, counted from 0."""
    size: int
    """Number of processes."""

    def sum(self, tensor: Tensor) -> Tensor:
        """Replace ``tensor`` by its sum over all processes, in place."""

    def concatenate(self, tensor: Tensor) -> Tensor:
        """Every process's ``tensor``, all of one shape, one after the other along the first dimension."""


class Alone:
    """One process that has the whole batch."""

    rank = 0
    size = 1

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def concatenate(self, tensor: Tensor) -> Tensor:
        return tensor


ALONE = Alone()
