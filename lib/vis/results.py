"""What a validation leaves in its folder: label images, overlays, scores, and pictures of where it goes wrong."""

import json
import shutil
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from datasets.seg.classes import ClassTable
from datasets.seg.dataset import EvalDataset, Pixels
from datasets.seg.files import read_label
from lib.base.atomic import write_atomically
from lib.base.names import shortened
from lib.scores import Scores
from lib.vis.confusion import confusion_picture
from lib.vis.errors import error_sheet
from lib.vis.overlay import denormalise, overlay, write_picture


class ResultFiles:
    """Writes ``label/<name>.png`` in the dataset's own ids and ``vis/<name>.jpg`` overlays while evaluation goes on.

    Args:
        folder: of the split.
        table: the dataset's classes.
        pixels: how images were normalised.
    """

    def __init__(self, folder: Path, table: ClassTable, pixels: Pixels):
        self.folder, self.table, self.pixels = folder, table, pixels
        for name in ("label", "vis"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.pool = ThreadPoolExecutor(2)
        self.jobs = []

    def __call__(self, meta: dict[str, Any], image: Tensor, train_ids: np.ndarray) -> None:
        """Write one result: its meta, the network's input [C, H, W], the predicted train ids uint8 [H, W]."""
        self.jobs.append(self.pool.submit(self._write, meta["name"], image, train_ids))
        # At most a few results wait in memory, and a failed write stops the run early.
        while len(self.jobs) > 8:
            self.jobs.pop(0).result()

    def _write(self, name: str, image: Tensor, train_ids: np.ndarray) -> None:
        write_picture(self.folder / "label" / f"{name}.png", self.table.id_of[train_ids])
        picture = denormalise(image, self.pixels.mean, self.pixels.std, self.pixels.color_order)
        write_picture(self.folder / "vis" / f"{name}.jpg", overlay(picture, train_ids, self.table.palette))

    def close(self) -> None:
        """Wait until everything is written; raises what went wrong."""
        self.pool.shutdown()
        for job in self.jobs:
            job.result()


def write_scores(folder: Path, facts: dict[str, Any], scores: Scores, matrix: np.ndarray, table: ClassTable) -> None:
    """Write ``metrics.json`` (with ``facts``), ``metrics.csv`` (a line for each class) and ``confusion.png``."""
    write_facts(folder, facts | scores.as_dict() | {"classes": list(table.names)})
    write_atomically(folder / "metrics.csv", lambda file: file.write(scores.csv(table.names).encode()))
    write_picture(folder / "confusion.png", confusion_picture(matrix, table.names))


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Write ``metrics.json``."""
    write_atomically(folder / "metrics.json", lambda file: file.write(json.dumps(facts, indent=1).encode()))


def zip_labels(folder: Path, names: Iterable[str]) -> None:
    """Pack ``label/<name>.png`` of all ``names`` into ``label.zip``, without folders inside: what test servers take."""

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:  # stored: a PNG is compressed
            for name in names:
                archive.write(folder / "label" / f"{name}.png", f"{name}.png")

    write_atomically(folder / "label.zip", write)


def extremes(miou_of: dict[str, float], count: int) -> dict[str, str]:
    """The ``count`` worst and the ``count`` best images, none twice: name -> ``<worst or best>_<place>_<mIoU>_<name>``.

    Args:
        miou_of: each image's own mIoU; images with nan, in which nothing counts, are left out.
    """
    order = sorted((miou, name) for name, miou in miou_of.items() if miou == miou)
    worst = order[:count]
    best = order[max(len(worst), len(order) - count) :][::-1]
    return {
        name: shortened(f"{kind}_{place:0{len(str(count))}}_{miou:.4f}_{name}", ".jpg")[: -len(".jpg")]
        for kind, chosen in (("worst", worst), ("best", best))
        for place, (miou, name) in enumerate(chosen, 1)
    }


def clear_extremes(folder: Path) -> None:
    """Remove what an earlier validation left in ``extremes``, whose file names will differ."""
    shutil.rmtree(folder / "extremes", ignore_errors=True)


def write_extremes(folder: Path, chosen: dict[str, str], dataset: EvalDataset) -> None:
    """Write ``extremes/<file name>.jpg``, image, label, prediction and errors, of the ``chosen`` {name: file name}.

    The predictions are read from ``label/``, so that no more than one image need be held at a time.
    """
    table, pixels = dataset.table, dataset.pixels
    for index, sample in enumerate(dataset.samples):
        if sample.name not in chosen:
            continue
        item = dataset[index]
        picture = denormalise(item["image"], pixels.mean, pixels.std, pixels.color_order)
        prediction = table.train_id_of[read_label(folder / "label" / f"{sample.name}.png")]
        label = item["label"].numpy().astype(np.uint8)
        (folder / "extremes").mkdir(exist_ok=True)
        sheet = error_sheet(picture, prediction, label, table.palette, table.names)
        write_picture(folder / "extremes" / f"{chosen[sample.name]}.jpg", sheet)
