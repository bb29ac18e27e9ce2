"""What runs recorded, read for drawing: curves, scores, configuration. Nothing in the files is trusted."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.base.errors import UserError
from lib.base.names import printable
from lib.base.regular import read_regular
from lib.yaml_text import read_file

Curve = list[tuple[int, float]]
"""(iteration, value), in the order of iterations."""

LARGEST_METRICS, LARGEST_FACTS = 1 << 30, 1 << 26
"""Bytes of ``metrics.jsonl`` and of ``metrics.json``."""
OWN_WORDS = ("seed", "tag")
"""Keys by which runs of one recipe differ."""
NO_SCORES = ("iter", "epoch", "iou", "accuracy")
MIOU = "miou"


@dataclass(frozen=True)
class RecordedRun:
    """One run.

    Attributes:
        path: its folder.
        name: by which it is told from the others.
        config: what it used; {} where that cannot be read.
        loss, lr, score: its curves; each may be empty.
        score_name: what the score is called: ``miou``, where there is one.
        facts: of ``val/metrics.json``; {} where there is none.
    """

    path: Path
    name: str
    config: dict[str, Any]
    loss: Curve
    lr: Curve
    score: Curve
    score_name: str
    facts: dict[str, Any]

    @property
    def recipe(self) -> str:
        """What runs that differ in their seeds alone have in common; nothing but a run's own where that is unknown."""
        if not self.config:
            return str(self.path)
        return json.dumps({name: value for name, value in self.config.items() if name not in OWN_WORDS}, sort_keys=True)


def read_runs(folders: Sequence[Path]) -> list[RecordedRun]:
    """Read the runs of ``folders``; damaged and foreign rows of their metrics are passed over.

    Raises:
        UserError: a folder holds no run, or comes twice.
    """
    resolved = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, resolved, strict=True):
        if resolved.count(place) > 1:
            raise UserError(f"{folder} is given twice: name each run once")
    return [_read_run(folder, name) for folder, name in zip(folders, short_names(resolved), strict=True)]


def short_names(folders: Sequence[Path]) -> list[str]:
    """``<recipe>/<tag>`` of each, with as many folders before it as it takes to tell all apart."""
    for parts in range(2, max((len(folder.parts) for folder in folders), default=0)):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return [printable(name) for name in names]
    return [printable(folder) for folder in folders]


def _read_run(folder: Path, name: str) -> RecordedRun:
    if not folder.is_dir():
        raise UserError(f"{folder} is no run's folder: name one, runs/<task>/<dataset>/<recipe>/<tag>")
    if not (folder / "metrics.jsonl").exists():
        raise UserError(f"{folder} has no metrics.jsonl: it is no folder of a run that was trained")
    rows = list(_rows(folder / "metrics.jsonl"))
    if not rows:
        raise UserError(f"{folder / 'metrics.jsonl'} has no row of a run: there is nothing to draw yet")
    validations = [row for row in rows if "loss" not in row]
    known = [key for row in validations for key in row if key not in NO_SCORES and _is_number(row[key])]
    score_name = MIOU if MIOU in known or not known else known[0]
    return RecordedRun(
        path=folder,
        name=name,
        config=_config(folder / "config.yaml"),
        loss=_curve(rows, "loss"),
        lr=_curve(rows, "lr"),
        score=_curve(validations, score_name),
        score_name=score_name,
        facts=_facts(folder / "val" / "metrics.json"),
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in read_regular(path, LARGEST_METRICS).split(b"\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and type(row.get("iter")) is int and 0 <= row["iter"] < 1 << 53:
            found.append(row)
    return found


def _curve(rows: Sequence[dict[str, Any]], key: str) -> Curve:
    # Of two rows for one iteration the later counts.
    return sorted({row["iter"]: float(row[key]) for row in rows if _is_number(row.get(key))}.items())


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30 and math.isfinite(value)


def _config(path: Path) -> dict[str, Any]:
    try:
        found = read_file(path)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def _facts(path: Path) -> dict[str, Any]:
    """Numbers, and lists of numbers and words, of ``metrics.json``."""
    try:
        found = json.loads(read_regular(path, LARGEST_FACTS))
    except (UserError, ValueError, RecursionError):
        return {}
    facts = {}
    for key, value in found.items() if isinstance(found, dict) else ():
        if _is_number(value) or (isinstance(value, list) and all(_is_entry(entry) for entry in value)):
            facts[key] = value
    return facts


def _is_entry(value: Any) -> bool:
    return value is None or isinstance(value, str) or _is_number(value)
