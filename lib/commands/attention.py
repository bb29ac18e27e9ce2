"""CHECKPOINT|RUN IMAGE --at X,Y ...: what chosen pixels attend to, as pictures; --stats: whether it is what it claims

Of an image, in --out: for each query a sheet with the image and each term of the block's attention over it (pairwise,
unary, and what is really applied) at the image's size, sheet.png with all of them, small, and attention.json. Without
--at, a few queries are chosen. With --stats no image is named: of all images of a split, stats.json, stats.png and a
table on the screen. Images are seen whole, resized and in the precision as in validation (the block itself in float32);
key=value overrides the run's configuration.
"""

import argparse
import re
from pathlib import Path

from lib.base.errors import UserError
from lib.commands._options import SETTING, AtLeastOne, split_words

POINT = re.compile(r"(-?[0-9]{1,9}),(-?[0-9]{1,9})")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "main.py attention CHECKPOINT|RUN IMAGE [--at X,Y ...] --out DIR [options] [key=value ...]\n"
        "       main.py attention CHECKPOINT|RUN --stats data.root=DATA_DIR --out DIR [options] [key=value ...]"
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="CHECKPOINT|RUN IMAGE key=value", help="the network, and what it is to look at")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the results, made if need be")
    add("--at", nargs="+", action="extend", default=[], metavar="X,Y", help="queries, in pixels from the upper left")
    add("--label", type=Path, metavar="FILE|DATA_DIR", help="the image's label, in ids, or the DATA_DIR that has it")
    add(
        "--clip",
        type=float,
        metavar="PERCENT",
        help="draw weights above this percentile of a map as it, which the picture says; 99, say. The authors of CCNet "
        "so bring out what is faint",
    )
    add("--block", default="", metavar="NAME", help="which block of the network (unless given: the last that attends)")
    add("--stats", action="store_true", help="statistics of a split, against its labels")
    add("--split", choices=("train", "val", "test"), default="val", help="of --stats")
    add("--radius", action=AtLeastOne, default=1, metavar="N", help="of --stats: how near another class is a boundary")
    add("--count", action=AtLeastOne, default=0, metavar="N", help="of --stats: images, spread evenly (default: all)")


def run(options: argparse.Namespace) -> None:
    points = [word for word in options.at if not SETTING.match(word)]
    words, overrides = split_words([*options.words, *(word for word in options.at if SETTING.match(word))])
    at = [_point(word) for word in points]
    wanted = 1 if options.stats else 2
    if len(words) != wanted:
        raise UserError(
            f"attention {'--stats takes a network and no image' if options.stats else 'takes a network and an image'}: "
            f"{len(words)} words are neither options nor key=value"
        )
    if options.stats and (at or options.label or options.clip is not None):
        raise UserError("--at, --label and --clip are for one image: leave them out with --stats")
    if options.clip is not None and not 0 < options.clip < 100:
        raise UserError(f"--clip {options.clip:g}: must be a percentile above 0 and below 100, such as 99")
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"{options.out} is a file: choose another folder with --out")
    from lib.attention.view import View
    from lib.base.names import printable
    from lib.tasks.trained import open_trained

    trained = open_trained(words[0], overrides)
    for note in trained.notes:
        print(note)
    view = View(trained, options.block)
    if options.stats:
        from lib.attention.table import write_statistics

        print(write_statistics(view, options.split, options.out, radius=options.radius, count=options.count))
        print(f"\na row for each image is in {printable(options.out / 'stats.json')}")
        return
    from lib.attention.maps import draw_maps

    for path in draw_maps(view, Path(words[1]), at, options.label, options.out, clip=options.clip):
        print(printable(path))


def _point(word: str) -> tuple[int, int]:
    found = POINT.fullmatch(word)
    if not found:
        raise UserError(f"--at {word}: give X,Y in pixels, such as 120,45")
    return int(found[1]), int(found[2])
