"""How much scores owe to the choice of images: the bootstrap over images; needs no PyTorch.

Efron and Tibshirani: An Introduction to the Bootstrap, 1993, section 13.3. Of n images, n are drawn with replacement,
again and again, and scored anew each time; an interval goes from the 2.5th to the 97.5th percentile of these scores.
Where two runs are compared, each draw takes the same images of both. It says what other images of the same kind might
have given, not what training again would; of fewer than about 20 images it is too narrow.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lib.scores.per_image import ImageCounts, mean_iou

SEED = 0
RESAMPLES, PAIRED_RESAMPLES = 2000, 10_000
PERCENTILES = (2.5, 97.5)
FEW = 20
"""Images below which an interval is too narrow."""
AT_A_TIME = 1 << 22
"""Numbers in the largest array of a step."""


@dataclass(frozen=True)
class Difference:
    """What a paired bootstrap says of the difference of two mIoU.

    Attributes:
        low, high: of the 95 % interval.
        p: twice the share of the draws in which the difference is 0 or of the other sign, counted with the
            images as they are as one draw more (so that it is never 0); at most 1.
    """

    low: float
    high: float
    p: float

    @property
    def is_more_than_chance(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.low <= 0 <= self.high


def miou_interval(images: ImageCounts, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[float, float] | None:
    """The 95 % interval of mIoU, as fractions; None of fewer than two images or where nothing counts."""
    if len(images.names) < 2:
        return None
    drawn = np.concatenate([mean_iou(sums) for sums in _draws(images.stacked, resamples, seed)])
    return _interval(drawn)


def paired(first: ImageCounts, second: ImageCounts, resamples: int = PAIRED_RESAMPLES, seed: int = SEED) -> Difference:
    """What the bootstrap says of ``second``'s mIoU less ``first``'s; both are of the same images and classes.

    nan of fewer than two images or where nothing counts.
    """
    if len(first.names) < 2:
        return Difference(np.nan, np.nan, np.nan)
    both = np.stack([first.stacked, second.stacked], axis=1)  # [n, 2, 3, K]
    drawn = np.concatenate([np.diff(mean_iou(sums))[:, 0] for sums in _draws(both, resamples, seed)])
    drawn = drawn[~np.isnan(drawn)]
    interval = _interval(drawn)
    if interval is None:
        return Difference(np.nan, np.nan, np.nan)
    against = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    return Difference(*interval, p=min(1.0, 2 * (against + 1) / (len(drawn) + 1)))


def _draws(counts: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Sums [r, ...] over drawn images of counts [n, ...], a few draws at a time, ``resamples`` in all."""
    rng, images = np.random.default_rng(seed), len(counts)
    flat = counts.reshape(images, -1).astype(np.float64)
    step = max(1, AT_A_TIME // max(flat.shape))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        # How often each image was drawn; whole numbers, so that the sums are exact in whatever order they are taken.
        times = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
        yield (times.astype(np.float64) @ flat).reshape(rows, *counts.shape[1:])


def _interval(drawn: np.ndarray) -> tuple[float, float] | None:
    known = drawn[~np.isnan(drawn)]
    if not known.size:
        return None
    low, high = np.percentile(known, PERCENTILES)
    return float(low), float(high)
