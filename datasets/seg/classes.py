"""Class tables: what the label ids of a dataset mean.

Those of known datasets are ``tables/<dataset>.csv``; one's own data brings its table along, in the same format, as
``DATA_DIR/classes.csv``. A table lists every label id that the dataset has. Ids without a train id are legal in label
files and ignored in training and scoring. Columns: ``id, name, train_id, red, green, blue, weight`` (weight: of the
class in the loss; empty where there is none). Further columns are passed over.
"""

import csv
import io
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from datasets.seg.archive import ZipPath, open_root
from lib.base.errors import UserError
from lib.base.names import CONTROL, printable
from lib.base.regular import read_regular

IGNORE = 255
"""Train id of pixels that neither the loss nor the scores count."""

UNKNOWN = 254
"""Entry of ``ClassTable.train_id_of`` for label ids that the dataset does not have."""

TABLES = Path(__file__).parent / "tables"

AUTO = "auto"
"""As a dataset's name: that whose table lies with the data."""

FILE = "classes.csv"
"""The table's name in a DATA_DIR."""

COLUMNS = ("id", "name", "train_id", "red", "green", "blue", "weight")
LARGEST_BYTES = 1 << 20
"""Of a table."""


@dataclass(frozen=True)
class ClassTable:
    """The classes of one dataset.

    Attributes:
        dataset: its name, for messages.
        names: the K class names in train-id order.
        palette: uint8 [K, 3], RGB colours in train-id order.
        train_id_of: uint8 [256], label id -> train id, ``IGNORE`` or ``UNKNOWN``.
        id_of: uint8 [K], train id -> label id.
        weights: the K loss weights, or None.
        valid_ids: the label ids in words, for messages ("0..20, 255").
        text: the table as CSV, for ``parse_table``.
    """

    dataset: str
    names: tuple[str, ...]
    palette: np.ndarray
    train_id_of: np.ndarray
    id_of: np.ndarray
    weights: tuple[float, ...] | None
    valid_ids: str
    text: str

    def __len__(self) -> int:
        return len(self.names)


def datasets() -> list[str]:
    """Names of the datasets that have a table."""
    return sorted(path.stem for path in TABLES.glob("*.csv"))


@cache
def load_table(dataset: str) -> ClassTable:
    """Read the table of the known ``dataset``; raises UserError where there is none."""
    path = TABLES / f"{dataset}.csv"
    if dataset not in datasets():
        raise UserError(f"unknown dataset '{dataset}': choose one of {', '.join(datasets())}")
    return parse_table(path.read_text(), dataset, path)


def find_table(dataset: str, root: str | Path) -> ClassTable:
    """The table of a known ``dataset``, or, where that is ``auto``, the one in the DATA_DIR or zip ``root``.

    Raises:
        UserError: there is no such dataset, or the DATA_DIR has no table, or it is none, or has a single class.
    """
    if dataset != AUTO:
        return load_table(dataset)
    path = open_root(Path(root)) / FILE
    try:
        content = _contents(path)
    except UserError as error:
        raise UserError(
            f"data.dataset=auto looks for the class table in DATA_DIR: {error}: prepare the data with "
            f"'python main.py new-dataset', or set data.dataset to one of {', '.join(datasets())}"
        ) from None
    table = _decoded(content, Path(root), path)
    if len(table) == 1:
        raise UserError(
            f"{path} has one class, {table.names[0]}, and a network that knows one answer learns nothing: give the "
            "background a train_id too, or an id in the labels where it has none"
        )
    return table


def named_table(word: str) -> ClassTable:
    """The table of a known dataset, of a DATA_DIR (a folder or zip), or in a file, whichever ``word`` names.

    Raises:
        UserError: it names none of these, or the table is none.
    """
    if word in datasets():
        return load_table(word)
    if not os.path.exists(word):
        known = ", ".join(datasets())
        raise UserError(
            f"unknown dataset '{printable(word)}': choose one of {known}, or name a DATA_DIR with {FILE} or such a file"
        )
    place = Path(word)
    path = place if place.suffix.lower() == ".csv" and os.path.isfile(place) else open_root(place) / FILE
    try:
        return _decoded(_contents(path), place, path)
    except UserError as error:
        raise UserError(f"dataset '{printable(word)}' has no class table: {error}") from None


def _contents(path: Path | ZipPath) -> bytes:
    if isinstance(path, Path):
        return read_regular(path, LARGEST_BYTES)
    if path.inside not in path.archive.members:
        raise UserError(f"there is no {path}")
    if path.archive.members[path.inside].size > LARGEST_BYTES:
        raise UserError(f"{path} is larger than {LARGEST_BYTES >> 20} MiB: it is no class table")
    return path.read_bytes()


def _decoded(content: bytes, place: Path, path: Path | ZipPath) -> ClassTable:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8: save it as UTF-8") from None
    return parse_table(text, place.resolve().stem or AUTO, path)


def parse_table(text: str, dataset: str, where: object) -> ClassTable:
    """Read a table.

    Args:
        text: CSV with a header line.
        dataset: what messages about labels call the dataset.
        where: what messages about the table call it.

    Raises:
        UserError: a column is missing, a value is none of its column, an id, name or train id comes twice, there is no
            class, or the train ids have gaps.
    """
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{where} is no class table: it has no column {missing[0]}; it needs {', '.join(COLUMNS)}")
        rows = [_row(row, f"{where}, line {reader.line_num}") for row in reader]
    except csv.Error as error:
        raise UserError(f"{where}, line {reader.line_num}: {error}") from None
    classes = sorted((row for row in rows if row["train_id"] is not None), key=lambda row: row["train_id"])
    for column, among in (("id", rows), ("name", classes), ("train_id", classes)):
        values = [row[column] for row in among]
        for value in values:
            if values.count(value) > 1:
                raise UserError(f"{where}: {column} {value} comes {values.count(value)} times: it has to be one row's")
    if not classes:
        raise UserError(f"{where} has no class: no row has a train_id")
    if [row["train_id"] for row in classes] != list(range(len(classes))):
        raise UserError(f"{where}: the train ids of {len(classes)} classes have to be 0..{len(classes) - 1}")
    weights = [row["weight"] for row in classes]
    if None in weights and any(weights):
        without = classes[weights.index(None)]["name"]
        raise UserError(f"{where}: {without} has no weight, but others have: give all classes one, or none")
    train_id_of = np.full(256, UNKNOWN, np.uint8)
    for row in rows:
        train_id_of[row["id"]] = IGNORE if row["train_id"] is None else row["train_id"]
    return ClassTable(
        dataset=dataset,
        names=tuple(row["name"] for row in classes),
        palette=np.array([row["colour"] for row in classes], np.uint8),
        train_id_of=train_id_of,
        id_of=np.array([row["id"] for row in classes], np.uint8),
        weights=None if None in weights else tuple(weights),
        valid_ids=", ".join(runs_of(sorted(row["id"] for row in rows))),
        text=text,
    )


def require_same_classes(trained: ClassTable, data: ClassTable, where: object) -> None:
    """Raise UserError, that names ``where`` the first is from, unless two tables have the same classes and ids."""
    for index in range(max(len(trained), len(data))):
        theirs, ours = (
            f"{table.names[index]} with id {table.id_of[index]}" if index < len(table) else "none"
            for table in (trained, data)
        )
        if theirs != ours:
            raise UserError(
                f"{where} was trained on other classes than the data have: class {index} is {theirs} there and {ours} "
                f"in the class table of {data.dataset}: use its own data, or train on these with pretrained={where}"
            )


def _row(row: dict[str, Any], where: str) -> dict[str, Any]:
    """The values of one row; ``colour`` and ``weight`` are None where it has none."""
    if None in row or None in row.values():
        raise UserError(f"{where} has more or fewer values than the header has columns")
    name, ignored = row["name"].strip(), not row["train_id"].strip()
    if not name or CONTROL.search(name):
        raise UserError(f"{where}: a name has to be a word or more, without line breaks")
    weight = _number(row, "weight", where, float) if row["weight"].strip() else None
    if weight is not None and not (math.isfinite(weight) and weight >= 0):
        raise UserError(f"{where}: weight {row['weight']} is none: it has to be 0 or more")
    return {
        "id": _number(row, "id", where),
        "name": name,
        "train_id": None if ignored else _number(row, "train_id", where, most=UNKNOWN - 1),
        "colour": None if ignored else [_number(row, colour, where) for colour in ("red", "green", "blue")],
        "weight": weight,
    }


def _number(row: dict[str, str], column: str, where: str, kind: type = int, most: int = 255) -> Any:
    try:
        # Python reads digits of all scripts, and underscores between them.
        value = kind(row[column] if row[column].isascii() and "_" not in row[column] else "none")
    except ValueError:
        raise UserError(f"{where}: {column} '{row[column]}' is no number") from None
    if kind is int and not 0 <= value <= most:
        raise UserError(f"{where}: {column} {value} has to be from 0 to {most}")
    return value


def runs_of(numbers: Iterable[int]) -> list[str]:
    """Ascending numbers in words, a run of them in one: "0..20", "255"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
