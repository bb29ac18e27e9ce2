"""Sliding windows over an image that is at no time in memory as a whole: rows go in, logits of rows come out."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lib.inference import Segmentor, Stride, coverage, step_pixels, window_starts
from lib.resizing import Size


@torch.no_grad()
def sliding_strips(
    model: Segmentor,
    rows: Callable[[int, int], Tensor],
    size: Size,
    *,
    window: tuple[int, int],
    stride: Stride = 0.667,
    batch_size: int = 1,
) -> Iterator[tuple[int, Tensor]]:
    """The logits of ``lib.inference.sliding_window``, bit for bit, a strip of rows at a time.

    No more is held than the rows under the windows in work, of the image and of the logits.

    Args:
        model: the segmentor, in evaluation mode.
        rows: the normalised rows [1, 3, stop - start, W] for (start, stop); both only ever grow.
        size: (height, width) of the image.
        window, stride, batch_size: as for ``sliding_window``; a window larger than the image is clipped.

    Yields:
        (first row, float32 [1, K, h, W]), from the top to the bottom without gaps.
    """
    height, width = size
    across, down = step_pixels(window, stride)
    window_width, window_height = min(window[0], width), min(window[1], height)
    tops = window_starts(height, window_height, down)
    lefts = window_starts(width, window_width, across)
    corners = [(top, left) for top in tops for left in lefts]
    source, total, first = None, None, 0
    chunks = [corners[at : at + batch_size] for at in range(0, len(corners), batch_size)]
    for number, chunk in enumerate(chunks):
        begin, end = chunk[0][0], chunk[-1][0] + window_height
        source, source_first = rows(begin, end), begin
        parts = [
            source[..., top - source_first : top - source_first + window_height, left : left + window_width]
            for top, left in chunk
        ]
        logits = model(torch.cat(parts))["out"]
        total = _extended(total, logits, end - first, width)
        for (top, left), window_logits in zip(chunk, logits, strict=True):
            total[0, :, top - first : top - first + window_height, left : left + window_width] += window_logits
        # What the windows to come leave alone is done.
        done = chunks[number + 1][0][0] if number + 1 < len(chunks) else height
        if done > first:
            strip = total[:, :, : done - first]
            strip /= coverage(height, window_height, tops, strip.device)[first:done, None]
            strip /= coverage(width, window_width, lefts, strip.device)
            yield first, strip
            total = total[:, :, done - first :].clone()
            first = done


def _extended(total: Tensor | None, logits: Tensor, rows: int, width: int) -> Tensor:
    """``total`` [1, K, h, W] with zeros below it, so that it has ``rows`` rows."""
    present = 0 if total is None else total.shape[2]
    if present >= rows:
        return total
    zeros = logits.new_zeros(1, logits.shape[1], rows - present, width, dtype=torch.float32)
    return zeros if total is None else torch.cat([total, zeros], 2)
