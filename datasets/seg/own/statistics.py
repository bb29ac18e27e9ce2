"""Figures of a survey: mean and deviation of the images, pixels and images of each class, the classes' weights."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from statistics import median_low

import numpy as np

from datasets.seg.own.facts import Entry, PairFacts, Survey

FORMAT = 1
"""Of facts.json."""

SPLITS = ("train", "val", "test")
LEAST_WEIGHT, MOST_WEIGHT = 0.25, 4.0
"""Of a class: beyond, a handful of pixels decides every step, or a class is as good as left out."""


@dataclass(frozen=True)
class Tally:
    """Label values and how often they occur.

    Attributes:
        values: int64 [V], distinct, ascending.
        pixels, edges: int64 [V], pixels of each, and those of them with a neighbour of another value.
        labels: int64 [V], labels that have it.
    """

    values: np.ndarray
    pixels: np.ndarray
    edges: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Counts:
    """Classes in the labels of some pairs.

    Attributes:
        pixels, images: int64 [K], pixels of each class, in order of ids, and labels that have it.
        around: int64 [K], all pixels of the labels that have the class.
        ignored, unknown: pixels of ignored values, and of values that the survey has no entry for.
        total: pixels of all labels.
        labels: number of labels.
    """

    pixels: np.ndarray
    images: np.ndarray
    around: np.ndarray
    ignored: int
    unknown: int
    total: int
    labels: int


class Totals:
    """Sums over a survey's pairs, each made when it is first asked for."""

    def __init__(self, survey: Survey) -> None:
        self.survey = survey
        self.labelled = [facts for facts in survey.facts if facts.label_size is not None]
        self._counts: dict[str | None, Counts] = {}

    @cached_property
    def classes(self) -> list[Entry]:
        return classes(self.survey)

    def of(self, split: str) -> list[PairFacts]:
        return [facts for facts in self.survey.facts if facts.pair.split == split]

    def counts(self, split: str | None = None) -> Counts:
        """Of the labels of one split, or of all."""
        if split not in self._counts:
            chosen = [facts for facts in self.labelled if split in (None, facts.pair.split)]
            self._counts[split] = count(self.survey, chosen)
        return self._counts[split]

    @cached_property
    def tally(self) -> Tally:
        """Of all labels."""
        return tally(self.labelled)

    @cached_property
    def _places(self) -> "Places":
        return Places(self.survey)

    def places(self, facts: PairFacts) -> set[int]:
        """The classes that a label has, by their places in ``classes``."""
        return {place for place in self._places(facts).tolist() if place < len(self.classes)}


def classes(survey: Survey) -> list[Entry]:
    """The entries that are classes, one an id, in order of ids: their places are the train ids."""
    return list({entry.id: entry for entry in sorted(survey.entries, key=_by_id) if not entry.ignored}.values())


def _by_id(entry: Entry) -> int:
    return entry.id


def tally(facts: Iterable[PairFacts]) -> Tally:
    """Sum up the labels' values."""
    chosen = [one for one in facts if len(one.values)]
    values, place = np.unique(
        np.concatenate([[], *(one.values for one in chosen)]).astype(np.int64), return_inverse=True
    )
    sums = []
    for parts in ([one.counts for one in chosen], [one.edge_counts for one in chosen]):
        total = np.zeros(len(values), np.int64)
        np.add.at(total, place, np.concatenate([[], *parts]).astype(np.int64))
        sums.append(total)
    return Tally(values, *sums, np.bincount(place, minlength=len(values)))


class Places:
    """From a label's values to the places of their classes: K for an ignored value, K + 1 for one without entry."""

    def __init__(self, survey: Survey) -> None:
        order = classes(survey)
        place_of_id = {entry.id: place for place, entry in enumerate(order)}
        self.ignored, self.unknown = len(order), len(order) + 1
        place_of = {
            entry.value: self.ignored if entry.ignored else place_of_id[entry.id]
            for entry in survey.entries
            if entry.value is not None
        }
        self._values = np.array(sorted(place_of), np.int64)
        # One more, for values above all that are known.
        self._places = np.array([*(place_of[value] for value in self._values.tolist()), self.unknown])

    def __call__(self, facts: PairFacts) -> np.ndarray:
        at = np.searchsorted(self._values, facts.values)
        known = at < len(self._values)
        known[known] = self._values[at[known]] == facts.values[known]
        return np.where(known, self._places[at], self.unknown)


def count(survey: Survey, facts: Iterable[PairFacts]) -> Counts:
    """Sum up classes over the labels of ``facts``."""
    places = Places(survey)
    pixels, around, images = np.zeros((3, places.unknown + 1), np.int64)
    labels = total = 0
    for one in facts:
        here = np.zeros(len(pixels), np.int64)
        np.add.at(here, places(one), one.counts)
        size = int(here.sum())
        pixels += here
        images += here > 0
        around += size * (here > 0)
        total, labels = total + size, labels + 1
    ignored, unknown = int(pixels[places.ignored]), int(pixels[places.unknown])
    end = places.ignored
    return Counts(pixels[:end], images[:end], around[:end], ignored, unknown, total, labels)


def class_weights(survey: Survey) -> list[float]:
    """Weights of the classes, in order of ids, from the train labels: the root of median frequency balancing.

    With f_c = pixels of c / pixels of the labels that have c, the balancing is median(f) / f_c (Eigen and Fergus,
    "Predicting depth, surface normals and semantic labels", 2015, section 4.3); its root moves less towards the rare
    classes. Clipped to ``LEAST_WEIGHT`` .. ``MOST_WEIGHT``; 1 of a class without pixels.
    """
    counts = Totals(survey).counts("train")
    there = counts.pixels > 0
    weights = np.ones(len(there))
    if there.any():
        frequency = counts.pixels[there] / counts.around[there]
        weights[there] = np.sqrt(np.median(frequency) / frequency).clip(LEAST_WEIGHT, MOST_WEIGHT)
    return weights.tolist()


def bands(facts: Iterable[PairFacts]) -> int:
    """The number of bands that most images have; grey images among images in colour count as these."""
    numbers = Counter(one.bands for one in facts)
    return max(numbers, key=lambda number: (numbers[number] * (number != 1 or len(numbers) == 1), number), default=0)


def mean_and_std(facts: Iterable[PairFacts]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation (of the population) of each band over all pixels of all images.

    Values that are not finite do not count. A grey image among images in colour has its values in all their bands, as
    it is read. Images of any other number of bands than ``bands`` are passed over.
    """
    facts = list(facts)
    number = bands(facts)
    sums, squares, counts = np.zeros((3, number))
    for one in facts:
        if one.bands in (1, number):
            sums += one.band_sums
            squares += one.band_squares
            counts += values(one)
    counts = np.maximum(counts, 1)
    mean = sums / counts
    # Rounding may bring the variance of a constant band below 0.
    return mean.tolist(), np.sqrt((squares / counts - mean**2).clip(0)).tolist()


def values(facts: PairFacts) -> np.ndarray:
    """How many values of each band are summed up, int64 [bands]."""
    pixels = facts.size[0] * facts.size[1]
    return np.full(facts.bands, pixels) if facts.band_counts is None else facts.band_counts


def measure(survey: Survey) -> dict:
    """What ``DATA_DIR/facts.json`` holds, as plain Python.

    Mean, deviation and number of bands (the file's order, RGB), the dtype, pixels by name of class and the share of
    ignored pixels are the train split's; width and height ([least, median, most]) those of train and val.
    """
    totals = Totals(survey)
    train = totals.of("train")
    mean, std = mean_and_std(train)
    counts = totals.counts("train")
    seen = train + totals.of("val")
    return {
        "format": FORMAT,
        "bands": bands(train),
        "dtype": Counter(one.dtype for one in train).most_common(1)[0][0] if train else "uint8",
        "mean": mean,
        "std": std,
        "images": {split: len(totals.of(split)) for split in SPLITS},
        "width": spread([one.size[1] for one in seen]),
        "height": spread([one.size[0] for one in seen]),
        "pixels": {entry.name: int(pixels) for entry, pixels in zip(totals.classes, counts.pixels, strict=True)},
        "ignored_share": counts.ignored / max(counts.total, 1),
    }


def spread(numbers: list[int]) -> list[int]:
    """[least, median, most]; the median is one of the numbers."""
    return [min(numbers), median_low(numbers), max(numbers)] if numbers else [0, 0, 0]
