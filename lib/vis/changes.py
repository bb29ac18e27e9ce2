"""A sheet of images that runs see differently."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from lib.vis.overlay import WHITE, legend, side_by_side

SIDE, GAP, LINE = 360, 8, 24
"""Of a picture its longer side, the space between two, and the height of a line of text; in pixels."""


@dataclass(frozen=True)
class Row:
    """One image: a line about it, and its pictures, RGB uint8 [H, W, 3], all of one size."""

    title: str
    pictures: Sequence[np.ndarray]


def changes_sheet(
    rows: Sequence[Row],
    heads: Sequence[str],
    names: Sequence[str],
    palette: np.ndarray,
    present: Sequence[int],
) -> np.ndarray:
    """RGB uint8 [H, W, 3]: a row for each image under the ``heads`` of its pictures, and the classes' colours.

    Args:
        rows: one or more.
        heads: a word for each picture of a row.
        names, palette: of the K classes; palette uint8 [K, 3].
        present: train ids to name at the bottom.
    """
    strips = [[_fit(picture) for picture in row.pictures] for row in rows]
    width = max(sum(picture.shape[1] + GAP for picture in strip) - GAP for strip in strips)
    parts = []
    for row, strip in zip(rows, strips, strict=True):
        parts.append(_text([(0, row.title)], width))
        lefts = np.cumsum([0, *(picture.shape[1] + GAP for picture in strip[:-1])]).tolist()
        parts.append(_text(list(zip(lefts, heads, strict=True)), width, level=110))
        shown = side_by_side(strip, GAP)
        parts.append(
            cv2.copyMakeBorder(shown, 0, GAP, 0, width - shown.shape[1], cv2.BORDER_CONSTANT, value=[WHITE] * 3)
        )
    return np.vstack([*parts, legend(names, palette, present, width)])


def _fit(picture: np.ndarray) -> np.ndarray:
    """The picture with its longer side of ``SIDE`` pixels."""
    factor = SIDE / max(picture.shape[:2])
    size = [max(1, round(factor * side)) for side in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST)


def _text(words: Sequence[tuple[int, str]], width: int, level: int = 0) -> np.ndarray:
    """A white line of ``width`` pixels with each word at its place, in grey of ``level``."""
    line = np.full((LINE, width, 3), WHITE, np.uint8)
    for left, word in words:
        # OpenCV draws ASCII alone.
        shown = word.encode("ascii", "replace").decode()
        cv2.putText(line, shown, (left + 2, LINE - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, [level] * 3, 1, cv2.LINE_AA)
    return line
