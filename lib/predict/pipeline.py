"""Reading, the network and writing at the same time, with a bounded number of images in memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from lib.predict.forecast import Prepared

AHEAD = 4
"""Images that are read before they are needed, and results that wait to be written, beside those in work."""


class Ahead:
    """Calls on threads, a few ahead of whoever takes their results in order.

    Args:
        threads: 1 keeps the calls in order too.
        most: calls that are begun and not yet taken.
    """

    def __init__(self, threads: int, most: int = AHEAD) -> None:
        self.pool, self.most = ThreadPoolExecutor(threads), most + threads
        self.waiting: deque[Future] = deque()

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Future]]:
        """Each item with the future of ``function`` of it, in order."""
        begun: deque[tuple[Any, Future]] = deque()
        for item in items:
            begun.append((item, self.pool.submit(function, item)))
            if len(begun) >= self.most:
                yield begun.popleft()
        yield from begun

    def submit(self, function: Callable[..., Any], *options: Any) -> None:
        """Begin a call whose result nobody takes; waits while too many are under way, raises what one of them did."""
        self.waiting.append(self.pool.submit(function, *options))
        while len(self.waiting) > self.most:
            self.waiting.popleft().result()

    def drain(self) -> None:
        """Wait for everything that ``submit`` began; raises what went wrong."""
        while self.waiting:
            self.waiting.popleft().result()

    def close(self) -> None:
        """Let what has begun end, and the rest be."""
        self.pool.shutdown(cancel_futures=True)


def threads() -> int:
    """As many as are of use for reading or writing."""
    return max(2, min(8, len(os.sched_getaffinity(0)) // 2))


def in_batches(
    items: Iterable[tuple[Any, Prepared]], at_once: Callable[[tuple[int, int]], int]
) -> Iterator[list[tuple[Any, Prepared]]]:
    """Items whose images have one size together, ``at_once(size)`` of them if there are as many in a row or nearly so.

    Those of other sizes wait, but not for long: the oldest go when too many do.
    """
    waiting: dict[tuple[int, int], list[tuple[Any, Prepared]]] = {}
    for item in items:
        size = item[1].size
        group = waiting.setdefault(size, [])
        group.append(item)
        if len(group) >= at_once(size):
            yield waiting.pop(size)
        elif sum(map(len, waiting.values())) >= AHEAD + at_once(size):
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()
