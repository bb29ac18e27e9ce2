"""Contact sheets: many cards on one picture, with captions and the legend that reads them all."""

import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from datasets.seg.classes import ClassTable
from lib.vis.cards import MARKS, Card
from lib.vis.overlay import WHITE, legend
from lib.vis.text import SIZE, fitted, put_text

WIDTH = 2000
"""Pixels of a sheet, unless one card takes more."""
PER_SHEET = 24
GAP = 12
CAPTION = 2 * (SIZE + 4)
"""Height of the two lines below a card."""


def tile(card: Card, width: int) -> np.ndarray:
    """The card's picture, ``width`` pixels wide, and below it its name and note; with width 0 its pixels as they are.

    A picture that is much smaller is enlarged by a whole factor, so that a pixel stays a pixel.
    """
    picture = resized(card.picture, width) if width else card.picture
    room = max(picture.shape[1], width)
    drawn = np.full((len(picture) + CAPTION + 4, room, 3), WHITE, np.uint8)
    drawn[: len(picture), : picture.shape[1]] = picture
    for line, text in enumerate((card.name, card.note)):
        put_text(drawn, fitted(text, room), (0, len(picture) + 4 + line * (SIZE + 4)))
    return drawn


def resized(picture: np.ndarray, width: int) -> np.ndarray:
    """A picture reduced to ``width`` pixels, or enlarged by the largest whole factor that keeps to them."""
    height, given = picture.shape[:2]
    if given <= width:
        factor = width // given
        return picture.repeat(factor, axis=0).repeat(factor, axis=1)
    return cv2.resize(picture, (width, max(1, round(height * width / given))), interpolation=cv2.INTER_AREA)


def contact_sheet(
    title: str, tiles: Sequence[np.ndarray], present: Iterable[int], marks: Iterable[str], table: ClassTable
) -> np.ndarray:
    """Tiles in rows below a title, and below them the colours of the ``present`` train ids and of ``marks``: RGB."""
    widest = max(tile.shape[1] for tile in tiles)
    columns = min(len(tiles), max(1, (WIDTH + GAP) // (widest + GAP)))
    width = max(columns * (widest + GAP), 480) + GAP
    parts = [np.full((SIZE + 18, width, 3), WHITE, np.uint8)]
    put_text(parts[0], fitted(title, width - 2 * GAP, SIZE + 2), (GAP, 8), SIZE + 2)
    for row in range(math.ceil(len(tiles) / columns)):
        shown = tiles[row * columns : (row + 1) * columns]
        strip = np.full((max(map(len, shown)) + GAP, width, 3), WHITE, np.uint8)
        for column, one in enumerate(shown):
            left = GAP + column * (widest + GAP)
            strip[: len(one), left : left + one.shape[1]] = one
        parts.append(strip)
    drawn = [(name, MARKS[name]) for name in MARKS if name in set(marks)]
    return np.vstack([*parts, legend(table.names, table.palette, present, width, drawn)])
