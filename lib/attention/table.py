"""Statistics of a block's attention over a split: a row an image and their mean, as JSON, table and picture."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lib.attention.maps import scene_of
from lib.attention.view import View
from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.scores.attention import consistency, difference, statistics, unary_share
from lib.vis.attention import statistics_picture
from lib.vis.overlay import write_picture

FIGURES = {
    "within_category": ("within category", "%"),
    "boundary": ("on boundaries", "%"),
    "precision": ("precision", "%"),
    "entropy": ("entropy", "nats"),
    "distance": ("distance", "px"),
    "difference": ("difference of rows", ""),
}
"""Columns of the table and their units."""
ESTIMATOR = (
    "this project's own, for the DNL paper's is not known: means over the queries that have a class, at the map's "
    "resolution, labels taken at the positions' centres, then over images; lib/scores/attention.py has the formulas"
)


def image_row(view: View, item: dict[str, Any], num_classes: int, radius: int) -> dict[str, Any]:
    """All figures of one image of an ``EvalDataset``."""
    seen = view(item["image"])
    scene = scene_of(seen, item["label"].numpy().astype(np.uint8), num_classes, radius)
    attention = seen.attention
    row: dict[str, Any] = {"name": item["meta"]["name"]}
    row |= {name: statistics(term, scene) for name, term in attention.terms.items() if name != "applied"}
    row["uniform"] = scene.uniform()
    untrained = view.untrained.attention(*seen.inputs)
    for name, term in untrained.terms.items():
        if name != "applied":
            row[f"untrained {name}"] = consistency(term, scene)
    masses = {
        name: figures.pop("mass") for name, figures in row.items() if isinstance(figures, dict) and "mass" in figures
    }
    with torch.no_grad():
        out = view.block(*seen.inputs)
    return row | {
        "difference_of_input": difference(seen.inputs[-1][0]),
        "difference_of_output": difference(out[0]),
        "unary_share": unary_share(masses, attention.gamma),
        "gamma": attention.gamma,
    }


def write_statistics(view: View, split: str, out: Path, *, radius: int = 1, count: int = 0) -> str:
    """Measure the images of ``split`` and write ``stats.json`` and ``stats.png``.

    Args:
        view: the block.
        split: of the run's ``data.root``.
        out: a folder, made if need be.
        radius: of boundaries, in positions of the map.
        count: of the images, spread evenly over the split; 0: all.

    Returns:
        The table of the means.

    Raises:
        UserError: the data are not at hand or have no labels.
    """
    task = view.trained.task
    data = task.eval_data(split)
    if not data.labelled:
        raise UserError(f"the {split} images of {task.config.data.root} have no labels to compare attention with")
    chosen = range(len(data)) if not count else sorted({round(i) for i in np.linspace(0, len(data) - 1, count)})
    rows = [image_row(view, data[index], len(task.table), radius) for index in tqdm(chosen, unit="image", disable=None)]
    mean = mean_row(rows)
    facts = view.facts | {"split": split, "images": len(rows), "radius": radius, "estimator": ESTIMATOR}
    content = json.dumps({"format": 1, **facts, "mean": _plain(mean), "rows": _plain(rows)}, indent=1)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "stats.json", lambda file: file.write(content.encode()))
    title = f"{view.name} at iteration {view.trained.iteration}: {len(rows)} images of {split}"
    write_picture(out / "stats.png", statistics_picture(_plain(rows), title))
    return table(mean, f"{title}, radius {radius}")


def mean_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The means of all figures over the images that have them."""
    found: dict[str, Any] = {}
    for name, value in rows[0].items():
        if isinstance(value, dict):
            found[name] = mean_row([row[name] for row in rows])
        elif name != "name":
            known = [row[name] for row in rows if row[name] is not None and not math.isnan(row[name])]
            found[name] = sum(known) / len(known) if known else None
    return found


def table(mean: dict[str, Any], title: str) -> str:
    """The means as lines of text: a line a map, then the figures of the block."""
    maps = {name: figures for name, figures in mean.items() if isinstance(figures, dict)}
    wide = max(map(len, maps))
    heads = [f"{word} [{unit}]" if unit else word for word, unit in FIGURES.values()]
    lines = [title, "", "  ".join([" " * wide, *heads])]
    for name, figures in maps.items():
        cells = [f"{_cell(figures.get(key), key):>{len(head)}}" for key, head in zip(FIGURES, heads, strict=True)]
        lines.append("  ".join([f"{name:{wide}}", *cells]))
    others = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in mean.items() if isinstance(value, float)]
    return "\n".join([*lines, "", ", ".join(others)])


def _cell(value: float | None, key: str) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{100 * value:.2f}" if FIGURES[key][1] == "%" else f"{value:.4g}"


def _plain(value: Any) -> Any:
    """``value`` with null for what is no number: JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
