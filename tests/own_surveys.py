"""Surveys of arrays, each figure computed in the plainest way: what a diagnosis is tried on without files."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from datasets.seg.own.facts import Entry, Pair, PairFacts, Survey


def photo(seed: int, height: int = 24, width: int = 32, bands: int = 3) -> np.ndarray:
    """An image that no other seed gives."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)


def gaps(image: np.ndarray) -> np.ndarray:
    """The image as floats, its first four rows without values."""
    image = image.astype(np.float32)
    image[:4] = np.nan
    return image


def scene(seed: int, values: Iterable[int], height: int = 24, width: int = 32) -> np.ndarray:
    """A label with a block of each value, turned by the seed."""
    values = list(values)
    columns = np.repeat(values, -(-width // len(values)))[:width]
    return np.tile(np.roll(columns, seed), (height, 1))


def facts(
    name: str, image: np.ndarray, label: np.ndarray | None, split: str = "train", lossy: bool = False
) -> PairFacts:
    """What reading the pair finds, computed value by value."""
    found: dict[int, list[int]] = {}
    if label is not None:
        # Outside there is no neighbour: what is beside the border is as the border.
        around = np.pad(label, 1, mode="edge")
        for value in sorted(set(label.ravel().tolist())):
            here = label == value
            beside = [around[1:-1, :-2], around[1:-1, 2:], around[:-2, 1:-1], around[2:, 1:-1]]
            edge = np.any([neighbour != value for neighbour in beside], axis=0)
            found[value] = [int(here.sum()), int((here & edge).sum())]
    bands = [image[..., band].astype(np.float64) for band in range(image.shape[2])]
    counts = np.array([np.isfinite(band).sum() for band in bands])
    return PairFacts(
        pair=Pair(name, split, Path(f"images/{name}.png"), () if label is None else (Path(f"labels/{name}.png"),)),
        size=image.shape[:2],
        label_size=None if label is None else label.shape,
        bands=image.shape[2],
        dtype=image.dtype.name,
        digest=hashlib.sha256(f"{image.shape} {image.dtype}".encode() + image.tobytes()).digest(),
        band_sums=np.array([band[np.isfinite(band)].sum() for band in bands]),
        band_squares=np.array([(band[np.isfinite(band)] ** 2).sum() for band in bands]),
        values=np.array(list(found), np.int64),
        counts=np.array([numbers[0] for numbers in found.values()], np.int64),
        edge_counts=np.array([numbers[1] for numbers in found.values()], np.int64),
        lossy=lossy,
        band_counts=None if (counts == image.shape[0] * image.shape[1]).all() else counts,
    )


def entries(values: Iterable[int], ignored: Iterable[int] = (), names: dict[int, str] | None = None) -> list[Entry]:
    """A class for each value, of its id, unless it is ignored."""
    names, ignored = names or {}, set(ignored)
    return [
        Entry(value, value & 255, names.get(value, f"class_{value}"), (40 * value % 256, 90, 200), value in ignored)
        for value in sorted(values)
    ]


def survey(found: list[PairFacts], table: list[Entry] | None = None, colours: bool = False, **more: list) -> Survey:
    """All of it together; without ``table`` every value is a class, but 255, which is ignored."""
    values = {value for one in found for value in one.values.tolist()}
    return Survey(
        ["labels are masks of ids"], colours, entries(values, {255}) if table is None else table, found, **more
    )


def ordinary(train: int = 30, val: int = 10, values: Iterable[int] = (0, 1, 2)) -> list[PairFacts]:
    """Pairs that nothing is wrong with."""
    splits = ["train"] * train + ["val"] * val
    return [facts(f"{at:03}", photo(at), scene(at, values), split) for at, split in enumerate(splits)]


def to_split(one: PairFacts, split: str) -> PairFacts:
    """The same pair in another split."""
    return replace(one, pair=replace(one.pair, split=split))
