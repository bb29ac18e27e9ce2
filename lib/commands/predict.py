"""CHECKPOINT|RUN SOURCE...: label images and overlays of images, folders, lists, videos or a camera

In --out: label/<name>.png in the dataset's ids, equal to what val writes; vis/<name>.jpg, or .mp4 of a video; and
predictions.json, what was done. A SOURCE is an image, a folder (its sub-folders too, whose names results keep), also in
a zip (DATA.zip/val/image), a pattern in quotes, a text file of paths or - for paths on the standard input, a video, or
camera:N. How images are evaluated is as in validation: val.mode, val.scales, val.batch_size, device and all other keys
of the run, which key=value overrides. An image's orientation tag is passed over, as in training. A TIFF larger than
memory allows is read and predicted by windows; its label image is label/<name>.tif. An overlay video has no sound, the
mean rate of a video whose rate varies, and even sides: one more row or column than a video of odd ones. Status 1: some
source could not be read, or not to its end; it is named, and the others are done.
"""

import argparse
import sys
from pathlib import Path

from lib.base.errors import UserError
from lib.commands._options import AtLeastOne, split_words


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "main.py predict CHECKPOINT|RUN SOURCE... --out DIR [options] [key=value ...]"
    add = parser.add_argument
    add("words", nargs="*", metavar="CHECKPOINT|RUN SOURCE... key=value", help="the network, and what it is to look at")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the results, made if need be")
    add(
        "--probabilities",
        action="store_true",
        help="also probabilities/<name>.npz: float16 [classes, height, width], with the ids and names of the classes",
    )
    add(
        "--polygons",
        choices=("coco", "geojson"),
        default="",
        help="also outlines of the regions, in pixels, y down: polygons.json in COCO's format (a region with holes as "
        "run lengths), or polygons/<name>.geojson",
    )
    add("--frames", action="store_true", help="of a video also label/<video>/<frame, from 000000>.png")
    add(
        "--batch",
        action=AtLeastOne,
        default=0,
        metavar="N",
        help="images of one size at a time (unless given: 1 on a CPU; on a GPU the pixels of val.batch_size windows, "
        "which may round otherwise than one by one)",
    )
    add("--overwrite", action="store_true", help="replace results of another command in --out")


def run(options: argparse.Namespace) -> None:
    words, overrides = split_words(options.words)
    if len(words) < 2:
        raise UserError("predict needs a network and a source: main.py predict CHECKPOINT|RUN SOURCE... --out DIR")
    from lib.predict.output import Output
    from lib.predict.run import predict_sources
    from lib.predict.sources import find_sources
    from lib.tasks.trained import open_trained

    network, *named = words
    sources = find_sources(named, options.out)
    trained = open_trained(network, overrides)
    kinds = {"probabilities": options.probabilities, "polygons": options.polygons, "frames": options.frames}
    command = {"network": str(Path(network).resolve()), "sources": named, "settings": overrides, **kinds}
    output = Output(options.out, trained.task.table, **kinds)
    if not predict_sources(trained, sources, output, command, batch=options.batch, overwrite=options.overwrite):
        sys.exit(1)
