"""Cityscapes as downloaded, with fine annotations or, to train on first, with coarse ones.

``--annotations coarse`` takes the 20 000 coarsely annotated images of ``train_extra`` as train; val and test are the
same as with fine annotations. The test split has no labels.
"""

import sys
from pathlib import Path

from datasets.seg.preprocess.runner import Pair, main, visible_files

IMAGE_END = "_leftImg8bit.png"
LAYOUT = (
    f"leftImg8bit/{{train,val,test}}/<city>/*{IMAGE_END} and gtFine/{{train,val}}/<city>/*_gtFine_labelIds.png; "
    f"for coarse, leftImg8bit/train_extra and gtCoarse/train_extra/<city>/*_gtCoarse_labelIds.png in place of train"
)
OPTIONS = {
    "annotations": {
        "choices": ("fine", "coarse"),
        "default": "fine",
        "help": "of the training images: fine (train) or coarse (train_extra); val is always fine (default: fine)",
    }
}


def find_pairs(src: Path, annotations: str = "fine") -> list[Pair]:
    """Pairs of all three splits; the labels published for test are blank and left out."""
    train = ("train", "gtFine") if annotations == "fine" else ("train_extra", "gtCoarse")
    pairs = []
    for split, folder, kind in (("train", *train), ("val", "val", "gtFine"), ("test", "test", None)):
        images = src / "leftImg8bit" / folder
        frames = {frame(path, images, IMAGE_END) for path in visible_files(images, f"*/*{IMAGE_END}")}
        if kind is None:
            pairs += [Pair(split, image=images / f"{name}{IMAGE_END}", label=None) for name in frames]
            continue
        labels, label_end = src / kind / folder, f"_{kind}_labelIds.png"
        frames |= {frame(path, labels, label_end) for path in visible_files(labels, f"*/*{label_end}")}
        pairs += [Pair(split, images / f"{name}{IMAGE_END}", labels / f"{name}{label_end}") for name in frames]
    return pairs


def frame(path: Path, folder: Path, end: str) -> str:
    """``<city>/<city>_<sequence>_<frame>``, what an image and its label share."""
    return path.relative_to(folder).as_posix().removesuffix(end)


if __name__ == "__main__":
    sys.exit(main("cityscapes", find_pairs, LAYOUT, options=OPTIONS))
