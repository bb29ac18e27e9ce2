"""Scores of a folder of label images against another; needs no PyTorch."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from datasets.seg.classes import IGNORE, UNKNOWN, ClassTable, named_table
from datasets.seg.files import read_label
from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.base.names import printable
from lib.scores.boundary import boundary_counts
from lib.scores.full import FullScores
from lib.scores.per_image import ImageCounts, image_counts

FRAMES = {"cityscapes": re.compile(r"[^_]+_\d{6}_\d{6}")}
"""What files of one image have in common at the start of their names, where that is not all but the suffix.

Cityscapes' own evaluation scores ``<city>_<sequence>_<frame>*.png``, whatever follows.
"""
NO_LABELS = ("_color", "_instanceIds", "_labelTrainIds")
"""Ends of the names of other PNGs that Cityscapes publishes beside the labels."""


@dataclass(frozen=True)
class LabelPair:
    """Two label images of one scene."""

    prediction: Path
    truth: Path


def evaluate(
    predictions: Path,
    truths: Path,
    dataset: str,
    file: Path | None = None,
    workers: int | None = None,
    boundary: bool = False,
) -> None:
    """Print the scores of all label images in ``predictions`` against those in ``truths``.

    Args:
        predictions: folder of label PNGs in the dataset's own ids, at any depth.
        truths: the same with the true labels; each must have its prediction.
        dataset: whose classes and ids, as for ``named_table``.
        file: where to write the scores as JSON too.
        workers: threads; as many as there are cores unless given.
        boundary: whether to give boundary IoU too.

    Raises:
        UserError: as ``find_pairs`` and ``count_pair``.
    """
    table = named_table(dataset)
    if file is not None and not file.parent.is_dir():
        raise UserError(f"cannot write {file}: {file.parent} is not a folder")
    pairs = find_pairs(predictions, truths, dataset)
    scores = score_pairs(pairs, table, workers or os.cpu_count() or 1, boundary)
    print(f"{len(pairs)} images of {printable(truths)} against {printable(predictions)}\n\n{scores.table(table.names)}")
    if file is not None:
        facts = {"predictions": str(predictions), "labels": str(truths), "dataset": dataset, "images": len(pairs)}
        facts |= scores.as_dict() | {"classes": list(table.names)}
        write_atomically(file, lambda target: target.write(json.dumps(facts, indent=1).encode()))


def find_pairs(predictions: Path, truths: Path, dataset: str) -> list[LabelPair]:
    """Find each true label's prediction: the same path below its folder, or else the same name at any depth.

    Cityscapes files have the same name if they start with the same city, sequence and frame.

    Raises:
        UserError: a folder is missing or holds no PNGs, a true label has no prediction, or it has two.
    """
    true_files, predicted_files = (_png_files(folder) for folder in (truths, predictions))
    if dataset in FRAMES:
        true_files = [path for path in true_files if not path.stem.endswith(NO_LABELS)]
    by_path = {path.relative_to(predictions): path for path in predicted_files}
    by_name: dict[str, list[Path]] = {}
    for path in predicted_files:
        by_name.setdefault(_name(path, dataset), []).append(path)
    pairs, missing = [], []
    for truth in true_files:
        same_path = by_path.get(truth.relative_to(truths))
        found = [same_path] if same_path else by_name.get(_name(truth, dataset), [])
        if len(found) > 1:
            raise UserError(f"{truth} has two predictions, {found[0]} and {found[1]}: remove one of them")
        if found:
            pairs.append(LabelPair(prediction=found[0], truth=truth))
        else:
            missing.append(truth)
    if not pairs:
        raise UserError(f"no PNG in {predictions} is named like one in {truths}: check both folders and --dataset")
    if missing:
        others = f" (nor have {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]} has no prediction in {predictions}{others}: predict all images")
    return pairs


@dataclass(frozen=True)
class PairCounts:
    """What a pair of label images adds to the scores.

    Attributes:
        matrix: int64 [K, K + 1], as for ``Scores.of``.
        boundary: int64 [3, K], as ``boundary_counts`` gives it; None where it is not asked for.
    """

    matrix: np.ndarray
    boundary: np.ndarray | None


def score_pairs(pairs: list[LabelPair], table: ClassTable, workers: int, boundary: bool = False) -> FullScores:
    """The scores of all ``pairs``, counted in ``workers`` threads; with ``boundary``, boundary IoU too."""
    matrix, near = np.zeros((len(table), len(table) + 1), np.int64), np.zeros((3, len(table)), np.int64)
    counts_of = {}
    # Threads: reading, decoding and counting, which is all the work, run outside the interpreter's lock.
    pool = ThreadPoolExecutor(workers)
    try:
        outcomes = pool.map(partial(count_pair, table=table, boundary=boundary), pairs)
        shown = tqdm(outcomes, total=len(pairs), unit="image", disable=None, leave=False)
        for pair, counts in zip(pairs, shown, strict=True):
            matrix += counts.matrix
            counts_of[str(pair.truth.with_suffix(""))] = image_counts(counts.matrix)
            if boundary:
                near += counts.boundary
    finally:
        pool.shutdown(cancel_futures=True)
    return FullScores.of_all(matrix, ImageCounts.of(counts_of, table.names), near if boundary else None)


def count_pair(pair: LabelPair, table: ClassTable, boundary: bool = False) -> PairCounts:
    """Count the pixels of a pair, with ``boundary`` also those near contours.

    Raises:
        UserError: a file is no label image, the two differ in size, or one holds an id that the dataset does not have.
    """
    truth, prediction = read_label(pair.truth, indices=True), read_label(pair.prediction, indices=True)
    if truth.shape != prediction.shape:
        (height, width), (other_height, other_width) = prediction.shape, truth.shape
        raise UserError(
            f"{pair.prediction} is {width} x {height} but its label {pair.truth} is {other_width} x {other_height}: "
            "predict at the label's size"
        )
    # Both ids of a pixel side by side are one number of 16 bits. Labels are flat: its runs are far fewer than pixels.
    codes = cv2.merge([prediction, truth]).view("<u2").ravel()
    ends = np.append(np.flatnonzero(codes[1:] != codes[:-1]), codes.size - 1)
    lengths = np.diff(ends, prepend=-1)
    counts = np.bincount(codes[ends], weights=lengths, minlength=1 << 16).astype(np.int64).reshape(256, 256)
    for path, found in ((pair.truth, counts.any(axis=1)), (pair.prediction, counts.any(axis=0))):
        unknown = np.flatnonzero(found & (table.train_id_of == UNKNOWN))
        if len(unknown):
            raise UserError(f"label {unknown[0]} in {path} is not a {table.dataset} label id ({table.valid_ids})")
    near = None
    if boundary:
        near = boundary_counts(table.train_id_of[prediction], table.train_id_of[truth], len(table))
    return PairCounts(class_matrix(counts, table), near)


def class_matrix(counts: np.ndarray, table: ClassTable) -> np.ndarray:
    """The confusion matrix, int64 [K, K + 1], as for ``Scores.of``, of counts by true and predicted id [256, 256].

    Ignored true ids are left out.
    """
    of_classes = counts[table.id_of]
    predicted_none = of_classes[:, table.train_id_of == IGNORE].sum(axis=1)
    return np.column_stack([of_classes[:, table.id_of], predicted_none])


def _png_files(folder: Path) -> list[Path]:
    """All label PNGs at any depth, in linked folders too; raises UserError for a folder that cannot be read."""
    if not os.path.isdir(folder):
        raise UserError(f"{folder} is not a folder: name one with label PNGs")
    files, entered = [], set()
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in entered:  # a link to a folder above
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        files += [Path(place, name) for name in names if name.lower().endswith(".png") and not name.startswith(".")]
    if not files:
        raise UserError(f"{folder} holds no PNG files: name a folder with label PNGs")
    return sorted(files)


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error


def _name(path: Path, dataset: str) -> str:
    match = FRAMES[dataset].match(path.name) if dataset in FRAMES else None
    return match[0] if match else path.stem
