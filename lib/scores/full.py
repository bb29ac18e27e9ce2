"""All scores of a validation: those of the confusion matrix, and what takes longer or needs each image; no PyTorch."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.scores.bootstrap import miou_interval
from lib.scores.per_image import ImageCounts, class_iou, image_counts
from lib.scores.segmentation import Scores, mean_of, percent, ratio

COLUMNS = {
    "iou": "IoU %",
    "dice": "Dice %",
    "precision": "precision %",
    "recall": "recall %",
    "boundary_iou": "boundary IoU %",
}
"""Of the table on the screen."""


@dataclass(frozen=True)
class FullScores(Scores):
    """Further scores of a data set, as fractions 0..1.

    Those of a class are nan where it is neither in the labels nor predicted, and the means are over the others, as
    mIoU's is. So a class that is never predicted has the precision 0, and one that no label has the recall 0, where
    ``accuracy`` and ``mean_accuracy`` leave it out.

    Attributes:
        miou_interval: (low, high), 95 % of ``lib.scores.bootstrap``; None of fewer than two images.
        mean_dice, mean_precision, mean_recall, mean_boundary_iou: means over the classes that occur.
        dice: 2 TP / (2 TP + FP + FN) of each class, which is its F1.
        precision: TP / (TP + FP) of each class.
        recall: TP / (TP + FN) of each class.
        boundary_iou: of each class, as ``lib.scores.boundary`` defines it; this and its mean are None where it was not
            asked for.
    """

    miou_interval: tuple[float, float] | None
    mean_dice: float
    mean_precision: float
    mean_recall: float
    mean_boundary_iou: float | None
    dice: list[float]
    precision: list[float]
    recall: list[float]
    boundary_iou: list[float] | None

    @classmethod
    def of_all(cls, matrix: np.ndarray, images: ImageCounts, boundary: np.ndarray | None = None) -> "FullScores":
        """All scores.

        Args:
            matrix: as for ``Scores.of``.
            images: each image's part of it.
            boundary: int64 [3, K], the sum of all images' ``boundary_counts``, if that was counted.
        """
        right, predicted, labelled = image_counts(matrix).astype(np.float64)
        occurs = predicted + labelled > 0
        dice = ratio(2 * right, predicted + labelled)
        precision, recall = (
            np.where(occurs, np.nan_to_num(ratio(right, of)), math.nan) for of in (predicted, labelled)
        )
        near = None if boundary is None else class_iou(boundary)
        return cls(
            **vars(Scores.of(matrix)),
            miou_interval=miou_interval(images),
            mean_dice=mean_of(dice),
            mean_precision=mean_of(precision),
            mean_recall=mean_of(recall),
            mean_boundary_iou=None if near is None else mean_of(near),
            dice=dice.tolist(),
            precision=precision.tolist(),
            recall=recall.tolist(),
            boundary_iou=None if near is None else near.tolist(),
        )

    @property
    def means(self) -> dict[str, float]:
        """The scores that the columns of the table have no mean of, under their names in full."""
        return {name: value for name, value in super().means.items() if name != "mean IoU"}

    def as_dict(self) -> dict[str, float | list[float | None] | None]:
        """As ``Scores.as_dict``; boundary IoU only where it was asked for."""
        found = super().as_dict()
        found["miou_interval"] = self.miou_interval and list(self.miou_interval)
        return {name: value for name, value in found.items() if self._is_there(name)}

    def table(self, names: Sequence[str]) -> str:
        """As ``Scores.table``, with a column for each score, their means as its last line."""
        columns = {name: head for name, head in COLUMNS.items() if self._is_there(name)}
        interval = ""
        if self.miou_interval:
            interval = "  (95 % interval {} to {})".format(*map(percent, self.miou_interval))
        lines = ["mean", *self.means, "mean IoU"]
        width = max(map(len, [*names, *lines]))
        rule = "-" * (width + sum(2 + len(head) for head in columns.values()))

        def row(name: str, values: Sequence[float]) -> str:
            cells = zip(values, columns.values(), strict=True)
            return f"{name:<{width}}" + "".join(f"  {percent(value):>{len(head)}}" for value, head in cells)

        means = [self.miou if name == "iou" else getattr(self, f"mean_{name}") for name in columns]
        return "\n".join(
            [
                f"{'class':<{width}}" + "".join(f"  {head}" for head in columns.values()),
                rule,
                *(row(name, [getattr(self, column)[k] for column in columns]) for k, name in enumerate(names)),
                rule,
                row("mean", means),
                rule,
                f"{'mean IoU':<{width}}  {percent(self.miou):>6}{interval}",
                *(f"{name:<{width}}  {percent(value):>6}" for name, value in self.means.items()),
            ]
        )

    def csv(self, names: Sequence[str]) -> str:
        """As ``Scores.csv``, with a column for each score of a class."""
        columns = [name for name, value in vars(self).items() if isinstance(value, list)]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["class", *columns])
        for k, name in enumerate(names):
            values = (getattr(self, column)[k] for column in columns)
            writer.writerow([name, *("" if math.isnan(value) else value for value in values)])
        return text.getvalue()

    def _is_there(self, name: str) -> bool:
        return not (self.boundary_iou is None and name.endswith("boundary_iou"))
