"""Names and colours of classes from a file of the user's: ``--classes FILE``."""

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from datasets.seg.own.pairing import read_text
from lib.base.errors import UserError
from lib.base.names import CONTROL

OTHER_NAMES = {"r": "red", "g": "green", "b": "blue", "class": "name", "label": "name", "class_name": "name"}
"""What columns are called elsewhere."""
COLOURS = ("red", "green", "blue")
LABEL_COLOURS = re.compile(r"(\d{1,3})[ \t]+(\d{1,3})[ \t]+(\d{1,3})[ \t]+(\S.*)")
"""A line as of CamVid's ``label_colors.txt``."""


@dataclass(frozen=True)
class Row:
    """A class as the file has it; ``colour`` and ``weight`` are None where it says nothing."""

    id: int
    name: str
    colour: tuple[int, int, int] | None = None
    weight: float | None = None
    ignored: bool = False


def read_classes(file: Path) -> list[Row]:
    """Read a file of classes, in its order.

    It is a CSV with the heading of a class table, or at least ``name``, and perhaps ``id``, ``red, green, blue``,
    ``weight`` and ``train_id`` (ids without one are ignored); or lines of ``red green blue name``; or a name a line.
    Without ``id`` the lines are counted from 0.

    Raises:
        UserError: it is none of these, or a value is none; with the line.
    """
    lines = [line.strip() for line in read_text(file, "--classes").splitlines()]
    kept = [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
    if not kept:
        raise UserError(f"--classes {file} is empty: write a class a line")
    heading = [OTHER_NAMES.get(word, word) for word in _words(kept[0][1].lower())]
    if "name" in heading:
        rows = [
            _row(dict(zip(heading, _fit(line, heading, file, number), strict=True)), at, f"{file}, line {number}")
            for at, (number, line) in enumerate(kept[1:])
        ]
    else:
        rows = [_line(line, at, f"{file}, line {number}") for at, (number, line) in enumerate(kept)]
    if not rows:
        raise UserError(f"--classes {file} has no class below its heading")
    for what in ("id", "name", "colour"):
        seen: set = set()
        for row in rows:
            value = getattr(row, what)
            if value is not None and value in seen and not (what == "colour" and row.ignored):
                raise UserError(f"--classes {file}: {what} {value} comes twice: it has to be one class's")
            seen.add(value)
    return rows


def _words(line: str) -> list[str]:
    try:
        return [word.strip() for word in next(csv.reader(io.StringIO(line), skipinitialspace=True))]
    except (csv.Error, StopIteration):
        return [line]


def _fit(line: str, heading: list[str], file: Path, number: int) -> list[str]:
    words = _words(line)
    if len(words) != len(heading):
        raise UserError(f"--classes {file}, line {number} has {len(words)} values, but the heading {len(heading)}")
    return words


def _line(line: str, at: int, where: str) -> Row:
    """A line of a file without heading: "128 64 128 road", "road,128,64,128" or "road"."""
    if found := LABEL_COLOURS.fullmatch(line):
        red, green, blue, name = found.groups()
        words = [name, red, green, blue]
    else:
        words = _words(line)
    if len(words) == 1:
        return _row({"name": line}, at, where)
    if len(words) == 4:
        return _row(dict(zip(("name", *COLOURS), words, strict=True)), at, where)
    raise UserError(f"--classes {where}: a name, or 'name,red,green,blue' is expected")


def _row(values: dict[str, str], at: int, where: str) -> Row:
    name = values["name"].strip()
    if not name or CONTROL.search(name):
        raise UserError(f"--classes {where}: a name has to be a word or more, without line breaks")
    colours = [values.get(colour, "") for colour in COLOURS]
    weight = values.get("weight", "")
    if weight and not re.fullmatch(r"\d{1,9}(\.\d*)?", weight):
        raise UserError(f"--classes {where}: weight {weight} is none: it has to be 0 or more")
    return Row(
        id=_number(values["id"], "id", 65535, where) if values.get("id") else at,
        name=name,
        colour=tuple(_number(word, what, 255, where) for word, what in zip(colours, COLOURS, strict=True))
        if any(colours)
        else None,
        weight=float(weight) if weight else None,
        ignored="train_id" in values and not values["train_id"],
    )


def _number(word: str, what: str, most: int, where: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", word) or int(word) > most:
        raise UserError(f"--classes {where}: {what} '{word}' has to be a number from 0 to {most}")
    return int(word)
