"""Ways to look at a dataset: its images, a class, what the network will see, and what a run gets wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.seg.classes import ClassTable
from datasets.seg.dataset import EvalDataset, TrainDataset
from datasets.seg.files import read_label
from datasets.seg.listing import class_index, class_pixels, spread
from lib.base.errors import UserError
from lib.scores.per_image import class_iou, mean_iou
from lib.scores.ranking import counts_of, prediction_of, worst_first
from lib.vis.cards import Card, class_card, crop_card, error_card, label_card


@dataclass(frozen=True)
class View:
    """What is to be shown.

    Attributes:
        title: one line.
        table: the classes.
        keys: of the cards, in order.
        card: draws one, by its key; may be called from several threads.
    """

    title: str
    table: ClassTable
    keys: Sequence[Any]
    card: Callable[[Any], Card]


def images(data: EvalDataset, split: str, count: int | None) -> View:
    """``count`` images of a split, evenly spread, or all (None), with their labels."""
    keys = spread(len(data), count or len(data))
    title = f"{data.table.dataset}, {split}: {_of(len(keys), len(data), 'images')}"
    return View(title, data.table, keys, lambda index: label_card(data[index], data.table, data.pixels))


def images_with(data: EvalDataset, split: str, name: str, count: int | None) -> View:
    """The images that have a class, those with the most of it first; of more than ``count``, evenly spread ones.

    Raises:
        UserError: there is no such class, no image has it, or the images have no labels.
    """
    table, train_id = data.table, class_index(data.table, name)
    if not data.labelled:
        raise UserError(f"the images of {split} have no labels, which would say where {table.names[train_id]} is")
    pixels = class_pixels(data.samples, table)
    share = pixels[:, train_id] / pixels.sum(axis=1)
    order = [index for index in np.argsort(-share, kind="stable").tolist() if share[index] > 0]
    if not order:
        raise UserError(f"no image of {split} has the class {table.names[train_id]}: look at another split or class")
    keys = [order[place] for place in spread(len(order), count or len(order))]
    title = (
        f"{table.dataset}, {split}: {table.names[train_id]}, in {len(order)} of {len(data)} images, "
        f"{pixels[:, train_id].sum() / pixels[:, :-1].sum():.2%} of all labelled pixels; "
        f"{len(keys)} shown, most first"
    )
    return View(title, table, keys, lambda index: class_card(data[index], table, data.pixels, train_id))


def crops(data: TrainDataset, keys: Sequence[tuple[int, int]], batch_size: int, count: int | None) -> View:
    """The first ``count`` crops, or all (None), of an epoch as training gets them.

    Args:
        data: its items are shown as they are.
        keys: (epoch, index) of all crops of the epoch, in the training's order.
        batch_size: images of an iteration.
        count: how many.
    """
    epoch, total = keys[0][0], len(keys)

    def card(position: int) -> Card:
        iteration, place = divmod(epoch * total + position, batch_size)
        note = f"iteration {iteration + 1}, image {place + 1} of {batch_size}"
        return crop_card(data[keys[position]], data.table, data.pixels, note)

    shown = range(min(total, count or total))
    title = f"{data.table.dataset}: {_of(len(shown), total, 'crops')} of epoch {epoch}, seed {data.seed}, in order"
    return View(title, data.table, shown, card)


def mistakes(data: EvalDataset, folder: Path, name: str | None, count: int | None) -> View:
    """The ``count`` images, or all (None), that a run is worst at, by their own mIoU or by the IoU of a class.

    Args:
        data: the split's images, with labels.
        folder: of the split in the run.
        name: the class whose IoU counts; None for the mean.
        count: how many.

    Raises:
        UserError: the folder does not hold the predictions, there are no labels, no such class, or none to be scored.
    """
    table = data.table
    train_id = None if name is None else class_index(table, name)
    if not data.labelled:
        raise UserError(f"the images of {folder.name} have no labels, which would say what is wrong: use --split val")
    counts = counts_of(folder, data.samples, table)
    scores = mean_iou(counts) if train_id is None else class_iou(counts)[:, train_id]
    what = "mIoU" if train_id is None else f"IoU of {table.names[train_id]}"
    order = worst_first(scores)
    if not order:
        raise UserError(f"no image of {folder.name} has a pixel that counts for the {what}: look at another class")

    def card(index: int) -> Card:
        score, path = float(scores[index]), prediction_of(folder, data.samples[index].name)
        prediction = table.train_id_of[read_label(path, indices=True)]
        return error_card(data[index], prediction, table, data.pixels, score, f"{what} {100 * score:.2f}")

    keys = order[: count or len(order)]
    title = f"{table.dataset}: {_of(len(keys), len(order), 'images')} of {folder}, the lowest {what} first"
    return View(title, table, keys, card)


def folder_of_split(run: Path, split: str) -> Path:
    """A run's folder of the results of ``split``; raises UserError where there is none."""
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} is not a run's folder: it holds no config.yaml")
    if not (run / split / "label").is_dir():
        raise UserError(f"{run} holds no {split}/label: run 'python main.py {split}' for this run first")
    return run / split


def _of(shown: int, total: int, what: str) -> str:
    return f"{total} {what}" if shown == total else f"{shown} of {total} {what}"
