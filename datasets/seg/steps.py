"""A crop by the steps of published code: bit for bit what resizing the whole image, each time, and cropping gives.

OpenCV's bilinear resize samples a part that begins at the image's first pixel exactly as it samples the whole image,
but not one that begins elsewhere, where its coefficients round differently. So each step is done from there to where
the crop needs no more. The nearest pixel is looked up through all steps at once.
"""

import math
from itertools import pairwise

import cv2
import numpy as np

from datasets.seg.augment import Draw, nearest, turn_image, turn_label

Size = tuple[int, int]
"""(width, height) in pixels, of an image or of the part of it that begins at its first pixel."""


def source_rows(chosen: Draw, size: tuple[int, int]) -> int:
    """How many of the first rows of an image of ``size`` (height, width) and of its label the crop needs."""
    return _parts(chosen, size)[0][1]


def crop_image(image: np.ndarray, chosen: Draw, size: tuple[int, int]) -> np.ndarray:
    """The part of an image that the crop shows, mirrored where ``chosen`` says.

    Args:
        image: uint8 [>= source_rows, W, C]; rows that are not needed may be missing at the bottom.
        chosen: with ``resize`` other than "once".
        size: (H, W) of the image with all its rows.

    Returns:
        uint8 [window.height, window.width, C].
    """
    window, sizes, parts = chosen.window, _sizes(chosen, size), _parts(chosen, size)
    columns, rows = parts[0]
    image = image[:rows]
    image = cv2.flip(image[:, size[1] - columns :], 1) if _mirrored_first(chosen) else image[:, :columns]
    *steps, last = zip(pairwise(sizes), parts[1:], strict=True)
    for step, part in steps:
        image = _resize_start(image, *step, part)
    if chosen.angle:
        image = turn_image(image, window, sizes[-2][::-1], chosen.angle)
    else:
        image = _resize_start(image, *last[0], last[1])[window.top :, window.left :]
    return cv2.flip(image, 1) if _mirrored_last(chosen) else image


def crop_label(label: np.ndarray, chosen: Draw, size: tuple[int, int], outside: int = 0) -> np.ndarray:
    """``crop_image`` for a label, uint8 [>= source_rows, W], by the nearest pixel.

    ``outside`` is what turns in from outside the image, where it is turned.
    """
    window, sizes = chosen.window, _sizes(chosen, size)
    rows, columns = (
        np.arange(start, start + count) for start, count in ((window.top, window.height), (window.left, window.width))
    )
    if chosen.angle:
        # The turn is the last resize.
        sizes.pop()
        columns, rows = (np.arange(side) for side in sizes[-1])
    for before, after in reversed(list(pairwise(sizes))):
        columns, rows = nearest(columns, before[0], after[0]), nearest(rows, before[1], after[1])
    if _mirrored_first(chosen):
        columns = size[1] - 1 - columns
    first = columns.min()
    part = np.take(label[rows, first : columns.max() + 1], columns - first, axis=1)
    if chosen.angle:
        part = turn_label(part, window, sizes[-1][::-1], chosen.angle, outside)
    return cv2.flip(part, 1) if _mirrored_last(chosen) else part


def _mirrored_last(chosen: Draw) -> bool:
    return chosen.flip and chosen.resize == "mmseg"


def _mirrored_first(chosen: Draw) -> bool:
    return chosen.flip and chosen.resize == "twice"


def _sizes(chosen: Draw, size: tuple[int, int]) -> list[Size]:
    """The sizes that an image of ``size`` (height, width) has before and after each resize."""
    return [size[::-1], *chosen.between, chosen.window.resized]


def _parts(chosen: Draw, size: tuple[int, int]) -> list[Size]:
    """The part that is needed of the image before and after each resize."""
    sizes, window = _sizes(chosen, size), chosen.window
    if chosen.angle:
        return sizes
    parts = [(window.left + window.width, window.top + window.height)]
    for before, after in reversed(list(pairwise(sizes))):
        part = tuple(
            min(source, math.ceil(end * source / resized) + 2)
            for end, source, resized in zip(parts[0], before, after, strict=True)
        )
        resized = (round(end * (to / source)) for end, source, to in zip(part, before, after, strict=True))
        # OpenCV copies what would keep its size, also a part of an image that gets a few pixels more or less.
        parts.insert(0, before if tuple(resized) == part else part)
    return parts


def _resize_start(image: np.ndarray, before: Size, after: Size, part: Size) -> np.ndarray:
    """The first ``part`` of what ``cv2.resize`` from size ``before`` to ``after`` gives, of the first part of it."""
    across, down = (resized / source for source, resized in zip(before, after, strict=True))
    resized = cv2.resize(image, None, fx=across, fy=down, interpolation=cv2.INTER_LINEAR)
    return resized[: part[1], : part[0]]
