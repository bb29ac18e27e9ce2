"""Which images a run is worst at, by what ``val`` or ``test`` left in its folder; needs no PyTorch."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasets.seg.classes import ClassTable
from lib.base.errors import UserError
from lib.scores.folders import LabelPair, class_matrix, count_pair

if TYPE_CHECKING:
    from datasets.seg.dataset import Sample


def image_ious(folder: Path, samples: "list[Sample]", table: ClassTable) -> np.ndarray:
    """IoU of each class in each image, float64 [len(samples), K], 0..1; nan where a class is in neither.

    Args:
        folder: of a split in a run, with ``label/<name>.png`` in the dataset's ids.
        samples: the labelled images of that split.
        table: the dataset's classes.

    Raises:
        UserError: the folder holds no predictions, or not those of these images.
    """
    missing = [sample.name for sample in samples if not prediction_of(folder, sample.name).is_file()]
    if len(missing) == len(samples):
        raise UserError(
            f"{folder / 'label'} holds no prediction of these {len(samples)} images: "
            f"run 'python main.py {folder.name}' for this run and this data first"
        )
    if missing:
        raise UserError(
            f"{prediction_of(folder, missing[0])} is missing (and {len(missing) - 1} others): run 'python main.py "
            f"{folder.name}' for this run again"
        )
    pairs = [LabelPair(prediction_of(folder, sample.name), sample.label) for sample in samples]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        matrices = pool.map(lambda pair: class_matrix(count_pair(pair, table), table), pairs)
        counts = [(matrix.diagonal(), matrix[:, :-1].sum(0), matrix.sum(1)) for matrix in matrices]
    return ious(*(np.array(kind) for kind in zip(*counts, strict=True)))


def ious(intersection: np.ndarray, predicted: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Intersection over union of pixel counts of any one shape; nan where there are none."""
    union = predicted + labelled - intersection
    return np.where(union > 0, intersection / np.maximum(union, 1), np.nan)


def worst_first(scores: np.ndarray) -> list[int]:
    """The indices of all ``scores`` [n] that are not nan, ascending by score; equal ones in their order."""
    order = np.argsort(scores, kind="stable")
    return order[: len(scores) - np.isnan(scores).sum()].tolist()


def mean_ious(iou: np.ndarray) -> np.ndarray:
    """Each image's mean over the classes that it has, [n], of IoU [n, K]; nan where none counts."""
    counted = ~np.isnan(iou)
    return np.where(counted.any(1), np.nansum(iou, axis=1) / np.maximum(counted.sum(1), 1), np.nan)


def prediction_of(folder: Path, name: str) -> Path:
    """Where a run's folder of a split keeps the label image of an image."""
    return folder / "label" / f"{name}.png"
