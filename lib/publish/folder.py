"""From a run to a folder for others: weights, configuration, classes, scores, a card and checksums."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.seg.bands import open_bands
from datasets.seg.files import read_label
from lib.base.atomic import write_folder_atomically
from lib.base.errors import UserError
from lib.base.names import printable
from lib.base.regular import read_regular
from lib.hub.segmentor import Segmenting
from lib.publish.card import card
from lib.recipes import to_yaml
from lib.tasks.trained import Trained
from lib.vis.contact import resized
from lib.vis.overlay import legend, panel, write_picture
from lib.weights import published
from lib.weights.loading import FORMAT

if TYPE_CHECKING:
    from lib.config import Config

SHOWN = 3
"""Images in the picture."""
PANEL = 400
"""Pixels of the width of one in it."""
PRIVATE = re.compile(r"^(/|~|[A-Za-z]:[\\/]|file:)|/home/|/Users/|/root/")
"""A value that says where things lie on somebody's machine."""


def require_place(path: Path, overwrite: bool) -> Path:
    """``path`` with links followed, where a folder is to be written.

    Raises:
        UserError: something is there already, unless it is a published folder, nothing else is in it, and
            ``overwrite`` says that it may go.
    """
    path = Path(os.path.realpath(path))
    if not path.exists():
        return path
    if not path.is_dir() or not published.is_published(path):
        raise UserError(f"{path} already exists and is no published folder: name another, or remove it")
    strangers = sorted(file.name for file in path.iterdir() if file.name not in published.FILES)
    if strangers:
        raise UserError(f"{path} has files that publish did not write, such as {strangers[0]}: name another folder")
    if not overwrite:
        raise UserError(f"{path} is already published: name another folder, or replace it with --overwrite")
    return path


def publish(trained: Trained, run: Path, target: Path, *, picture: bool = True) -> list[str]:
    """Write the folder ``target``, which ``require_place`` looked at.

    Args:
        trained: the network of ``run``, a run folder or a checkpoint.
        picture: whether it shows predictions of validation images, where these are at hand.

    Returns:
        Lines on what was left out or emptied.

    Raises:
        UserError: something cannot be read or written; nothing is left then.
    """
    notes: list[str] = []
    config, emptied = public(trained.config)
    if emptied:
        notes.append(f"emptied in {published.CONFIG}: {', '.join(emptied)}")
    scores = _scores(trained, run, notes)
    drawn = _picture(trained, notes) if picture else None
    text = card(trained, config, scores, has_picture=drawn is not None)

    def write(folder: Path) -> None:
        from safetensors.torch import save_file

        state = {name: value.detach().cpu().contiguous() for name, value in trained.network.state_dict().items()}
        metadata = {"format": "pt", published.MARK: str(FORMAT), "iteration": str(trained.iteration)}
        save_file(state, folder / published.WEIGHTS, metadata)
        (folder / published.CONFIG).write_bytes(to_yaml(config).encode())
        (folder / published.CLASSES).write_bytes(trained.task.table.text.encode())
        (folder / published.CARD).write_bytes(text.encode())
        if scores:
            (folder / published.SCORES).write_bytes(json.dumps(scores, indent=1).encode())
        if drawn is not None:
            write_picture(folder / published.PICTURE, drawn)
        # The library writes for the owner alone.
        os.chmod(folder / published.WEIGHTS, (folder / published.CONFIG).stat().st_mode)
        (folder / published.SUMS).write_bytes(published.sums_of(folder).encode())

    from safetensors import SafetensorError

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_folder_atomically(target, write, replaces=target.exists())
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {target}: {reason}; nothing is left of it") from None
    return notes


def public(config: "Config") -> tuple["Config", list[str]]:
    """``config`` without what is of one machine or one start, and the keys of what was emptied for that.

    The device is left to who uses it. Of a string that names a place on a machine nothing stays, whatever its key.
    """
    emptied = [
        f"{key}={printable(value)}"
        for key, value in (
            ("data.root", config.data.root),
            ("pretrained", config.pretrained),
            ("checkpoint", config.checkpoint.file),
            ("tag", config.tag),
        )
        if value
    ]
    config = replace(
        config,
        tag="",
        device="auto",
        pretrained="",
        overwrite=False,
        data=replace(config.data, root=""),
        checkpoint=replace(config.checkpoint, file=""),
    )
    model, others = _without_places(config.model, "model")
    return replace(config, model=model), emptied + others


def _without_places(part: Any, name: str) -> tuple[Any, list[str]]:
    """A part of a configuration whose strings name no places, and the keys of those that did."""
    emptied = []

    def clean(value: Any, key: str) -> Any:
        if isinstance(value, str) and PRIVATE.search(value):
            emptied.append(key)
            return ""
        if isinstance(value, dict):
            return {inner: clean(entry, f"{key}.{inner}") for inner, entry in value.items()}
        if isinstance(value, list):
            return [clean(entry, key) for entry in value]
        if hasattr(value, "__dataclass_fields__"):
            return replace(
                value, **{inner: clean(getattr(value, inner), f"{key}.{inner}") for inner in value.__dataclass_fields__}
            )
        return value

    return clean(part, name), emptied


def _scores(trained: Trained, run: Path, notes: list[str]) -> dict[str, Any] | None:
    """What ``val`` found of this very checkpoint, its places reduced to names."""
    file = run / "val" / published.SCORES
    if not file.is_file():
        notes.append("no scores: run val first, to publish them too")
        return None
    try:
        found = json.loads(read_regular(file, 1 << 24))
        entries = list(zip(found["classes"], found["iou"], strict=True)) if "iou" in found else []
        iteration = found["iter"]
        sound = all(isinstance(iou, (int, float, type(None))) for _, iou in entries)
    except (ValueError, KeyError, TypeError, RecursionError):
        entries, iteration, sound = [], None, False
    if not sound:
        raise UserError(f"{file} is damaged: run val again")
    if iteration != trained.iteration or [name for name, _ in entries] != list(trained.task.table.names):
        notes.append(f"no scores: {file} is of iteration {iteration}, not {trained.iteration}: run val again")
        return None
    return _named(found)


def _named(value: Any) -> Any:
    """JSON whose strings name files, not places."""
    if isinstance(value, str):
        return re.split(r"[\\/]", value)[-1] if PRIVATE.search(value) or os.sep in value else value
    if isinstance(value, dict):
        return {name: _named(entry) for name, entry in value.items()}
    return [_named(entry) for entry in value] if isinstance(value, list) else value


def _picture(trained: Trained, notes: list[str]) -> np.ndarray | None:
    """Validation images, what the network sees in them, and their labels, with a legend; RGB."""
    table, bands = trained.task.table, trained.task.pixels.bands
    try:
        if not trained.config.data.root:
            raise UserError("data.root names no data")
        data = trained.task.eval_data("val")
        samples = [data.samples[index] for index in np.linspace(0, len(data) - 1, min(SHOWN, len(data))).astype(int)]
        images = [open_bands(sample.image, bands).decode() for sample in samples]
        labels = [table.train_id_of[read_label(sample.label)] for sample in samples]
    except (UserError, OSError) as error:
        notes.append(f"no picture: {error}")
        return None
    model, rows, present = Segmenting(trained), [], set()
    for values, label in zip(images, labels, strict=True):
        prediction = model.predict(values[..., ::-1] if bands == 3 else values)
        present |= {*np.unique(prediction.train_ids).tolist()} | {*np.unique(label[label < len(table)]).tolist()}
        sheet = panel(prediction.picture, prediction.train_ids, label, table.palette)
        rows.append(resized(sheet, 3 * PANEL))
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.vstack([*rows, legend(table.names, table.palette, present, width)])
