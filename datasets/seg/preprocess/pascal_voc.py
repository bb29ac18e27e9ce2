"""PASCAL VOC 2012, on request augmented with SBD (Hariharan et al., *Semantic Contours from Inverse Detectors*, 2011).

Labels are 0 (background), 1..20 and 255 (void). With SBD, train is every image that VOC's train or either list of SBD
names, without the images of VOC's val; an image that both annotate keeps VOC's own label.
"""

import os
import sys
from functools import partial
from pathlib import Path

import numpy as np

from datasets.seg.preprocess.matlab import read_matlab
from datasets.seg.preprocess.raw import read_names, read_palette
from datasets.seg.preprocess.runner import LabelError, Pair, main
from lib.base.errors import UserError

LAYOUT = "JPEGImages/*.jpg, SegmentationClass/*.png and ImageSets/Segmentation/{train,val}.txt, perhaps test.txt"
SBD_LAYOUT = "cls/*.mat, {train,val}.txt and img/*.jpg, or a folder 'dataset' of these"
OPTIONS = {
    "sbd": {"metavar": "SBD", "type": Path, "help": f"the raw download of SBD, to augment train: {SBD_LAYOUT}"},
}


def find_pairs(src: Path, sbd: Path | None = None) -> list[Pair]:
    """Pairs of train and val, with SBD's in train if ``sbd`` is its folder, and the test images if they are listed."""
    lists = src / "ImageSets" / "Segmentation"
    names = {split: read_names(lists / f"{split}.txt", LAYOUT) for split in ("train", "val")}
    pairs = [voc_pair(src, split, name) for split, listed in names.items() for name in listed]
    if os.path.exists(lists / "test.txt"):
        names_of_test = read_names(lists / "test.txt", LAYOUT)
        pairs += [Pair("test", image=src / "JPEGImages" / f"{name}.jpg", label=None) for name in names_of_test]
    return pairs if sbd is None else pairs + sbd_pairs(src, sbd, known={*names["train"], *names["val"]})


def voc_pair(src: Path, split: str, name: str) -> Pair:
    """An image with VOC's own label."""
    label = src / "SegmentationClass" / f"{name}.png"
    return Pair(split, src / "JPEGImages" / f"{name}.jpg", label, convert=partial(read_palette, label))


def sbd_pairs(src: Path, sbd: Path, known: set[str]) -> list[Pair]:
    """Training pairs of the images in SBD that are not ``known``; SBD's copy of an image serves where VOC has none."""
    if not os.path.isdir(sbd):
        raise UserError(f"--sbd {sbd} is not a folder: name the raw download of SBD, which holds {SBD_LAYOUT}")
    folder = sbd / "dataset" if os.path.isdir(sbd / "dataset") else sbd
    names = {name for split in ("train", "val") for name in read_names(folder / f"{split}.txt", SBD_LAYOUT)}
    pairs = []
    for name in names - known:
        images = [place / f"{name}.jpg" for place in (src / "JPEGImages", folder / "img")]
        label = folder / "cls" / f"{name}.mat"
        image = next((path for path in images if os.path.isfile(path)), images[0])
        pairs.append(Pair("train", image, label, convert=partial(read_sbd, label)))
    return pairs


def read_sbd(path: Path) -> np.ndarray:
    """The label ids, uint8 [H, W], of one of SBD's files of category boundaries and segmentation."""
    label = read_matlab(path, "GTcls", "Segmentation")
    if label.size and not 0 <= label.min() <= label.max() <= 255:
        raise LabelError(f"its label ids reach from {label.min()} to {label.max()}")
    return label.astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main("pascal_voc", find_pairs, LAYOUT, options=OPTIONS))
