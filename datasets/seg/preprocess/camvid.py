"""CamVid in its 11-class, 480 x 360 release: images in ``train``, labels in ``trainannot``, and so on."""

import sys
from pathlib import Path

from datasets.seg.preprocess.raw import pair_by_stem
from datasets.seg.preprocess.runner import SPLITS, Pair, main

LAYOUT = "{train,val,test}/*.png|jpg and {train,val,test}annot/*.png"


def find_pairs(src: Path) -> list[Pair]:
    """Pairs of all three splits, which all have labels."""
    return [pair for split in SPLITS for pair in pair_by_stem(split, src / split, src / f"{split}annot", ".png")]


if __name__ == "__main__":
    sys.exit(main("camvid", find_pairs, LAYOUT))
