"""ADE20K in its SceneParsing release: 150 classes and 0 for everything else; the test images have no labels."""

import sys
from pathlib import Path

from datasets.seg.preprocess.raw import pair_by_stem
from datasets.seg.preprocess.runner import Pair, main

LAYOUT = "images/{training,validation}/*.jpg, annotations/{training,validation}/*.png and perhaps images/testing/*.jpg"
FOLDERS = {"train": "training", "val": "validation", "test": "testing"}


def find_pairs(src: Path) -> list[Pair]:
    """Pairs of training and validation, and the test images if they are there."""
    pairs = []
    for split, folder in FOLDERS.items():
        labels = None if split == "test" else src / "annotations" / folder
        pairs += pair_by_stem(split, src / "images" / folder, labels, ".jpg")
    return pairs


if __name__ == "__main__":
    sys.exit(main("ade20k", find_pairs, LAYOUT))
