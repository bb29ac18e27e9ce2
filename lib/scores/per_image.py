"""What each image adds to the scores, kept so that runs can be compared image by image; needs no PyTorch."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.base.regular import require_regular

FILE = "images.npz"
"""The file's name in ``val/`` and ``test/`` of a run."""
LARGEST_FILE, LARGEST_ARRAY = 1 << 28, 1 << 30
"""Bytes: of the file, and of one of its arrays once it is unpacked."""
MOST_PIXELS = 1 << 40
"""Of a class in an image; sums over any number of images that a file can hold stay exact in float64."""

COUNTS = ("intersection", "predicted", "labelled")
TEXTS = ("names", "classes")


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """Pixels of each class in each image; pixels that the label ignores count nowhere.

    Attributes:
        names: of the n images, in ascending order.
        intersection: int64 [n, K], pixels of the class in label and prediction.
        predicted: int64 [n, K], in the prediction.
        labelled: int64 [n, K], in the label.
        classes: names of the K classes; needed only to save.
    """

    names: list[str]
    intersection: np.ndarray
    predicted: np.ndarray
    labelled: np.ndarray
    classes: Sequence[str] = ()

    @classmethod
    def of(cls, counts_of: dict[str, np.ndarray], classes: Sequence[str]) -> "ImageCounts":
        """From each image's counts by its name, int64 [3, K] as ``image_counts`` gives them, in any order."""
        names = sorted(counts_of)
        rows = np.array([counts_of[name] for name in names], np.int64).reshape(len(names), 3, len(classes))
        return cls(names, rows[:, 0], rows[:, 1], rows[:, 2], classes)

    @property
    def stacked(self) -> np.ndarray:
        """Intersection, predicted and labelled in one array, int64 [n, 3, K]."""
        return np.stack([self.intersection, self.predicted, self.labelled], axis=1)

    @property
    def miou(self) -> np.ndarray:
        """Each image's own mIoU, over the classes that occur in it, float64 [n]; nan where nothing counts."""
        return mean_iou(self.stacked)

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` that holds no pickles; it appears whole or not at all."""
        arrays = {name: np.array(list(getattr(self, name)), str) for name in TEXTS}
        arrays |= {name: np.asarray(getattr(self, name), np.int64) for name in COUNTS}
        write_atomically(path, lambda file: np.savez_compressed(file, **arrays))

    @classmethod
    def load(cls, path: str | Path) -> "ImageCounts":
        """Read what ``save`` wrote; nothing in the file is trusted, and no pickle is read.

        Raises:
            UserError: there is no such file, or it is damaged or not of this kind.
        """
        require_regular(path, "the file", LARGEST_FILE)
        try:
            with zipfile.ZipFile(path) as archive:
                arrays = {name: _read(archive, name) for name in (*TEXTS, *COUNTS)}
            _check(arrays)
        except (ValueError, OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, MemoryError) as error:
            raise UserError(f"{path} holds no counts of images ({_reason(error)}): write it anew with val") from None
        except Exception as error:  # zlib's own has no common base with the others; NumPy's parser may raise more
            raise UserError(f"{path} holds no counts of images (it is damaged): write it anew with val") from error
        texts = {name: arrays[name].tolist() for name in TEXTS}
        return cls(**texts, **{name: arrays[name] for name in COUNTS})


def image_counts(matrix: np.ndarray) -> np.ndarray:
    """Intersection, predicted and labelled of each class, [3, K], of a confusion matrix as ``Scores.of`` takes it."""
    return np.stack([matrix.diagonal(), matrix.sum(axis=0)[: len(matrix)], matrix.sum(axis=1)])


def class_iou(counts: np.ndarray) -> np.ndarray:
    """IoU of each class, float64 [..., K], nan where it does not occur, from counts [..., 3, K]."""
    intersection, predicted, labelled = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    with np.errstate(invalid="ignore"):
        return intersection / (predicted + labelled - intersection)


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """Mean IoU over the classes that occur, float64 [...], nan where none does, from counts [..., 3, K]."""
    iou = class_iou(counts)
    occurs = ~np.isnan(iou)
    with np.errstate(invalid="ignore"):
        return np.where(occurs, iou, 0).sum(axis=-1) / occurs.sum(axis=-1)


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array, which is looked at before room is made for it."""
    try:
        member = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise ValueError(f"it has no {name}") from None
    if member.file_size > LARGEST_ARRAY:
        raise ValueError(f"{name} is too large")
    with archive.open(member) as file:
        shape, kind = _header(file, name)
        if kind.itemsize * int(np.prod(shape, dtype=object)) > member.file_size:
            raise ValueError(f"{name} is cut off")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"{name} is of another version")
    shape, _, kind = np.lib.format.read_array_header_1_0(file)
    if name in TEXTS and (kind.kind != "U" or len(shape) != 1):
        raise ValueError(f"{name} is no list of words")
    if name in COUNTS and (kind != np.int64 or len(shape) != 2):
        raise ValueError(f"{name} is no table of whole numbers")
    if min(shape) < 0:
        raise ValueError(f"{name} has no size")
    return shape, kind


def _check(arrays: dict[str, np.ndarray]) -> None:
    """Raise ValueError unless the arrays could be counts of images."""
    for name in TEXTS:
        if len(set(arrays[name].tolist())) != len(arrays[name]):
            raise ValueError(f"{name} repeat")
    shape = tuple(len(arrays[name]) for name in TEXTS)
    for name in COUNTS:
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has not as many rows and columns as there are images and classes")
        if arrays[name].size and (arrays[name].min() < 0 or arrays[name].max() > MOST_PIXELS):
            raise ValueError(f"{name} has numbers that count no pixels")
    if (arrays["intersection"] > np.minimum(arrays["predicted"], arrays["labelled"])).any():
        raise ValueError("intersection is larger than what it is of")


def _reason(error: Exception) -> str:
    return str(error) if type(error) is ValueError and len(str(error)) < 100 else "it is damaged"
