"""Which images of a split to look at: evenly spread ones, or those in which a class occurs."""

import os
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from functools import partial

import numpy as np

from datasets.seg.classes import IGNORE, UNKNOWN, ClassTable
from datasets.seg.dataset import Sample
from datasets.seg.files import read_label
from lib.base.errors import UserError


def spread(total: int, count: int) -> list[int]:
    """``count`` of the numbers 0 .. total - 1 at even distances, the first and the last among them; all if fewer."""
    return np.linspace(0, total - 1, min(total, count)).round().astype(int).tolist()


def class_index(table: ClassTable, name: str) -> int:
    """The train id of a class, by its name in any case; raises UserError, with the nearest name, if there is none."""
    folded = [known.casefold() for known in table.names]
    if name in table.names:
        return table.names.index(name)
    if folded.count(name.casefold()) == 1:
        return folded.index(name.casefold())
    near = get_close_matches(name.casefold(), folded, n=1, cutoff=0)
    nearest = f"did you mean '{table.names[folded.index(near[0])]}'? " if near else ""
    raise UserError(
        f"{table.dataset} has no class '{name}': {nearest}Its {len(table)} classes: {', '.join(table.names)}"
    )


def class_pixels(samples: list[Sample], table: ClassTable) -> np.ndarray:
    """Pixels of each class in each label, int64 [len(samples), K + 1]; the last column: ignored ones.

    Raises:
        UserError: a label is unreadable or holds an id that the table does not have.
    """
    # Threads: reading, decoding and counting run outside the interpreter's lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        rows = list(pool.map(partial(_pixels_of, table=table), samples))
    return np.array(rows, np.int64).reshape(len(samples), len(table) + 1)


def _pixels_of(sample: Sample, table: ClassTable) -> np.ndarray:
    of_id = np.bincount(read_label(sample.label).ravel(), minlength=256)
    unknown = np.flatnonzero((of_id > 0) & (table.train_id_of == UNKNOWN))
    if len(unknown):
        raise UserError(f"label {unknown[0]} in {sample.label} is not a {table.dataset} label id ({table.valid_ids})")
    counts = np.zeros(len(table) + 1, np.int64)
    np.add.at(counts, np.where(table.train_id_of >= IGNORE - 1, len(table), table.train_id_of), of_id)
    return counts
