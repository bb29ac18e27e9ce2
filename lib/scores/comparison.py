"""Two runs on the same images: what differs, and whether by more than chance; needs no PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.base.errors import UserError
from lib.base.names import printable
from lib.scores.bootstrap import FEW, PAIRED_RESAMPLES, SEED, Difference, paired
from lib.scores.per_image import ImageCounts, class_iou, mean_iou
from lib.scores.segmentation import percent


@dataclass(frozen=True)
class Comparison:
    """A second run against a first.

    Attributes:
        classes: names of the K classes.
        images: number of images.
        iou: of each class in the first and in the second run, float64 [2, K], nan where it does not occur.
        miou: of both.
        difference: what the paired bootstrap says of the second mIoU less the first.
    """

    classes: Sequence[str]
    images: int
    iou: np.ndarray
    miou: tuple[float, float]
    difference: Difference

    @classmethod
    def of(cls, first: ImageCounts, second: ImageCounts) -> "Comparison":
        """Compare counts of the same images and classes."""
        sums = np.stack([counts.stacked.sum(axis=0) for counts in (first, second)])
        miou = tuple(mean_iou(sums).tolist())
        return cls(first.classes, len(first.names), class_iou(sums), miou, paired(first, second))

    @property
    def gain(self) -> float:
        """The second mIoU less the first, as a fraction."""
        return self.miou[1] - self.miou[0]

    def table(self, first: str, second: str) -> str:
        """IoU of each class in percent, and the difference, under the letters by which the runs go."""
        width = max(map(len, [*self.classes, "mean IoU"]))
        rule = "-" * (width + 33)
        rows = [(name, *ious) for name, *ious in zip(self.classes, *self.iou.tolist(), strict=True)]
        lines = [
            f"{name:<{width}}  {percent(one):>7}  {percent(other):>7}  {_signed(other - one):>13}"
            for name, one, other in [*rows, ("mean IoU", *self.miou)]
        ]
        head = f"{'class':<{width}}  {first + ' IoU %':>7}  {second + ' IoU %':>7}  {second + ' less ' + first:>13}"
        return "\n".join([head, rule, *lines[:-1], rule, lines[-1]])

    def verdict(self, first: str, second: str) -> str:
        """What the difference of mIoU is worth, in words."""
        found = self.difference
        if np.isnan(found.low):
            what = "nothing counts in these images" if np.isnan(self.gain) else "one image tells nothing of chance"
            return f"{second} less {first}: {_signed(self.gain)} points of mIoU; {what}."
        said = (
            f"{second} less {first}: {_signed(self.gain)} points of mIoU, 95 % interval {_signed(found.low)} to "
            f"{_signed(found.high)}, p = {found.p:.2g} ({PAIRED_RESAMPLES} paired draws of the {self.images} images)."
        )
        if found.is_more_than_chance:
            better = second if self.gain > 0 else first
            said += f"\n{better} is better by more than the choice of images makes by chance."
        else:
            said += "\nThat is no more than the choice of images makes by chance."
        if self.images < FEW:
            said += f" Of fewer than {FEW} images the interval is too narrow: take it as a hint."
        return said + " What other seeds would train is another question."

    def as_dict(self) -> dict[str, Any]:
        """The same, fit for JSON, as fractions: None stands for nan."""
        found = self.difference
        return {
            "miou": [_number(value) for value in self.miou],
            "difference": _number(self.gain),
            "interval": [_number(found.low), _number(found.high)],
            "p": _number(found.p),
            "is_more_than_chance": not np.isnan(found.low) and found.is_more_than_chance,
            "resamples": PAIRED_RESAMPLES,
            "seed": SEED,
            "iou": [[_number(value) for value in row] for row in self.iou.tolist()],
            "iou_difference": [_number(value) for value in (self.iou[1] - self.iou[0]).tolist()],
        }


def require_alike(first: ImageCounts, second: ImageCounts, files: tuple[object, object]) -> None:
    """Raise UserError, naming the first difference, unless both counts, of ``files``, are of the same labels."""
    for kind, what, nouns in (("names", "image", "images"), ("classes", "class", "classes")):
        mine, other = (getattr(counts, kind) for counts in (first, second))
        for place, (a, b) in enumerate(zip(mine, other, strict=False), 1):
            if a != b:
                raise UserError(
                    f"{what} {place} is '{printable(a)}' in {files[0]} and '{printable(b)}' in {files[1]}: "
                    "compare runs on the same data"
                )
        if len(mine) != len(other):
            raise UserError(
                f"{files[0]} has {len(mine)} {nouns} and {files[1]} {len(other)}: compare runs on the same data"
            )
    differs = (first.labelled != second.labelled).any(axis=1)
    if differs.any():
        name = first.names[int(differs.argmax())]
        raise UserError(
            f"the label of image '{printable(name)}' counts other pixels in {files[0]} than in {files[1]}: "
            "compare runs on the same labels"
        )


def most_changed(counts: Sequence[ImageCounts], most: int) -> list[int]:
    """Up to ``most`` images, the one first whose own mIoU differs most between the first run and any other."""
    miou = np.stack([each.miou for each in counts])  # [runs, n]
    change = np.nan_to_num(np.abs(miou[1:] - miou[0]).max(axis=0))
    order = np.argsort(-change, kind="stable")
    return [int(image) for image in order[:most] if change[image] > 0]


def _signed(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:+.2f}"


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
