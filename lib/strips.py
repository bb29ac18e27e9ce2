"""Sliding windows over an image that is at no time in memory as a whole: windows go in, blocks of logits come out."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise

import torch
from torch import Tensor

from lib.inference import Segmentor, Stride, coverage, step_pixels, window_starts
from lib.resizing import Size

HELD = 1 << 30
"""Bytes of sums that are held between two rows of windows at most, where memory allows so much."""


@torch.no_grad()
def sliding_blocks(
    model: Segmentor,
    read: Callable[[slice, slice], Tensor],
    size: Size,
    *,
    window: tuple[int, int],
    stride: Stride = 0.667,
    batch_size: int = 1,
    columns: int = 0,
) -> Iterator[tuple[int, int, Tensor]]:
    """The logits of ``lib.inference.sliding_window``, bit for bit, a block at a time.

    Beside the windows in work, no more is held than the sums that the next row of windows adds to.

    Args:
        model: the segmentor, in evaluation mode.
        read: the normalised pixels [1, C, h, w] of a window, given its rows and its columns.
        size: (height, width) of the image.
        window, stride, batch_size: as for ``sliding_window``; a window larger than the image is clipped.
        columns: the image is gone through in parts of so many columns, one after the other, so that less is held;
            windows across a border are looked at twice, and the network may round otherwise where ``batch_size``
            windows are others. 0: all at once.

    Yields:
        (first row, first column, float32 [1, K, h, w]): each pixel once, within a part from the top to the bottom. The
        tensor may be written to until the next one is asked for.
    """
    height, width = size
    across, down = step_pixels(window, stride)
    window_width, window_height = min(window[0], width), min(window[1], height)
    tops = window_starts(height, window_height, down)
    lefts = window_starts(width, window_width, across)
    rows, along = (
        coverage(side, extent, starts, torch.device("cpu"))
        for side, extent, starts in ((height, window_height, tops), (width, window_width, lefts))
    )
    columns = columns or width
    for begin in range(0, width, columns):
        end = min(begin + columns, width)
        touching = [left for left in lefts if left < end and left + window_width > begin]
        places = [
            (slice(top, top + window_height), slice(left, left + window_width)) for top in tops for left in touching
        ]
        found = _windows(model, read, places, batch_size)
        for top, left, logits in _sums(found, tops, touching, (window_height, window_width), (begin, end), height):
            for count in (rows[top : top + logits.shape[2], None], along[left : left + logits.shape[3]]):
                if count.max() > 1:
                    logits /= count.to(logits.device)
            yield top, left, logits


def columns_at_once(num_classes: int, height: int, window: tuple[int, int], stride: Stride, memory: float) -> int:
    """How many columns of an image leave sums of ``HELD`` bytes or an eighth of ``memory`` between rows of windows.

    No less than four windows: then most are still looked at once.
    """
    extent = min(window[1], height)
    tops = window_starts(height, extent, step_pixels(window, stride)[1])
    of_a_column = 4 * num_classes * max(1, *_shared(tops, extent, height))
    return max(4 * window[0], int(min(HELD, memory / 8)) // of_a_column)


def _shared(tops: Sequence[int], extent: int, height: int) -> list[int]:
    """How many rows each row of windows has in common with the next; the last two may have most of theirs."""
    return [max(0, top + extent - following) for top, following in pairwise([*tops, height])]


def _windows(
    model: Segmentor, read: Callable[[slice, slice], Tensor], places: Sequence[tuple[slice, slice]], batch_size: int
) -> Iterator[Tensor]:
    """The logits of each window, [1, K, h, w]."""
    waiting = iter(places)
    while some := list(islice(waiting, batch_size)):
        parts = [read(*place) for place in some]
        logits = model(parts[0] if len(parts) == 1 else torch.cat(parts))["out"]
        del parts
        yield from logits.split(1)
        del logits


def _sums(
    found: Iterator[Tensor], tops: Sequence[int], lefts: Sequence[int], window: Size, part: tuple[int, int], height: int
) -> Iterator[tuple[int, int, Tensor]]:
    """The sums of windows, added in the order in which they come, as soon as no other window adds to them.

    Args:
        found: the windows' logits, row by row.
        tops, lefts: where they begin.
        part: the first column that is wanted, and the one after the last.
    """
    begin, end = part
    # The same memory for all windows by turns, and for all rows: of pieces that come and go, an allocator loses some.
    totals, sums, turn, above, done = None, None, 0, 0, 0
    shared = _shared(tops, window[0], height)
    for (top, next_top), below in zip(pairwise([*tops, height]), shared, strict=True):
        known = 0
        for left, next_left in pairwise([*lefts, end]):
            first, last = max(left, begin), min(left + window[1], end)
            logits = next(found)
            if totals is None:
                shape = 1, logits.shape[1]
                totals = [logits.new_empty(*shape, *window, dtype=torch.float32) for _ in range(2)]
                sums = logits.new_empty(*shape, max(shared), end - begin, dtype=torch.float32)
            beside, turn = totals[turn][..., done : done + known] if known else None, 1 - turn
            total = totals[turn][..., : last - first]
            total.copy_(logits[..., first - left : last - left])
            del logits
            if known:
                total[..., :known] += beside
            total[:, :, :above, known:] += sums[:, :, :above, first + known - begin : last - begin]
            done = max(next_left, begin) - first
            # These columns have been read: the sums for the next row take the place of those from the last.
            sums[:, :, :below, first - begin : first - begin + done] = total[:, :, window[0] - below :, :done]
            known = last - first - done
            if done:
                yield top, first, total[:, :, : next_top - top, :done]
        above = below
