"""What one reading of somebody's images and labels finds out: all that is said of them, or decided, comes from here."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Pair:
    """An image and its label, before they are read.

    Attributes:
        name: the stem of the prepared files.
        split: "train", "val" or "test".
        image: the image file.
        labels: the label file; more than one where each class has a mask of its own; none of an image without label.
    """

    name: str
    split: str
    image: Path
    labels: tuple[Path, ...]


@dataclass(frozen=True)
class PairFacts:
    """What reading a pair found.

    Attributes:
        pair: which.
        size: (height, width) of the image.
        label_size: that of the label, or None.
        bands: of the image.
        dtype: NumPy's name of the image's numbers.
        digest: of the image's pixels; equal for images that show the same, whatever their files.
        band_sums, band_squares: float64 [bands], sums of the image's finite values and of their squares.
        values: int64 [V], the label's distinct values, ascending: ids, or colours as red << 16 | green << 8 | blue.
        counts: int64 [V], pixels of each.
        edge_counts: int64 [V], those of them with a neighbour (of four) of another value.
        lossy: whether the label is a JPEG or WebP with loss.
        band_counts: int64 [bands], the values summed up; None where all are finite.
    """

    pair: Pair
    size: tuple[int, int]
    label_size: tuple[int, int] | None
    bands: int
    dtype: str
    digest: bytes
    band_sums: np.ndarray
    band_squares: np.ndarray
    values: np.ndarray
    counts: np.ndarray
    edge_counts: np.ndarray
    lossy: bool = False
    band_counts: np.ndarray | None = None


@dataclass(frozen=True)
class Entry:
    """A class, or values that are ignored, as the prepared labels will have it.

    Attributes:
        value: the label's value, as in ``PairFacts.values``; None for what COCO or a table names but no pixel needs.
        id: that of the prepared labels, 0..255.
        name: of the class.
        colour: red, green, blue.
        ignored: whether training and scoring pass over it.
    """

    value: int | None
    id: int
    name: str
    colour: tuple[int, int, int]
    ignored: bool = False


@dataclass
class Survey:
    """Everything that was found.

    Attributes:
        recognised: sentences on what the images and labels were taken for, and how they were paired.
        colours: whether label values are colours.
        entries: classes and ignored values, by ascending id; none where no table can be made.
        facts: of all pairs that could be read.
        images_alone: images without a label; labels_alone: labels without an image.
        problems: what could not be read or does not fit, a line each.
    """

    recognised: list[str]
    colours: bool
    entries: list[Entry]
    facts: list[PairFacts]
    images_alone: list[Path] = field(default_factory=list)
    labels_alone: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
