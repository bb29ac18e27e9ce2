"""The one reading of all images and labels: every file is decoded to its last pixel, and its figures kept."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from isal import isal_zlib
from tqdm import tqdm

from datasets.seg.own.facts import Pair, PairFacts
from datasets.seg.own.labels import COLOURS, RawLabel
from datasets.seg.raster import read_raster
from lib.base.errors import UserError

CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
EXACT_IN_FLOAT32 = 1 << 24
"""OpenCV counts in these."""


class Labels(Protocol):
    """Where labels come from."""

    def read(self, pair: Pair, size: tuple[int, int]) -> RawLabel: ...

    def sources(self, pair: Pair) -> tuple[Path, ...]: ...

    def recipe(self, pair: Pair) -> str: ...


@dataclass(frozen=True)
class Reading:
    """What reading a pair found: its facts, and what its label is (``RawLabel``; form "" of none).

    ``grey``: whether of all its colours red, green and blue are equal.
    """

    facts: PairFacts
    form: str
    palette: np.ndarray | None
    grey: bool
    plain: bool


def read_all(pairs: Sequence[Pair], labels: Labels | None, workers: int) -> tuple[list[Reading], list[str]]:
    """Read all pairs by threads, for decoding runs outside the interpreter's lock.

    Args:
        labels: what reads labels; pairs without label files are read without if it is None.

    Returns:
        The readings of those that can be read, in order, and a line of what is wrong with each other.
    """

    def attempt(pair: Pair) -> Reading | str:
        try:
            return read_pair(pair, labels)
        except UserError as error:
            return str(error)

    outcomes = in_threads(attempt, pairs, workers, "reading")
    return [one for one in outcomes if isinstance(one, Reading)], [one for one in outcomes if isinstance(one, str)]


def in_threads(job: Callable, items: Sequence, workers: int, what: str) -> list:
    """The results of ``job`` for all items, in order, with a bar of progress on a terminal."""
    pool = ThreadPoolExecutor(workers)
    # OpenCV's own threads would only get into the way of these.
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return list(tqdm(pool.map(job, items), total=len(items), desc=what, unit="pair", disable=None))
    finally:
        cv2.setNumThreads(before)
        pool.shutdown(cancel_futures=True)


def read_pair(pair: Pair, labels: Labels | None) -> Reading:
    """Decode an image and its label and take their figures; raises UserError, which names the bad one."""
    image = read_raster(pair.image)
    sums, squares, band_counts = band_sums(image)
    raw = labels.read(pair, image.shape[:2]) if labels and labels.sources(pair) else None
    values, counts, edges = value_counts(raw.values) if raw else np.zeros((3, 0), np.int64)
    facts = PairFacts(
        pair=pair,
        size=image.shape[:2],
        label_size=raw.values.shape if raw else None,
        bands=image.shape[2],
        dtype=image.dtype.name,
        digest=digest(image),
        band_sums=sums,
        band_squares=squares,
        band_counts=band_counts,
        values=values,
        counts=counts,
        edge_counts=edges,
        lossy=bool(raw and raw.lossy),
    )
    if raw is None:
        return Reading(facts, "", None, False, False)
    grey = raw.form == COLOURS and bool(((values & 255) * 0x010101 == values).all())
    return Reading(facts, raw.form, raw.palette, grey, raw.plain)


def digest(image: np.ndarray) -> bytes:
    """16 bytes that are the same for equal pixels, shapes and types, and by chance for no others.

    Two check sums of 32 bits, which take a fifth of the time of a cryptographic one: nobody is to be kept from forging.
    """
    data = np.ascontiguousarray(image).data.cast("B")
    sums = isal_zlib.crc32(data), isal_zlib.adler32(data)
    return hashlib.blake2b(f"{image.shape} {image.dtype} {sums}".encode(), digest_size=16).digest()


def band_sums(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Sums of the finite values of an image [H, W, C] and of their squares, float64 [C]; those of 8 bits are exact.

    The third are the numbers of these values, int64 [C], or None where all are finite.
    """
    pixels = image.shape[0] * image.shape[1]
    if image.dtype == np.uint8 and image.shape[2] <= 4:
        mean, std = cv2.meanStdDev(image)
        return np.rint(mean[:, 0] * pixels), np.rint((std[:, 0] ** 2 + mean[:, 0] ** 2) * pixels), None
    bands = [image[..., band].astype(np.float64).ravel() for band in range(image.shape[2])]
    with np.errstate(all="ignore"):
        sums, counts = np.array([band.sum() for band in bands]), None
    # NaN and infinity go on into a sum; nothing else makes it infinite, for the values are floats of 32 bits.
    if not np.isfinite(sums).all():
        bands = [band[np.isfinite(band)] for band in bands]
        sums, counts = np.array([band.sum() for band in bands]), np.array([len(band) for band in bands])
    return sums, np.array([np.dot(band, band) for band in bands]), counts


def value_counts(label: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct values of whole numbers [H, W], their pixels, and those with another value beside them (of four).

    Returns int64 [V] each, the values ascending.
    """
    if label.dtype == np.uint8 and label.size < EXACT_IN_FLOAT32:
        # Where the largest and the smallest of a pixel and its four neighbours are not one.
        edge = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, CROSS)
        counts, edges = (
            cv2.calcHist([label], [0], mask, [256], [0, 256]).ravel().astype(np.int64) for mask in (None, edge)
        )
        values = np.flatnonzero(counts)
        return values, counts[values], edges[values]
    beside, below = label[:, 1:] != label[:, :-1], label[1:] != label[:-1]
    edge = np.zeros(label.shape, bool)
    edge[:, 1:] |= beside
    edge[:, :-1] |= beside
    edge[1:] |= below
    edge[:-1] |= below
    if label.dtype in (np.uint8, np.uint16):
        counts = np.bincount(label.ravel())
        values = np.flatnonzero(counts)
        return values, counts[values], np.bincount(label[edge], minlength=len(counts))[values]
    # Sorting all pixels takes longer than to decode them; the first ones of runs are few.
    first = np.ones(label.shape, bool)
    first[:, 1:] = beside
    starts = np.flatnonzero(first)
    runs = label.ravel()[starts]
    values = np.sort(runs)
    values = values[np.append(True, values[1:] != values[:-1])]
    lengths = np.diff(starts, append=label.size)
    counts = np.bincount(np.searchsorted(values, runs), weights=lengths, minlength=len(values)).astype(np.int64)
    edges = np.bincount(np.searchsorted(values, label[edge]), minlength=len(values))
    return values.astype(np.int64), counts, edges
