"""Labels drawn from COCO's JSON: polygons and run-length masks, of things and of stuff.

Where annotations overlap, the larger are drawn first and the smaller over them; of equal ones the later in the file is
above. What no annotation covers is background.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.seg.own.facts import Pair
from datasets.seg.own.labels import LARGEST_ID, RawLabel
from datasets.seg.own.listing import SPLIT_WORDS
from datasets.seg.own.pairing import Pairing
from datasets.seg.preprocess.runner import LabelError
from datasets.seg.preprocess.runs import decode_runs
from lib.base.errors import UserError
from lib.base.regular import read_regular

FARTHEST = 1e6
"""Pixels from the origin that a point of a polygon may be."""
FRACTION = 4
"""Bits of a pixel that OpenCV's drawing resolves."""


@dataclass
class Drawing:
    """What one image's label is drawn from: (height, width), where it is said, and annotations as they are there."""

    size: tuple[int, int]
    file: Path
    annotations: list[dict] = field(default_factory=list)


class Coco:
    """Labels that JSON files hold for all images.

    Attributes:
        names: the categories, id -> name; the ids are the labels' values.
        colours: those of categories that have one.
        background: the value of what no annotation covers.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.names: dict[int, str] = {}
        self.colours: dict[int, tuple[int, int, int]] = {}
        self._by_image: dict[Path, list[Drawing]] = defaultdict(list)
        self._listed: list[tuple[str, str, Drawing]] = []
        self._shapes = 0
        for file in files:
            self._read(file)
        if not self._shapes:
            raise UserError(f"{files[0]} has no annotation with a segmentation: boxes alone are no labels")
        self.background = next(value for value in range(LARGEST_ID) if value not in self.names)

    def pair(self, found: Pairing) -> Pairing:
        """The pairs of ``found`` that the files name, with the split that the name of a file says if none else does."""
        by_name, by_stem = defaultdict(list), defaultdict(list)
        for pair in found.pairs:
            by_name[pair.image.name].append(pair)
            by_stem[pair.image.stem].append(pair)
        pairs: dict[Path, Pair] = {}
        for name, split, drawing in self._listed:
            path = Path(name.replace("\\", "/"))
            candidates = by_name.get(path.name) or by_stem.get(path.stem, [])
            if len(candidates) > 1 and split:
                candidates = [pair for pair in candidates if pair.split in ("", split)]
            if len(candidates) > 1:
                tail = [part for part in path.parts if part not in ("..", "/")]
                candidates = [pair for pair in candidates if list(pair.image.parts[-len(tail) :]) == tail]
            if len(candidates) == 1:
                pair = candidates[0]
                pairs[pair.image] = replace(pair, split=pair.split or split, labels=(drawing.file,))
                self._by_image[pair.image].append(drawing)
            else:
                found.labels_alone.append(path)
        found.images_alone += [pair for pair in found.pairs if pair.image not in pairs]
        found.pairs = sorted(pairs.values(), key=lambda pair: (pair.split, pair.name))
        found.recognised.append(
            f"labels are COCO annotations: {self._shapes} of {len(self.names)} categories, for {len(pairs)} images; "
            "the larger are drawn first, the smaller over them"
        )
        if not pairs:
            raise UserError(f"none of the images that the annotations name is there: the first is {self._listed[0][0]}")
        return found

    def read(self, pair: Pair, size: tuple[int, int]) -> RawLabel:
        """Draw the label of ``pair``, whose image has ``size``; raises UserError for what cannot be drawn."""
        shapes = []
        for drawing in self._by_image[pair.image]:
            where = f"{drawing.file}, image {pair.image.name}"
            if drawing.size != size:
                said = f"{drawing.size[1]} x {drawing.size[0]}"
                raise UserError(f"{where}: it is said to be {said}, but {pair.image} is {size[1]} x {size[0]}")
            for annotation in drawing.annotations:
                try:
                    mask = draw(annotation["segmentation"], size)
                except LabelError as error:
                    raise UserError(f"{where}: annotation {annotation.get('id', '')} {error}") from error
                area = annotation.get("area")
                # Not math.isfinite: JSON's whole numbers have no largest, those of C have.
                is_number = isinstance(area, int | float) and abs(area) <= sys.float_info.max
                shapes.append((float(area) if is_number else float(mask.sum()), annotation["category_id"], mask))
        label = np.full(size, self.background, np.uint8 if max(self.names) < 256 else np.uint16)
        for _, category, mask in sorted(shapes, key=lambda shape: -shape[0]):
            label[mask] = category
        return RawLabel(label)

    def sources(self, pair: Pair) -> tuple[Path, ...]:
        return tuple({drawing.file: None for drawing in self._by_image[pair.image]})

    def recipe(self, pair: Pair) -> str:
        return str(self.background)

    def _read(self, file: Path) -> None:
        content = _load(file)
        for number, category in enumerate(_dicts(content, "categories", file)):
            self._add_category(category, f"{file}: categories[{number}]")
        split = next((SPLIT_WORDS[word] for word in _words(file.stem) if word in SPLIT_WORDS), "")
        drawings = {}
        for number, image in enumerate(_dicts(content, "images", file)):
            size, name = (image.get("height"), image.get("width")), image.get("file_name")
            if not all(_is_whole(side) and side > 0 for side in size) or not isinstance(name, str) or not name:
                raise UserError(f"{file}: images[{number}] has no file_name, height or width that could be one")
            if not _is_id(image.get("id")) or image["id"] in drawings:
                raise UserError(f"{file}: images[{number}] has no id of its own")
            drawings[image["id"]] = Drawing(size, file)
            self._listed.append((name, split, drawings[image["id"]]))
        if not drawings:
            raise UserError(f"{file} names no images")
        for number, annotation in enumerate(_dicts(content, "annotations", file)):
            where = f"{file}: annotations[{number}]"
            image, category = annotation.get("image_id"), annotation.get("category_id")
            if not _is_id(image) or image not in drawings:
                raise UserError(f"{where} is of image {image}, which the file does not have")
            if not _is_whole(category) or category not in self.names:
                raise UserError(f"{where} is of category {category}, which the file does not have")
            if annotation.get("segmentation"):
                drawings[image].annotations.append(annotation)
                self._shapes += 1

    def _add_category(self, category: dict, where: str) -> None:
        number, name, colour = category.get("id"), category.get("name"), category.get("color")
        if not _is_whole(number) or not 0 <= number <= LARGEST_ID or not isinstance(name, str) or not name.strip():
            raise UserError(f"{where} has no name, or no id from 0 to {LARGEST_ID}")
        if self.names.setdefault(number, name.strip()) != name.strip():
            raise UserError(f"{where}: category {number} is {name} here but {self.names[number]} elsewhere")
        if isinstance(colour, list) and len(colour) == 3 and all(_is_whole(c) and 0 <= c < 256 for c in colour):
            self.colours[number] = (colour[0], colour[1], colour[2])


def draw(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a segmentation, bool [H, W].

    Args:
        segmentation: polygons, lists of x and y by turns where (0, 0) is the corner of the first pixel and (0.5, 0.5)
            its centre, whose union is meant; or ``{"size": [H, W], "counts": runs}``, compressed or a list.
        size: (H, W).

    Raises:
        LabelError: it is neither; the message completes "an annotation ...".
    """
    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        return (
            _draw_runs(counts, segmentation.get("size"), size)
            if isinstance(counts, list)
            else decode_runs(segmentation, size)
        )
    if not isinstance(segmentation, list):
        raise LabelError("has a segmentation that is neither polygons nor runs")
    mask = np.zeros(size, np.uint8)
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise LabelError("has a polygon that is no list of three or more points")
        if not all(isinstance(number, int | float) and abs(number) <= FARTHEST for number in polygon):
            raise LabelError("has a polygon with a point that is far from any image, or none")
        # OpenCV's whole numbers are the centres of pixels.
        points = (np.array(polygon, np.float64).reshape(-1, 2) - 0.5) * (1 << FRACTION)
        cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 1, shift=FRACTION)
    return mask.astype(bool)


def _draw_runs(counts: list, own_size: Any, size: tuple[int, int]) -> np.ndarray:
    if own_size != list(size):
        raise LabelError(f"has (height, width) {own_size}, but the image {list(size)}")
    pixels = size[0] * size[1]
    if not all(_is_whole(run) and 0 <= run <= pixels for run in counts) or sum(counts) != pixels:
        raise LabelError("has runs that do not fill the image")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[1], size[0]).T


def _load(file: Path) -> dict:
    try:
        content = json.loads(read_regular(file))
    except (ValueError, RecursionError) as error:
        reason = error.msg + f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else "damaged"
        raise UserError(f"--labels {file} is not JSON: {reason}") from None
    if not isinstance(content, dict) or "annotations" not in content:
        raise UserError(f"--labels {file} is not COCO's JSON: it has no 'annotations', 'images' and 'categories'")
    return content


def _dicts(content: dict, key: str, file: Path) -> Iterable[dict]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"--labels {file} is not COCO's JSON: '{key}' is no list of objects")
    return entries


def _words(stem: str) -> list[str]:
    return re.split(r"[^a-z]+", stem.lower())


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, str)
