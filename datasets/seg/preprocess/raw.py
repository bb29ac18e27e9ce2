"""Reading what raw downloads consist of: folders that pair up, lists of names, palette PNGs."""

from pathlib import Path

import numpy as np
from PIL import Image

from datasets.seg.preprocess.runner import LabelError, Pair, visible_files
from lib.base.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg")


def pair_by_stem(split: str, images: Path, labels: Path | None, suffix: str) -> list[Pair]:
    """Pairs of all images in one folder with the label PNGs of the same stems in another.

    Args:
        split: what the pairs belong to.
        images: a folder of PNG and JPEG files.
        labels: a folder of PNG files, or None where there are no labels.
        suffix: of the image that a label without one ought to have.
    """
    found = [path for path in visible_files(images, "*") if path.suffix.lower() in IMAGE_SUFFIXES]
    if labels is None:
        return [Pair(split, image=image, label=None) for image in found]
    without_image = {path.stem for path in visible_files(labels, "*.png")} - {path.stem for path in found}
    found += [images / f"{stem}{suffix}" for stem in without_image]
    return [Pair(split, image=image, label=labels / f"{image.stem}.png") for image in found]


def read_names(path: Path, layout: str) -> list[str]:
    """The first word of each line of a split's list; raises UserError, which names ``layout``, if there is no list."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; expected {layout}") from error
    return [line.split()[0] for line in lines if line.strip()]


def read_palette(path: Path) -> np.ndarray:
    """The indices, uint8 [H, W], of a PNG whose palette only colours them; raises LabelError for another PNG."""
    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        if image.mode not in ("P", "L"):
            raise LabelError("not a palette PNG: label ids are expected, not colours")
        return np.array(image)
