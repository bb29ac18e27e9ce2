"""Scores of a segmentation: the confusion matrix, counted on the device, and what follows from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lib.errors import UserError


@dataclass(frozen=True)
class Scores:
    """Scores of a data set, as fractions 0..1; nan where nothing was counted.

    Attributes:
        miou: mean of ``iou`` over the classes that occur.
        pixel_accuracy: share of the counted pixels that are right.
        mean_accuracy: mean over the classes in the labels of the share of their pixels that are right.
        frequency_weighted_iou: mean of ``iou`` weighted by the classes' shares of the labels.
        iou: intersection over union of each class; nan for a class neither predicted nor in the labels.
    """

    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float
    iou: list[float]

    @classmethod
    def of(cls, matrix: np.ndarray) -> "Scores":
        """Scores of a confusion matrix: integer [K, K], pixels of label class (row) and predicted class (column).

        IoU = TP / (TP + FP + FN) over all images together, as the Cityscapes benchmark counts it: a class that is
        neither predicted nor in the labels is left out of the means.
        """
        matrix = matrix.astype(np.float64)
        right, labelled, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
        total = matrix.sum()
        iou = _ratio(right, labelled + predicted - right)
        share = _ratio(labelled, total)
        return cls(
            miou=_mean(iou),
            pixel_accuracy=float(_ratio(right.sum(), total)),
            mean_accuracy=_mean(_ratio(right, labelled)),
            frequency_weighted_iou=float(np.nansum(share * iou)) if total else math.nan,
            iou=iou.tolist(),
        )

    def as_dict(self) -> dict[str, float | list[float | None] | None]:
        """The scores under their names, fit for JSON: None stands for nan."""
        scores = {name: _json_number(value) for name, value in vars(self).items() if name != "iou"}
        return scores | {"iou": [_json_number(value) for value in self.iou]}

    def table(self, names: Sequence[str]) -> str:
        """The scores in percent as aligned text, one line for each of the K class ``names``, then the means."""
        means = {
            "mean IoU": self.miou,
            "pixel accuracy": self.pixel_accuracy,
            "mean accuracy": self.mean_accuracy,
            "frequency-weighted IoU": self.frequency_weighted_iou,
        }
        rows = list(zip(names, self.iou, strict=True))
        width = max(map(len, [*names, *means]))
        rule = "-" * (width + 8)
        lines = [f"{'class':<{width}}  {'IoU %':>6}", rule, *(_line(*row, width) for row in rows), rule]
        return "\n".join(lines + [_line(*row, width) for row in means.items()])


def _ratio(part: np.ndarray | np.float64, whole: np.ndarray | np.float64) -> np.ndarray:
    """``part / whole``, nan where ``whole`` is 0."""
    with np.errstate(invalid="ignore"):
        return np.divide(part, whole)


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are not nan; nan where all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _line(name: str, value: float, width: int) -> str:
    return f"{name:<{width}}  {'-' if math.isnan(value) else f'{100 * value:.2f}':>6}"


class ConfusionMatrix:
    """Counts pixels by label class and predicted class, on ``device``.

    Attributes:
        matrix: int64 [K, K], rows are the labels' classes, columns the predicted ones. Processes that share a
            validation sum theirs in place (``all_reduce``) before ``scores``.

    Args:
        num_classes: K.
        ignore: train id of the label pixels that do not count.
        device: where ``matrix`` lies and ``update`` counts.
    """

    def __init__(self, num_classes: int, ignore: int = 255, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.ignore = ignore
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count the pixels of a prediction.

        Args:
            prediction: train ids 0..K-1, any integer type and shape.
            label: train ids 0..K-1 or ``ignore``, any integer type, of the same shape. Neither is changed.

        Raises:
            UserError: for shapes that differ or another id; nothing of this call is counted then.
        """
        if prediction.shape != label.shape:
            raise UserError(
                f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} differ in size: compare one image"
            )
        device, classes = self.matrix.device, self.num_classes
        label, prediction = label.to(device), prediction.to(device)
        ignored = label == self.ignore
        # In place and of fixed size, with a bin for the ignored pixels: picking pixels out is several times slower.
        pair = label.to(torch.int32, copy=True).masked_fill_(ignored, 0)
        self._check(pair, f"label: only 0..{classes - 1} and {self.ignore} (ignored) are")
        self._check(prediction, f"prediction: only 0..{classes - 1} are")
        pair.mul_(classes).add_(prediction).masked_fill_(ignored, classes**2)
        self.matrix += torch.bincount(pair.flatten(), minlength=classes**2 + 1)[:-1].view_as(self.matrix)

    def _check(self, ids: Tensor, where: str) -> None:
        low, high = torch.stack(ids.aminmax()).tolist()  # one wait for the device, not two
        if low < 0 or high >= self.num_classes:
            raise UserError(f"{low if low < 0 else high} is not a train id of this {where}")

    def scores(self) -> Scores:
        """Scores of all that was counted."""
        return Scores.of(self.matrix.cpu().numpy())
