"""CamVid in its 11-class, 480 x 360 release: images in ``train``, labels in ``trainannot``, and so on."""

import sys
from pathlib import Path

from datasets.seg.preprocess.runner import SPLITS, Pair, main, visible_files

LAYOUT = "{train,val,test}/*.png|jpg and {train,val,test}annot/*.png"


def find_pairs(src: Path) -> list[Pair]:
    """Pairs of all three splits, which all have labels."""
    pairs = []
    for split in SPLITS:
        images = [path for path in visible_files(src / split, "*") if path.suffix.lower() in (".png", ".jpg")]
        labels = src / f"{split}annot"
        without_image = {path.stem for path in visible_files(labels, "*.png")} - {path.stem for path in images}
        images += [src / split / f"{stem}.png" for stem in without_image]
        pairs += [Pair(split, image=image, label=labels / f"{image.stem}.png") for image in images]
    return pairs


if __name__ == "__main__":
    sys.exit(main("camvid", find_pairs, LAYOUT))
