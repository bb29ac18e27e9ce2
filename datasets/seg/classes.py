"""Class tables: what each dataset's label ids mean, read from ``tables/<dataset>.csv``.

A table lists every label id the dataset has. Ids without a train id are legal in label files and ignored in
training and scoring. Columns: ``id, name, train_id, red, green, blue, weight`` (weight: the published weight of
the class in the loss; empty where none was published).
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from lib.base.errors import UserError

IGNORE = 255
"""Train id of pixels that neither the loss nor the scores count."""

UNKNOWN = 254
"""Entry of ``ClassTable.train_id_of`` for label ids that the dataset does not have."""

TABLES = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class ClassTable:
    """The classes of one dataset.

    Attributes:
        dataset: its name, as in ``tables/<dataset>.csv``.
        names: the K class names in train-id order.
        palette: uint8 [K, 3], RGB colours in train-id order.
        train_id_of: uint8 [256], label id -> train id, ``IGNORE`` or ``UNKNOWN``.
        id_of: uint8 [K], train id -> label id.
        weights: the K published loss weights, or None.
        valid_ids: the label ids in words, for messages ("0..20, 255").
    """

    dataset: str
    names: tuple[str, ...]
    palette: np.ndarray
    train_id_of: np.ndarray
    id_of: np.ndarray
    weights: tuple[float, ...] | None
    valid_ids: str

    def __len__(self) -> int:
        return len(self.names)


def datasets() -> list[str]:
    """Names of the datasets that have a table."""
    return sorted(path.stem for path in TABLES.glob("*.csv"))


@cache
def load_table(dataset: str) -> ClassTable:
    """Read the table of ``dataset``; raises UserError where there is none."""
    path = TABLES / f"{dataset}.csv"
    if not path.is_file():
        raise UserError(f"unknown dataset '{dataset}': choose one of {', '.join(datasets())}")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    classes = sorted((row for row in rows if row["train_id"]), key=lambda row: int(row["train_id"]))
    train_id_of = np.full(256, UNKNOWN, np.uint8)
    for row in rows:
        train_id_of[int(row["id"])] = int(row["train_id"] or IGNORE)
    return ClassTable(
        dataset=dataset,
        names=tuple(row["name"] for row in classes),
        palette=np.array([[int(row[c]) for c in ("red", "green", "blue")] for row in classes], np.uint8),
        train_id_of=train_id_of,
        id_of=np.array([int(row["id"]) for row in classes], np.uint8),
        weights=tuple(float(row["weight"]) for row in classes) if classes[0]["weight"] else None,
        valid_ids=_ranges(sorted(int(row["id"]) for row in rows)),
    )


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers in words: "0..20, 255"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
