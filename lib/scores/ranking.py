"""Which images a run is worst at, by what ``val`` or ``test`` left in its folder; needs no PyTorch."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasets.seg.classes import ClassTable
from lib.base.errors import UserError
from lib.scores.folders import LabelPair, count_pair
from lib.scores.per_image import FILE, ImageCounts, image_counts

if TYPE_CHECKING:
    from datasets.seg.dataset import Sample


def counts_of(folder: Path, samples: "list[Sample]", table: ClassTable) -> np.ndarray:
    """Intersection, predicted and labelled pixels of each class in each image, int64 [len(samples), 3, K].

    They are read from ``images.npz``, or counted in the label images where an earlier version left no such file.

    Args:
        folder: of a split in a run, with ``label/<name>.png`` in the dataset's ids.
        samples: the labelled images of that split.
        table: the dataset's classes.

    Raises:
        UserError: the folder holds no predictions, or not those of these images or classes.
    """
    again = f"run 'python main.py {folder.name}' for this run and this data again"
    missing = [sample.name for sample in samples if not prediction_of(folder, sample.name).is_file()]
    if missing:
        others = f" (nor those of {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise UserError(f"{folder / 'label'} holds no prediction of {missing[0]}{others}: {again}")
    if not os.path.lexists(folder / FILE):
        pairs = [LabelPair(prediction_of(folder, sample.name), sample.label) for sample in samples]
        # Threads: reading, decoding and counting run outside the interpreter's lock.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return np.array(list(pool.map(lambda pair: image_counts(count_pair(pair, table).matrix), pairs)))
    kept = ImageCounts.load(folder / FILE)
    if tuple(kept.classes) != table.names:
        raise UserError(f"{folder / FILE} counts other classes than those of {table.dataset}: {again}")
    row_of = {name: row for row, name in enumerate(kept.names)}
    missing = [sample.name for sample in samples if sample.name not in row_of]
    if missing:
        raise UserError(f"{folder / FILE} has no counts of {missing[0]}: {again}")
    return kept.stacked[[row_of[sample.name] for sample in samples]]


def worst_first(scores: np.ndarray) -> list[int]:
    """The indices of all ``scores`` [n] that are not nan, ascending by score; equal ones in their order."""
    order = np.argsort(scores, kind="stable")
    return order[: len(scores) - np.isnan(scores).sum()].tolist()


def prediction_of(folder: Path, name: str) -> Path:
    """Where a run's folder of a split keeps the label image of an image."""
    return folder / "label" / f"{name}.png"
