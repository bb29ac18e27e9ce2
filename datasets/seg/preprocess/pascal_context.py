"""PASCAL Context (Mottaghi et al., 2014) on the images of VOC 2010, from either of its two releases.

``json`` is PASCAL in Detail's ``trainval_merged.json``; ``mat`` the 459-class MATLAB files of the authors. Both number
459 categories alike and in alphabetical order; 59 of them become labels 1..59, everything else 0 (background).
"""

import json
import os
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from datasets.seg.classes import load_table
from datasets.seg.preprocess.matlab import read_matlab
from datasets.seg.preprocess.raw import read_names, read_raw
from datasets.seg.preprocess.runner import SPLITS, LabelError, Pair, main
from datasets.seg.preprocess.runs import MOST_PIXELS, decode_runs
from lib.base.errors import UserError

JSON = "trainval_merged.json"
JSON_LAYOUT = f"JPEGImages/*.jpg and {JSON}"
MAT_LAYOUT = "JPEGImages/*.jpg, trainval/*.mat, labels.txt and ImageSets/Main/{train,val}.txt"
LAYOUT = f"{JSON_LAYOUT}, or {MAT_LAYOUT}"
OPTIONS = {"labels": {"choices": ("json", "mat"), "help": f"which release to read (default: json if {JSON} is there)"}}

MOST_CATEGORIES = 1 << 16
MOST_BYTES = 1 << 32
"""Of the JSON, which has about 600 MB."""
CATEGORIES = Path(__file__).with_name("pascal_context_categories.csv")
"""Which label 0..59 each category of PASCAL in Detail has."""


def find_pairs(src: Path, labels: str | None = None) -> list[Pair]:
    """Pairs of train and val, and the test images that ``trainval_merged.json`` lists and that are there."""
    if labels is None:
        labels = "mat" if os.path.isdir(src / "trainval") and not os.path.exists(src / JSON) else "json"
    return pairs_of_json(src) if labels == "json" else pairs_of_mat(src)


def pairs_of_json(src: Path) -> list[Pair]:
    """Pairs whose labels are drawn from the annotations in ``trainval_merged.json``; the file is read here, once."""
    path = src / JSON
    try:
        detail = json.loads(read_raw(path, LAYOUT, MOST_BYTES))
        segments = defaultdict(list)
        for annotation in detail["annos_segmentation"]:
            segments[annotation["image_id"]].append((annotation["category_id"], annotation["segmentation"]))
        images = [
            (
                image["image_id"],
                src / "JPEGImages" / image["file_name"],
                check_size(image["height"], image["width"]),
                SPLITS[SPLITS.index(image["phase"])],
            )
            for image in detail["images"]
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is not PASCAL in Detail's {JSON}, or cut off ({error!r}): download it again"
        ) from error
    labels = load_categories()
    pairs = []
    for image_id, image, size, split in images:
        if split != "test":
            convert = partial(draw_segments, image.name, size, segments[image_id], labels)
            pairs.append(Pair(split, image, path, convert))
        elif os.path.isfile(image):
            pairs.append(Pair(split, image, label=None))
    return pairs


def check_size(height: object, width: object) -> tuple[int, int]:
    """(H, W) of an image; raises ValueError if that is none."""
    if not isinstance(height, int) or not isinstance(width, int) or not 0 < height * width <= MOST_PIXELS:
        raise ValueError(f"an image of {width} x {height}")
    return height, width


def load_categories() -> dict[int, int]:
    """PASCAL in Detail's category id -> label id."""
    rows = CATEGORIES.read_text().split()[1:]
    return {int(category): int(label) for category, label in (row.split(",") for row in rows)}


def draw_segments(
    name: str, size: tuple[int, int], segments: list[tuple[int, dict]], label_of: dict[int, int]
) -> np.ndarray:
    """Draw the segments of one image over each other, in their order.

    Args:
        name: of the image, for messages.
        size: (H, W) of the image.
        segments: category ids and masks in COCO's run-length encoding.
        label_of: category id -> label id.

    Returns:
        Label ids, uint8 [H, W]; 0 where no segment is.

    Raises LabelError if there are no segments, a category is unknown, or a mask is damaged or of another size.
    """
    if not segments:
        raise LabelError(f"it has no annotations for {name}")
    label = np.zeros(size, np.uint8, order="F")
    for category, segment in segments:
        if category not in label_of:
            raise LabelError(f"category {category} in {name} is not one of the 60 that PASCAL Context has")
        try:
            label[decode_runs(segment, size)] = label_of[category]
        except LabelError as error:
            raise LabelError(f"a segment in {name} {error}") from error
    return np.ascontiguousarray(label)


def pairs_of_mat(src: Path) -> list[Pair]:
    """Pairs whose labels are the 459-class MATLAB files, divided as VOC 2010 divides its images."""
    lookup = load_lookup(src / "labels.txt")
    pairs = []
    for split in ("train", "val"):
        for name in read_names(src / "ImageSets" / "Main" / f"{split}.txt", MAT_LAYOUT):
            label = src / "trainval" / f"{name}.mat"
            convert = partial(read_label_map, label, lookup)
            pairs.append(Pair(split, src / "JPEGImages" / f"{name}.jpg", label, convert))
    return pairs


def load_lookup(path: Path) -> np.ndarray:
    """Label ids 0..59, uint8 [460], of the categories that ``labels.txt`` numbers from 1 on, by their names."""
    try:
        lines = read_raw(path, MAT_LAYOUT).decode(errors="replace").splitlines()
        numbered = [line.partition(":") for line in lines if line.strip()]
        number_of = {name.strip(): int(number) for number, _, name in numbered}
        if not all(0 <= number <= MOST_CATEGORIES for number in number_of.values()):
            raise ValueError
    except ValueError as error:
        raise UserError(f"{path} does not hold lines such as '2: aeroplane': download it again") from error
    lookup = np.zeros(max(number_of.values(), default=0) + 1, np.uint8)
    for label, name in enumerate(load_table("pascal_context_59").names, start=1):
        if number_of.get(name, 0) < 1:
            raise UserError(f"{path} has no category '{name}': download it again")
        lookup[number_of[name]] = label
    return lookup


def read_label_map(path: Path, lookup: np.ndarray) -> np.ndarray:
    """The label ids 0..59, uint8 [H, W], of a MATLAB file of categories."""
    categories = read_matlab(path, "LabelMap")
    outside = categories[(categories < 0) | (categories >= len(lookup))]
    if outside.size:
        raise LabelError(f"category {outside[0]} is not one of labels.txt (1..{len(lookup) - 1})")
    return lookup[categories.astype(np.intp)]


if __name__ == "__main__":
    sys.exit(main("pascal_context", find_pairs, LAYOUT, table="pascal_context_60", options=OPTIONS))
