"""Settings that follow from one's own data: what ``new-dataset`` measured, and the rules from there to keys.

The measurements are ``DATA_DIR/facts.json``. The rules are for a dataset of which nothing is published; each gives its
reason where it stands. They look at keys by their names, as a configuration has them, and are applied one after the
other: a later one sees what an earlier one, or the command line, has settled.
"""

import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from datasets.seg.archive import ZipPath, open_root
from lib.base.errors import UserError
from lib.base.regular import read_regular

FILE = "facts.json"
"""The measurements' name in a DATA_DIR."""

FORMAT = 1
LARGEST_BYTES = 1 << 22
"""Of the file: a line or two for each of a few hundred classes."""

REMEDY = "make it again with 'python main.py new-dataset', or leave it out with data.fitted=false"

PASSES = 120
"""Over the training images, in a run: the published recipes have 161 (Cityscapes), 119 (ADE20K), 96 (PASCAL Context)
and 91 (PASCAL VOC)."""
FEWEST, MOST = 2_000, 150_000
"""Iterations: fewer hardly move a classifier from its random weights; more has no published recipe of torchcv's, whose
longest is ADE20K's."""
VALIDATIONS, CHECKPOINTS = 10, 20
"""In a run."""
SHORTEST = 1_000
"""Iterations of a run that has so many of them: a trial of a few iterations is not to validate after each."""
MULTIPLE = 8
"""Of a crop's sides, in pixels: the backbone's output stride."""
KEPT, KEPT_OF = 100_000, 769 * 769
"""Pixels that OHEM keeps at least of those of an image, in the published recipes: a sixth of the crop."""

LEAST_STD = 1e-6
"""Of a band that varies."""

Value = Callable[[str], Any]
"""From the name of a key to its value as far as it is settled."""


@dataclass(frozen=True)
class Facts:
    """What was measured.

    Attributes:
        path: the file that says it.
        is_8bit: whether their values are 0..255.
        mean, std: of the training images' values, one number a band, in the files' order (red, green, blue).
        images: how many there are of ``train``, ``val`` and ``test``.
        width, height: (least, median, largest) of the images, in pixels.
    """

    path: str
    is_8bit: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: Mapping[str, int]
    width: tuple[float, float, float]
    height: tuple[float, float, float]


def read_facts(root: str | Path) -> Facts | None:
    """The measurements in the DATA_DIR or zip ``root``; None where there are none.

    Raises:
        UserError: the file cannot be read, or is not what ``new-dataset`` writes.
    """
    path = open_root(Path(root)) / FILE
    if isinstance(path, ZipPath):
        if path.inside not in path.archive.members:
            return None
        if path.archive.members[path.inside].size > LARGEST_BYTES:
            _refuse(path, f"is larger than {LARGEST_BYTES >> 20} MiB")
        content = path.read_bytes()
    elif os.path.lexists(path):
        try:
            content = read_regular(path, LARGEST_BYTES)
        except UserError as error:
            raise UserError(f"{error}: {REMEDY}") from None
    else:
        return None
    try:
        tree = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        _refuse(path, "is not JSON")
    return parse_facts(tree, path)


def parse_facts(tree: Any, path: object) -> Facts:
    """Measurements from what the file ``path`` holds; raises UserError where it is not what it should be."""
    if not isinstance(tree, dict):
        _refuse(path, "holds no measurements")
    if not _is_count(tree.get("format")) or tree["format"] != FORMAT:
        _refuse(path, f"is of another format than {FORMAT}")
    if not _is_count(tree.get("bands")) or not 1 <= tree["bands"] <= 4096:
        _refuse(path, "does not say how many bands there are, from 1 to 4096")
    images = tree.get("images")
    if not isinstance(images, dict) or not all(_is_count(images.get(name)) for name in ("train", "val", "test")):
        _refuse(path, "does not say how many images there are of train, val and test")
    if images["train"] < 1:
        _refuse(path, "tells of no training image")
    mean, std = (_numbers(tree, name, tree["bands"], path) for name in ("mean", "std"))
    if min(std) < 0:
        _refuse(path, "has a std below 0")
    width, height = (_numbers(tree, name, 3, path) for name in ("width", "height"))
    for name, sides in (("width", width), ("height", height)):
        if not 1 <= sides[0] <= sides[1] <= sides[2] <= 1e6:
            _refuse(path, f"has a {name} that is not the least, median and largest number of pixels")
    if not isinstance(tree.get("dtype"), str):
        _refuse(path, "does not say the dtype of the images")
    return Facts(str(path), tree["dtype"] == "uint8", mean, std, images, width, height)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 1_000_000_000


def _numbers(tree: dict[str, Any], name: str, count: int, path: object) -> tuple[float, ...]:
    """The ``count`` finite numbers that are the entry ``name``."""
    values = tree.get(name)
    if not isinstance(values, list) or len(values) != count:
        _refuse(path, f"has no {name} of {count} {'number' if count == 1 else 'numbers'}")
    # NaN fails the comparison.
    if not all(type(value) in (int, float) and abs(value) <= 1e30 for value in values):
        _refuse(path, f"has a {name} that is no finite number")
    return tuple(float(value) for value in values)


def _refuse(path: object, why: str) -> NoReturn:
    raise UserError(f"{path} {why}: {REMEDY}")


def fit(
    facts: Facts, has_weights: bool, value: Value, given: Collection[str], known: Collection[str]
) -> dict[str, Any]:
    """The settings that follow, by the names of their keys.

    Args:
        facts: the measurements.
        has_weights: whether the class table has weights.
        value: of a key, as recipe and command line have it.
        given: the keys that the command line sets: these stay.
        known: the keys that there are.
    """
    found: dict[str, Any] = {}

    def settled(name: str) -> Any:
        return found[name] if name in found and name not in given else value(name)

    for rule in RULES:
        found |= rule(facts, settled, "data.bands" in known)
    return {name: setting for name, setting in found.items() if name in known} | {"loss.class_weights": has_weights}


def _pixels(facts: Facts, value: Value, has_bands: bool) -> dict[str, Any]:
    """The images' own mean and deviation, so that what enters the network is about 0, and 1 from there.

    Three bands are red, green and blue in the file, and come in ``data.color_order``; a grey picture of 8 bits is read
    as one of three equal bands, which is what pretrained weights want. A band that never varies is divided by 1.
    Distortions of colour are for pictures alone.
    """
    mean = [_short(number) for number in facts.mean]
    std = [_short(number) if number >= LEAST_STD else 1.0 for number in facts.std]
    if len(mean) == 1 and (facts.is_8bit or not has_bands):
        mean, std = mean * 3, std * 3
    if len(mean) == 3 and value("data.color_order") == "bgr":
        mean, std = mean[::-1], std[::-1]
    found = {"data.bands": len(mean), "data.mean": mean, "data.std": std}
    is_picture = facts.is_8bit and len(mean) == 3
    return found if is_picture else found | {"data.photometric": False}


def _short(number: float) -> float:
    """To six digits: more say nothing, and are hard to read."""
    return float(f"{number:.6g}")


def _crop(facts: Facts, value: Value, has_bands: bool) -> dict[str, Any]:
    """The recipe's crop, but no side larger than the median image's, rounded up to a multiple of 8.

    A larger crop would be padding for the most part.
    """
    median = _resized(facts.width[1], facts.height[1], value("data.short_side"), value("data.long_side"))
    fitting = [MULTIPLE * math.ceil(side / MULTIPLE) for side in median]
    return {"data.crop_size": [min(ours, fits) for ours, fits in zip(value("data.crop_size"), fitting, strict=True)]}


def _iterations(facts: Facts, value: Value, has_bands: bool) -> dict[str, Any]:
    """As many passes over the training images as published recipes have, within their bounds, in hundreds."""
    images = facts.images["train"] + (facts.images["val"] if value("data.include_val") else 0)
    iterations = min(max(PASSES * images / value("train.batch_size"), FEWEST), MOST)
    return {"train.max_iters": 100 * round(iterations / 100)}


def _intervals(facts: Facts, value: Value, has_bands: bool) -> dict[str, Any]:
    """Ten validations and twenty checkpoints in a run of any length from 1000 iterations; fewer in a shorter one.

    No validation where there is no image for it.
    """
    total = max(value("train.max_iters"), SHORTEST)
    return {
        "val.interval": total // VALIDATIONS if facts.images["val"] else 0,
        "checkpoint.interval": total // CHECKPOINTS,
    }


def _hard_pixels(facts: Facts, value: Value, has_bands: bool) -> dict[str, Any]:
    """The same part of a crop as in the published recipes: as a number it would be all pixels of a small crop."""
    width, height = value("data.crop_size")
    return {"loss.ohem_min_kept": max(1, round(KEPT * width * height / KEPT_OF))}


def _mode(facts: Facts, value: Value, has_bands: bool) -> dict[str, Any]:
    """Windows where an image is larger than the network has seen one, which is also what bounds the memory.

    The windows' mode shows images that are no larger whole as well.
    """
    largest = _resized(facts.width[2], facts.height[2], value("val.short_side"), value("val.long_side"))
    window = value("val.window") or value("data.crop_size")
    is_larger = any(side > limit for side, limit in zip(largest, window, strict=True))
    return {"val.mode": "sscrop" if is_larger else "ss"}


def _resized(width: float, height: float, short: int, long: int) -> tuple[float, float]:
    """A size after ``short_side`` and ``long_side``, each 0 where it asks for nothing."""
    if not short:
        return width, height
    factor = short / min(width, height)
    if long:
        factor = min(factor, long / max(width, height))
    return width * factor, height * factor


RULES = (_pixels, _crop, _iterations, _intervals, _hard_pixels, _mode)

READ = (
    *("data.color_order", "data.crop_size", "data.short_side", "data.long_side", "data.include_val"),
    *("train.batch_size", "train.max_iters", "val.window", "val.short_side", "val.long_side"),
)
"""The keys that the rules look at."""
