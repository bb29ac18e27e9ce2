"""Cityscapes with fine annotations: ``leftImg8bit`` and ``gtFine`` as downloaded; the test split has no labels."""

import sys
from pathlib import Path

from datasets.seg.preprocess.runner import SPLITS, Pair, main, visible_files

IMAGE_END = "_leftImg8bit.png"
LABEL_END = "_gtFine_labelIds.png"
LAYOUT = f"leftImg8bit/{{train,val,test}}/<city>/*{IMAGE_END} and gtFine/{{train,val}}/<city>/*{LABEL_END}"


def find_pairs(src: Path) -> list[Pair]:
    """Pairs of all three splits; the labels published for test are blank and left out."""
    pairs = []
    for split in SPLITS:
        images, labels = src / "leftImg8bit" / split, src / "gtFine" / split
        frames = {frame(path, images, IMAGE_END) for path in visible_files(images, f"*/*{IMAGE_END}")}
        if split != "test":
            frames |= {frame(path, labels, LABEL_END) for path in visible_files(labels, f"*/*{LABEL_END}")}
        for name in frames:
            label = None if split == "test" else labels / f"{name}{LABEL_END}"
            pairs.append(Pair(split, image=images / f"{name}{IMAGE_END}", label=label))
    return pairs


def frame(path: Path, folder: Path, end: str) -> str:
    """``<city>/<city>_<sequence>_<frame>``, what an image and its label share."""
    return path.relative_to(folder).as_posix().removesuffix(end)


if __name__ == "__main__":
    sys.exit(main("cityscapes", find_pairs, LAYOUT))
