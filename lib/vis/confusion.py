"""A confusion matrix as a picture."""

from collections.abc import Sequence

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_SIMPLEX
LARGE_CELL, SMALL_CELL = 34, 16
"""Sides of a cell in pixels: with its number in it, and where there are too many classes for that."""
MOST_NUMBERED = 40
"""Classes up to which cells hold numbers."""
WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (225, 225, 225)
FULL = (8, 48, 107)
"""Colour of a cell that holds its whole row."""
MARGIN = 6


def confusion_picture(matrix: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Draw a confusion matrix, each row as shares of its sum.

    Rows are the labels' classes, columns the predicted ones. A cell is the darker the larger its share, with the square
    root of it, so that rare confusions show; up to 40 classes it also holds the share in percent. The row of a class
    that no label has is grey.

    Args:
        matrix: integer [K, K], pixels of label class (row) and predicted class (column).
        names: of the K classes.

    Returns:
        RGB uint8 [H, W, 3].
    """
    has_numbers = len(names) <= MOST_NUMBERED
    cell = LARGE_CELL if has_numbers else SMALL_CELL
    total = matrix.sum(axis=1, keepdims=True)
    share = matrix / np.maximum(total, 1)
    colours = np.asarray(WHITE) + np.sqrt(share)[..., None] * (np.asarray(FULL) - np.asarray(WHITE))
    colours = np.where(total[..., None] > 0, np.rint(colours), GREY).astype(np.uint8)
    cells = np.kron(colours, np.ones((cell, cell, 1), np.uint8))
    cells[::cell] = cells[:, ::cell] = GREY  # the grid
    if has_numbers:
        _write_numbers(cells, share, cell)
    beside = _write_names(names, cell)
    corner = np.full((beside.shape[1], beside.shape[1], 3), WHITE, np.uint8)
    cv2.putText(corner, "label", (MARGIN, len(corner) - MARGIN), FONT, 0.42, BLACK, 1, cv2.LINE_AA)
    cv2.putText(corner, "predicted", (MARGIN, len(corner) // 2), FONT, 0.42, BLACK, 1, cv2.LINE_AA)
    above = cv2.rotate(_write_names(names[::-1], cell), cv2.ROTATE_90_CLOCKWISE)
    return np.vstack([np.hstack([corner, above]), np.hstack([beside, cells])])


def _write_names(names: Sequence[str], cell: int) -> np.ndarray:
    """The names one below the other, right-aligned, each ``cell`` pixels high."""
    sizes = [cv2.getTextSize(name, FONT, 0.42, 1)[0] for name in names]
    width = max(90, *(width for width, _ in sizes)) + 2 * MARGIN
    strip = np.full((cell * len(names), width, 3), WHITE, np.uint8)
    for row, (name, (text_width, text_height)) in enumerate(zip(names, sizes, strict=True)):
        place = (width - MARGIN - text_width, row * cell + (cell + text_height) // 2)
        cv2.putText(strip, name, place, FONT, 0.42, BLACK, 1, cv2.LINE_AA)
    return strip


def _write_numbers(cells: np.ndarray, share: np.ndarray, cell: int) -> None:
    """Write each share of half a percent or more into its cell, in percent."""
    for row, column in zip(*np.nonzero(share >= 0.005), strict=True):
        text = f"{100 * share[row, column]:.0f}"
        width, height = cv2.getTextSize(text, FONT, 0.4, 1)[0]
        place = (int(column * cell + (cell - width) // 2), int(row * cell + (cell + height) // 2))
        cv2.putText(cells, text, place, FONT, 0.4, WHITE if share[row, column] > 0.25 else BLACK, 1, cv2.LINE_AA)
