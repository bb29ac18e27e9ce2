"""your own images and labels, as they are, to a DATA_DIR that trains with data.dataset=auto

Labels are recognised by themselves: id masks of 8 and 16 bits, palette PNGs, colour masks, binary masks, COCO's JSON, a
folder of masks for each class. What was found, and what looks wrong with it, is printed before anything is written, and
lies in DATA_DIR/report.html. The source is never touched; the command may be killed and typed again.
"""

import argparse
import os
import sys
from pathlib import Path

from lib.commands._options import AtLeastOne

SPLITS = ("train", "val", "test")


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--images", type=Path, metavar="DIR", help="the images (jpg, png, bmp, webp, tif, npy), also in sub-folders")
    add("--labels", type=Path, metavar="DIR", help="the labels, or COCO's .json; may be the folder of the images")
    add("--dst", type=Path, metavar="DATA_DIR", required=True, help="the folder to prepare")
    add("--val", type=_share, metavar="SHARE", help="of the images for val, 0 to 1, where no list or folder says which")
    for split in SPLITS:
        add(f"--{split}-list", type=Path, metavar="FILE", help=f"a name a line: the images of {split}")
    add("--list", type=Path, metavar="FILE", help="an image, its label and perhaps its split a line")
    add("--pattern", metavar="TEXT", help="how labels are called: {stem}_mask; or both: {stem}_rgb={stem}_mask")
    add("--classes", type=Path, metavar="FILE", help="names, colours, ids of the classes: a CSV, or a name a line")
    add("--ignore", metavar="IDS", default=None, help="ids, names or #rrggbb that training passes over: 255,0")
    add("--ignore-background", action="store_true", help="what no annotation or mask covers is no class")
    add("--link", action="store_true", help="hard-link files that need no conversion instead of copying them")
    add("--workers", action=AtLeastOne, default=os.cpu_count(), metavar="N", help="threads")


def run(options: argparse.Namespace) -> None:
    from datasets.seg.own.prepare import Request, prepare

    lists = {split: getattr(options, f"{split}_list") for split in SPLITS}
    request = Request(
        dst=options.dst,
        images=options.images,
        labels=options.labels,
        list=options.list,
        pattern=options.pattern,
        val=options.val,
        lists={split: file for split, file in lists.items() if file},
        classes=options.classes,
        ignore=tuple(word.strip() for word in (options.ignore or "").split(",") if word.strip()),
        ignore_background=options.ignore_background,
        link=options.link,
        workers=options.workers,
    )
    if status := prepare(request):
        sys.exit(status)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"'{text}' has to be a number, at least 0 and less than 1")
    return share
