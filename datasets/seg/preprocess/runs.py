"""Masks in COCO's compressed run-length encoding, without trust in them."""

import numpy as np

from datasets.seg.preprocess.runner import LabelError

LONGEST = 7
"""Most characters of a run: as many as a number of 32 bits takes."""
MOST_PIXELS = 1 << 26
"""Pixels of the largest mask."""


def decode_runs(segment: dict, size: tuple[int, int]) -> np.ndarray:
    """Decode a mask in COCO's run-length encoding.

    Args:
        segment: "size" (H, W) and "counts", the compressed runs.
        size: (H, W) that it should have.

    Returns:
        bool [H, W].

    Raises LabelError if it is damaged or of another size; the message completes "a segment ...".
    """
    height, width = size
    try:
        own_size, counts = list(segment["size"]), segment["counts"].encode("ascii")
    except (KeyError, TypeError, AttributeError, UnicodeEncodeError) as error:
        raise LabelError("is not in COCO's compressed run-length encoding") from error
    if own_size != [height, width]:
        raise LabelError(f"has (height, width) {own_size}, but the image {[height, width]}")
    if height * width > MOST_PIXELS:
        raise LabelError(f"has {height} x {width} pixels, more than any image")
    runs = decode_counts(counts) if len(counts) <= LONGEST * (height * width + 1) else None
    if runs is None or (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise LabelError("has runs that do not fill the image")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def decode_counts(counts: bytes) -> np.ndarray | None:
    """The lengths of the runs, int64, by turns of pixels outside and inside; None if ``counts`` is damaged.

    A run is a number in base 32, its lowest digit first; the sixth bit of a digit says that another follows, the fifth
    bit of the last is the sign. From the fourth run on it is the difference from the last but one (``rleFrString`` of
    pycocotools).
    """
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        return None
    ends = np.flatnonzero(digits & 32 == 0)
    starts = np.append(0, ends[:-1] + 1)
    if (ends - starts).max() >= LONGEST:
        return None
    place = 5 * (np.arange(len(digits)) - np.repeat(starts, ends - starts + 1))
    runs = np.add.reduceat((digits & 31) << place, starts)
    runs -= np.where(digits[ends] & 16, np.int64(32) << place[ends], 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
