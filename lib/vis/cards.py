"""An image of a dataset drawn to be looked at: its label over it, a class of it, its crop, or a run's mistakes.

Pictures, train ids and palettes as in ``lib.vis.overlay``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from datasets.seg.classes import ClassTable
from datasets.seg.dataset import Pixels
from lib.vis.errors import RED, error_map
from lib.vis.overlay import SWATCH, WHITE, denormalise, overlay

GAP = 4
"""White pixels between the panels of a card."""


@dataclass(frozen=True)
class Card:
    """One picture and what is said of it.

    Attributes:
        name: of the image.
        note: what there is to say besides; may be empty.
        picture: RGB uint8 [H, W, 3].
        shares: of the picture's pixels, 0..1, by train id; classes that do not occur are left out.
        score: by which cards can be sorted, if they have one.
        marks: names of what is drawn that is no class, keys of ``MARKS``.
        coloured: the train ids whose colours are in the picture; None: all of ``shares``.
    """

    name: str
    note: str
    picture: np.ndarray
    shares: dict[int, float] = field(default_factory=dict)
    score: float | None = None
    marks: tuple[str, ...] = ()
    coloured: tuple[int, ...] | None = None


def label_card(item: dict[str, Any], table: ClassTable, pixels: Pixels) -> Card:
    """An image, its label over it where it has one; what is ignored is hatched.

    Args:
        item: of an ``EvalDataset``.
        table, pixels: the dataset's.
    """
    picture, name = _picture(item, pixels), item["meta"]["name"]
    note = f"{picture.shape[1]} x {picture.shape[0]}"
    if "label" not in item:
        return Card(name, f"{note}, no label", picture)
    label = _label(item)
    shown, marks = with_label(picture, label, table, ~_counted(label, table))
    return Card(name, note, shown, _shares(label, table), marks=marks)


def class_card(item: dict[str, Any], table: ClassTable, pixels: Pixels, train_id: int) -> Card:
    """An image in which one class is in its colours, outlined in the class's, and all else dark and grey."""
    picture, label = _picture(item, pixels), _label(item)
    shares, of_class = _shares(label, table), label == train_id
    shown = np.where(of_class[..., None], picture, cv2.cvtColor(_grey(picture) // 3 + 24, cv2.COLOR_GRAY2RGB))
    outlines, _ = cv2.findContours(of_class.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    colour = tuple(int(part) for part in table.palette[train_id])
    # White below the class's colour, which may be as dark as what is around it
    for tone, width in (((WHITE,) * 3, 3), (colour, 1)):
        cv2.drawContours(shown, outlines, -1, tone, width * max(1, picture.shape[1] // 600))
    note = f"{_percent(shares.get(train_id, 0))} of the image"
    return Card(item["meta"]["name"], note, shown, shares, coloured=(train_id,))


def crop_card(item: dict[str, Any], table: ClassTable, pixels: Pixels, note: str) -> Card:
    """What the network sees, pixel for pixel, and beside it the same with the label that it is to learn.

    Args:
        item: of a ``TrainDataset``.
        table, pixels: the dataset's.
        note: which crop of the training it is.
    """
    picture, label = _picture(item, pixels), _label(item)
    ignored = ~_counted(label, table)
    padding = ignored & (item["image"].numpy() == 0).all(axis=0)
    shown, marks = with_label(picture, label, table, ignored & ~padding)
    if padding.any():
        shown[padding] = checked(*padding.shape)[padding]
        marks += ("padding",)
    return Card(item["meta"]["name"], note, grid([picture, shown], 2), _shares(label, table), marks=marks)


def error_card(
    item: dict[str, Any], prediction: np.ndarray, table: ClassTable, pixels: Pixels, score: float, note: str
) -> Card:
    """Image, label, prediction and errors, two by two.

    Args:
        item: of an ``EvalDataset``, with a label.
        prediction: train ids, uint8 [H, W].
        table, pixels: the dataset's.
        score: by which it was chosen, 0..1.
        note: the score in words.
    """
    picture, label = _picture(item, pixels), _label(item)
    labelled, marks = with_label(picture, label, table, ~_counted(label, table))
    panels = [picture, labelled, overlay(picture, prediction, table.palette)]
    panels.append(error_map(picture, prediction, label, len(table)))
    shares = {int(train_id): 0.0 for train_id in np.unique(prediction) if train_id < len(table)}
    marks += ("wrong",)
    return Card(item["meta"]["name"], note, grid(panels, 2), shares | _shares(label, table), score, marks)


def with_label(
    picture: np.ndarray, label: np.ndarray, table: ClassTable, ignored: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The picture tinted by class, the ``ignored`` pixels (bool [H, W]) hatched; and the marks that are on it."""
    shown = overlay(picture, label, table.palette)
    if not ignored.any():
        return shown, ()
    return hatched(shown, ignored, max(8, picture.shape[1] // 60)), ("ignored",)


def hatched(picture: np.ndarray, where: np.ndarray, period: int = 8) -> np.ndarray:
    """A copy of ``picture`` with light and dark diagonals, ``period`` pixels apart, ``where`` (bool [H, W]) is true."""
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    phase = (rows + columns) % period
    shown = picture.copy()
    shown[where & (phase < period // 4)] = 230
    shown[where & (phase >= period // 4) & (phase < period // 2)] = 40
    return shown


def checked(height: int, width: int) -> np.ndarray:
    """A grey chessboard, uint8 [height, width, 3]: nothing is there."""
    rows, columns = np.ogrid[:height, :width]
    return np.repeat(np.where((rows // 7 + columns // 7) % 2, 150, 105).astype(np.uint8)[..., None], 3, axis=2)


def grid(panels: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures of one size in rows of ``columns``, ``GAP`` white pixels between."""
    height, width = panels[0].shape[:2]
    rows = math.ceil(len(panels) / columns)
    shown = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), WHITE, np.uint8)
    for index, panel in enumerate(panels):
        top, left = (index // columns) * (height + GAP), (index % columns) * (width + GAP)
        shown[top : top + height, left : left + width] = panel
    return shown


def _swatch(colour: int | tuple[int, int, int]) -> np.ndarray:
    return np.full((SWATCH, SWATCH, 3), colour, np.uint8)


MARKS = {
    "ignored": hatched(_swatch(128), np.ones((SWATCH, SWATCH), bool)),
    "padding": checked(SWATCH, SWATCH),
    "wrong": _swatch(RED),
}
"""What cards show that is no class, for legends: RGB uint8 [SWATCH, SWATCH, 3] each."""


def _picture(item: dict[str, Any], pixels: Pixels) -> np.ndarray:
    return denormalise(item["image"], pixels.mean, pixels.std, pixels.color_order)


def _label(item: dict[str, Any]) -> np.ndarray:
    return item["label"].numpy().astype(np.uint8)


def _counted(label: np.ndarray, table: ClassTable) -> np.ndarray:
    return label < len(table)


def _grey(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def _shares(label: np.ndarray, table: ClassTable) -> dict[int, float]:
    counts = np.bincount(label.ravel(), minlength=len(table))[: len(table)]
    return {int(train_id): counts[train_id] / label.size for train_id in np.flatnonzero(counts)}


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
