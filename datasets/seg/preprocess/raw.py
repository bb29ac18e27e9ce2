"""Reading what raw downloads consist of: folders that pair up, lists of names, palette PNGs."""

from pathlib import Path

import numpy as np

from datasets.seg.preprocess.runner import LabelError, Pair, open_pillow, visible_files
from lib.base.errors import UserError
from lib.base.regular import LARGEST, read_regular

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


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
    label_of = {path.stem: path for path in visible_files(labels, "*") if path.suffix.lower() == ".png"}
    found += [images / f"{stem}{suffix}" for stem in label_of.keys() - {path.stem for path in found}]
    return [Pair(split, image, label_of.get(image.stem, labels / f"{image.stem}.png")) for image in found]


def read_names(path: Path, layout: str) -> list[str]:
    """The first word of each line of a split's list; raises UserError, which names ``layout``, if there is no list."""
    lines = read_raw(path, layout).decode(errors="replace").splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def read_raw(path: Path, layout: str, most: int = LARGEST) -> bytes:
    """A file that the raw download must hold, of up to ``most`` bytes; raises UserError, which names ``layout``."""
    try:
        return read_regular(path, most)
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise UserError(f"cannot read {path}: {error.__cause__.strerror}; expected {layout}") from error
        raise


def read_palette(path: Path) -> np.ndarray:
    """The indices, uint8 [H, W], of a PNG whose palette only colours them; raises LabelError for another PNG."""
    data = read_regular(path)
    with open_pillow(data) as image:
        image.verify()
    with open_pillow(data) as image:
        if image.mode not in ("P", "L"):
            raise LabelError("not a palette PNG: label ids are expected, not colours")
        return np.array(image)
