"""Pictures for a report: which pairs, how they are shown, and as text that stands in a page."""

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datasets.seg.files import read_label
from datasets.seg.own.facts import Entry, PairFacts
from datasets.seg.own.statistics import SPLITS, Totals
from datasets.seg.raster import SUFFIXES, read_raster
from lib.base.errors import UserError

Load = Callable[[PairFacts], tuple[np.ndarray, np.ndarray | None]]
"""From a pair to its image [H, W, C], the file's order of bands, and its label uint8 [H, W] of the entries' ids, or
None; raises UserError or OSError where there is none."""

SIDE, SMALL_SIDE = 480, 160
"""Pixels of the longer side of a sample, and of a picture beside a finding."""
BYTES, SMALL_BYTES = 55_000, 9_000
"""Of an encoded picture: 28 samples and some dozen small ones are to be under 3 MB in all."""
QUALITIES = (82, 70, 55, 40)
"""Of JPEG: tried in turn until the picture is small enough."""

SAMPLES = {"train": 8, "val": 4, "test": 2}
"""Pairs shown of each split."""

ALPHA = 0.5
"""Of a class's colour over the image."""
NUMBERED = 0.004
"""Share of a picture from which a class's region bears the class's id."""
PERCENTILES = (2, 98)
"""Of a band of a deep image that become black and white."""


@dataclass(frozen=True)
class Shown:
    """A pair as a page shows it: uint8 [h, w, 3] RGB, the overlay None of an image without label.

    ``present``: ids of the classes in the label, those with most pixels first, and their shares of the pixels.
    """

    image: np.ndarray
    overlay: np.ndarray | None
    present: list[tuple[int, float]]


def prepared(root: Path) -> Load:
    """Loads pairs from the DATA_DIR ``root`` that was written for them."""

    def load(facts: PairFacts) -> tuple[np.ndarray, np.ndarray | None]:
        folder, name = root / facts.pair.split, facts.pair.name
        for suffix in SUFFIXES:
            path = folder / "image" / (name + suffix)
            if path.exists():
                label = folder / "label" / f"{name}.png"
                return read_raster(path), read_label(label) if label.exists() else None
        raise UserError(f"{folder / 'image' / name} is missing: prepare the data again")

    return load


def show(facts: PairFacts, load: Load, entries: Sequence[Entry], side: int = SIDE) -> Shown | None:
    """The pair, its longer side ``side`` pixels at the most; None where it cannot be loaded."""
    try:
        raster, label = load(facts)
    except (UserError, OSError):
        return None
    scale = min(1.0, side / max(raster.shape[:2]))
    size = [max(1, round(length * scale)) for length in raster.shape[1::-1]]
    image = cv2.resize(as_picture(raster), size, interpolation=cv2.INTER_AREA)
    if label is None:
        return Shown(image, None, [])
    ids, counts = np.unique(label, return_counts=True)
    classes = {entry.id: entry.colour for entry in entries if not entry.ignored}
    present = sorted((-count / label.size, id_) for id_, count in zip(ids.tolist(), counts.tolist(), strict=True))
    small = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
    over = tint(image, small, classes)
    if side > SMALL_SIDE:
        over = number_regions(over, small, [id_ for id_ in ids.tolist() if id_ in classes])
    return Shown(image, over, [(id_, -part) for part, id_ in present if id_ in classes])


def as_picture(raster: np.ndarray) -> np.ndarray:
    """uint8 RGB of an image [H, W, C] of any kind: its first three bands, or the first one as grey.

    Bands of 16 bits and floats are stretched, each between two percentiles of its finite values.
    """
    bands = raster[..., :3] if raster.shape[2] >= 3 else raster[..., :1]
    if bands.dtype != np.uint8:
        bands = np.dstack([_stretch(bands[..., band]) for band in range(bands.shape[2])])
    return np.ascontiguousarray(np.broadcast_to(bands, (*bands.shape[:2], 3)))


def _stretch(band: np.ndarray) -> np.ndarray:
    """uint8 [H, W] of a band of any numbers; what is not finite is black."""
    finite = np.isfinite(band)
    if not finite.any():
        return np.zeros(band.shape, np.uint8)
    low, high = np.percentile(band[finite].astype(np.float64), PERCENTILES)
    grey = (np.where(finite, band, low).astype(np.float64) - low) * (255 / max(high - low, 1e-12))
    return grey.clip(0, 255).round().astype(np.uint8)


def tint(image: np.ndarray, label: np.ndarray, colour_of: dict[int, tuple[int, int, int]]) -> np.ndarray:
    """The image with the classes' colours over it, what is ignored as it is; as ``lib.vis.overlay``, without torch."""
    colours, tinted = np.zeros((256, 3), np.uint8), np.zeros(256, bool)
    for id_, colour in colour_of.items():
        colours[id_], tinted[id_] = colour, True
    return np.where(tinted[label][..., None], cv2.addWeighted(colours[label], ALPHA, image, 1 - ALPHA, 0), image)


def number_regions(picture: np.ndarray, label: np.ndarray, ids: Iterable[int]) -> np.ndarray:
    """Write each id into the thickest place of its class: colours alone do not tell classes apart for all readers."""
    picture = picture.copy()
    for id_ in ids:
        mask = np.pad((label == id_).astype(np.uint8), 1)
        if mask.sum() < NUMBERED * label.size:
            continue
        _, radius, _, (x, y) = cv2.minMaxLoc(cv2.distanceTransform(mask, cv2.DIST_L2, 3))
        text, font, scale = str(id_), cv2.FONT_HERSHEY_SIMPLEX, 0.7
        (width, height), _ = cv2.getTextSize(text, font, scale, 1)
        if radius < height / 3:
            continue
        at = (x - 1 - width // 2, y - 1 + height // 2)
        for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 2)):
            cv2.putText(picture, text, at, font, scale, colour, thickness, cv2.LINE_AA)
    return picture


def data_uri(picture: np.ndarray, most: int = BYTES) -> str:
    """The picture as a JPEG of up to ``most`` bytes, inside an address."""
    while True:
        for quality in QUALITIES:
            _, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
            if len(encoded) <= most or max(picture.shape) <= 16:
                return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
        picture = cv2.resize(picture, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)


def choose(totals: Totals) -> dict[str, list[PairFacts]]:
    """Pairs to show of each split: such that each class appears if possible, the others spread over the split."""
    chosen, spare = {}, 0
    for split in reversed(SPLITS):
        facts = sorted(totals.of(split), key=lambda one: one.pair.name)
        wanted = SAMPLES[split] + spare
        chosen[split] = _cover(facts, [totals.places(one) for one in facts], wanted)
        spare = wanted - len(chosen[split])
    return {split: chosen[split] for split in SPLITS}


def _cover(facts: list[PairFacts], classes: list[set[int]], wanted: int) -> list[PairFacts]:
    """Up to ``wanted`` of the pairs, in their order: greedily those with most classes that are not yet shown."""
    taken: list[int] = []
    left = set().union(*classes)
    while left and len(taken) < wanted:
        # Of equals, the first.
        best = max(range(len(facts)), key=lambda place: (len(classes[place] & left), -place))
        taken.append(best)
        left -= classes[best]
    others = [place for place in range(len(facts)) if place not in set(taken)]
    more = min(wanted - len(taken), len(others))
    taken += [others[(2 * n + 1) * len(others) // (2 * more)] for n in range(more)]
    return [facts[place] for place in sorted(taken)]
