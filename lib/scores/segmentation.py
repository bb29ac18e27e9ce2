"""Scores of a segmentation, from its confusion matrix; needs no PyTorch."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scores:
    """Scores of a data set, as fractions 0..1; nan where nothing was counted.

    Attributes:
        miou: mean of ``iou`` over the classes that occur.
        pixel_accuracy: share of the counted pixels that are right.
        mean_accuracy: mean of ``accuracy`` over the classes in the labels.
        frequency_weighted_iou: mean of ``iou`` weighted by the classes' shares of the labels.
        iou: intersection over union of each class; nan for a class neither predicted nor in the labels.
        accuracy: share of each class's pixels that are right (its recall); nan for a class that no label has.
    """

    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float
    iou: list[float]
    accuracy: list[float]

    @classmethod
    def of(cls, matrix: np.ndarray) -> "Scores":
        """Scores of a confusion matrix.

        IoU = TP / (TP + FP + FN) over all images together, as the Cityscapes benchmark counts it: a class that is
        neither predicted nor in the labels is left out of the means.

        Args:
            matrix: integer [K, K], pixels of label class (row) and predicted class (column); or [K, K + 1], the last
                column for pixels predicted as none of the K classes, which are wrong but no class's false positives.
        """
        matrix = matrix.astype(np.float64)
        right, labelled, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)[: len(matrix)]
        total = matrix.sum()
        iou, accuracy = ratio(right, labelled + predicted - right), ratio(right, labelled)
        share = ratio(labelled, total)
        return cls(
            miou=mean_of(iou),
            pixel_accuracy=float(ratio(right.sum(), total)),
            mean_accuracy=mean_of(accuracy),
            frequency_weighted_iou=float(np.nansum(share * iou)) if total else math.nan,
            iou=iou.tolist(),
            accuracy=accuracy.tolist(),
        )

    @property
    def means(self) -> dict[str, float]:
        """The scores over all classes, under their names in full."""
        return {
            "mean IoU": self.miou,
            "pixel accuracy": self.pixel_accuracy,
            "mean accuracy": self.mean_accuracy,
            "frequency-weighted IoU": self.frequency_weighted_iou,
        }

    def as_dict(self) -> dict[str, float | list[float | None] | None]:
        """The scores under their names, fit for JSON: None stands for nan."""
        return {
            name: [_json_number(entry) for entry in value] if isinstance(value, list | tuple) else _json_number(value)
            for name, value in vars(self).items()
        }

    def table(self, names: Sequence[str]) -> str:
        """The scores in percent as aligned text, one line for each of the K class ``names``, then the means."""
        width = max(map(len, [*names, *self.means]))
        rule = "-" * (width + 20)
        rows = zip(names, self.iou, self.accuracy, strict=True)
        return "\n".join(
            [
                f"{'class':<{width}}  {'IoU %':>6}  {'accuracy %':>10}",
                rule,
                *(f"{name:<{width}}  {percent(iou):>6}  {percent(accuracy):>10}" for name, iou, accuracy in rows),
                rule,
                *(f"{name:<{width}}  {percent(value):>6}" for name, value in self.means.items()),
            ]
        )

    def csv(self, names: Sequence[str]) -> str:
        """One line for each of the K class ``names`` below a header: class, iou, accuracy; empty where it is nan."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["class", "iou", "accuracy"])
        for name, *values in zip(names, self.iou, self.accuracy, strict=True):
            writer.writerow([name, *("" if math.isnan(value) else value for value in values)])
        return text.getvalue()


def ratio(part: np.ndarray | np.float64, whole: np.ndarray | np.float64) -> np.ndarray:
    """``part / whole``, nan where ``whole`` is 0."""
    with np.errstate(invalid="ignore"):
        return np.divide(part, whole)


def mean_of(values: np.ndarray) -> float:
    """Mean of the values that are not nan; nan where all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _json_number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def percent(value: float) -> str:
    """A fraction in percent, ``-`` for nan."""
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
