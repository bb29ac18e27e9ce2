"""The maps of chosen pixels of one image, as sheets and as numbers."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from datasets.seg.bands import open_bands
from datasets.seg.classes import IGNORE, UNKNOWN, ClassTable
from datasets.seg.files import read_label
from lib.attention.view import Seen, View
from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.predict.forecast import prepare
from lib.scores.attention import Scene, consistency, unary_share
from lib.vis.attention import Map, query_sheet, scale_of, stacked
from lib.vis.overlay import write_picture

CHOSEN = 4
"""Queries where none are asked for."""
NARROW = 480
"""Pixels of a panel's width on the sheet of all queries."""


def draw_maps(
    view: View,
    image: Path,
    at: Sequence[tuple[int, int]],
    label: Path | None,
    out: Path,
    *,
    clip: float | None = None,
) -> list[Path]:
    """Write a sheet a query, at the image's size, ``sheet.png`` with all, and ``attention.json``.

    Args:
        view: the block.
        image: its file.
        at: (x, y) of the queries in pixels; none: a few are chosen, one of each of the largest classes where there is a
            label, else spread over the image.
        label: the image's, in the dataset's ids, or a DATA_DIR that has it.
        out: a folder, made if need be.
        clip: weights above this percentile of a map are drawn as it; None: none are.

    Returns:
        The files.

    Raises:
        UserError: an image or label cannot be read, or a query lies outside the image.
    """
    pixels, table = view.trained.task.pixels, view.trained.task.table
    prepared = prepare(open_bands(image, pixels.bands).decode(), pixels)
    height, width = prepared.size
    for x, y in at:
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(f"--at {x},{y} is outside {image}: it has 0..{width - 1},0..{height - 1}")
    ids = None if label is None else _train_ids(_label_file(label, image), table, (height, width))
    seen = view(torch.from_numpy(prepared.image))
    picture = np.ascontiguousarray(prepared.picture[..., ::-1])
    scene = scene_of(seen, np.full((height, width), IGNORE, np.uint8) if ids is None else ids, len(table))
    facts = view.facts | _facts(seen, scene) | {"image": str(image), "queries": []}
    small, written = [], []
    out.mkdir(parents=True, exist_ok=True)
    for x, y in at or choose(ids, (height, width), len(table)):
        maps, found = maps_of(seen, (x, y), scene, clip)
        region = None
        if ids is not None and ids[y, x] < len(table):
            region, found["class"] = ids == ids[y, x], table.names[ids[y, x]]
        title = _title(image, (x, y), found.get("class"), facts)
        written.append(out / f"{image.stem}_{x}_{y}.png")
        write_picture(written[-1], query_sheet(picture, maps, (x, y), title, region))
        small.append(_small(picture, maps, (x, y), title, region))
        facts["queries"].append(found)
    written += [out / "sheet.png", out / "attention.json"]
    write_picture(written[-2], stacked(small))
    write_atomically(written[-1], lambda file: file.write(json.dumps(facts, indent=1).encode()))
    return written


def _facts(seen: Seen, scene: Scene) -> dict[str, Any]:
    """What is the same for all queries."""
    attention = seen.attention
    parts = {name: term for name, term in attention.terms.items() if name != "applied"}
    masses = {name: consistency(term, scene)["mass"] for name, term in parts.items()}
    share = unary_share(masses, attention.gamma)
    return {
        "gamma": attention.gamma,
        "unary_share": None if math.isnan(share) else share,
        "map": list(attention.queries),
        "note": attention.note,
    }


def scene_of(seen: Seen, train_ids: np.ndarray, num_classes: int, radius: int = 1) -> Scene:
    """The label [H, W] of an image at the positions of its map."""
    sizes = (seen.attention.queries, seen.attention.sources)
    labels = [seen.grid.label(train_ids, size).to(seen.inputs[0].device) for size in sizes]
    return Scene(*labels, num_classes, seen.grid.pixels(sizes[0]), radius)


def maps_of(seen: Seen, query: tuple[int, int], scene: Scene, clip: float | None) -> tuple[list[Map], dict[str, Any]]:
    """The terms of the pixel ``query``, to be drawn and in numbers."""
    attention = seen.attention
    position = seen.grid.position(*query, attention.queries)
    train_id = int(scene.query_label.flatten()[position])
    same = (scene.source_label == train_id).flatten() if train_id < scene.num_classes else None
    maps, found = [], {"at": list(query), "position": list(divmod(position, attention.queries[1])), "terms": {}}
    for name, term in attention.terms.items():
        row = term.rows([position])[0, 0].float()
        weights = row.reshape(attention.sources).cpu().numpy()
        low, high = scale_of(weights, clip)
        numbers = {"lowest": float(row.min()), "highest": float(row.max()), "sum": float(row.sum())}
        notes = []
        if same is not None and row.abs().sum() > 0:
            share = float(row.abs()[same].sum() / row.abs().sum())
            numbers |= {"share_in_region": share, "region": float(same.float().mean())}
            notes.append(f"{100 * share:.1f} % in the query's region, uniform {100 * numbers['region']:.1f} %")
        if clip is not None:
            beyond = int((np.abs(weights) > high).sum())
            numbers["clipped_at"] = high
            notes.append(f"clipped: {beyond} weights above are drawn as {high:.3g}")
        found["terms"][name] = numbers
        even = max(float(row.abs().sum()), 1e-30) / row.numel()
        maps.append(Map(name, seen.grid.spread(weights), low, high, even, tuple(notes)))
    return maps, found


def choose(train_ids: np.ndarray | None, size: tuple[int, int], num_classes: int) -> list[tuple[int, int]]:
    """A few queries: of each of the largest classes the pixel farthest from all others; without any, spread out."""
    height, width = size
    if train_ids is not None:
        counts = np.bincount(train_ids.ravel(), minlength=num_classes)[:num_classes]
        chosen = []
        for train_id in [int(index) for index in np.argsort(-counts, kind="stable")[:CHOSEN] if counts[index]]:
            # The image's border counts as another class: a query at the edge shows less.
            inside = cv2.copyMakeBorder((train_ids == train_id).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
            depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1]
            y, x = divmod(int(depth.argmax()), width)
            chosen.append((x, y))
        if chosen:
            return chosen
    return [(int(width * x), int(height * y)) for y in (0.25, 0.75) for x in (0.25, 0.75)]


def _small(
    picture: np.ndarray, maps: Sequence[Map], query: tuple[int, int], title: str, region: np.ndarray | None
) -> np.ndarray:
    """The sheet of one query with panels of the width ``NARROW``."""
    factor = NARROW / picture.shape[1]
    size = (NARROW, max(1, round(picture.shape[0] * factor)))
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    shrunk = [
        Map(
            one.name, cv2.resize(one.weights, size, interpolation=interpolation), one.low, one.high, one.even, one.notes
        )
        for one in maps
    ]
    where = (min(int((query[0] + 0.5) * factor), NARROW - 1), min(int((query[1] + 0.5) * factor), size[1] - 1))
    outline = None if region is None else cv2.resize(region.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    shown = cv2.resize(picture, size, interpolation=interpolation)
    return query_sheet(shown, shrunk, where, title, None if outline is None else outline > 0)


def _title(image: Path, query: tuple[int, int], name: str | None, facts: dict[str, Any]) -> str:
    words = [f"{image.name}, query {query[0]},{query[1]}" + (f" ({name})" if name else "")]
    if facts["gamma"] is not None:
        words.append(f"gamma {facts['gamma']:.3g}")
    if 0 < (facts["unary_share"] or 0) < 1:
        words.append(f"unary term {100 * facts['unary_share']:.0f} % of the weight")
    words.append(f"iteration {facts['iter']}")
    return ",  ".join(filter(None, [*words, facts["note"]]))


def _label_file(label: Path, image: Path) -> Path:
    """The label's file: ``label`` itself, or that of the image's name in a DATA_DIR."""
    if not label.is_dir():
        return label
    found = [label / split / "label" / f"{image.stem}.png" for split in ("val", "train", "test")]
    there = [path for path in found if path.exists()]
    if not there:
        raise UserError(f"{label} has no label of {image.stem}: there is no {found[0]}, nor in train or test")
    return there[0]


def _train_ids(path: Path, table: ClassTable, size: tuple[int, int]) -> np.ndarray:
    label = read_label(path)
    if label.shape != size:
        raise UserError(f"label {path} is {label.shape[1]} x {label.shape[0]}, its image {size[1]} x {size[0]}")
    train_ids = cv2.LUT(label, table.train_id_of)
    if (train_ids == UNKNOWN).any():
        unknown = label[train_ids == UNKNOWN][0]
        raise UserError(f"label {unknown} in {path} is not a {table.dataset} label id ({table.valid_ids})")
    return train_ids
