"""draw images, predictions and labels side by side"""

import argparse
from pathlib import Path

from datasets.seg.classes import datasets
from lib.commands._options import AtLeastOne


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DATA_DIR/SPLIT", help="a split of a prepared dataset")
    add("--prediction", type=Path, required=True, metavar="DIR", help="label PNGs of a run")
    tables = f"one of {', '.join(datasets())}, or a DATA_DIR or file with the class table"
    add("--dataset", required=True, metavar="NAME", help=f"whose classes and ids: {tables}")
    add("--out", type=Path, required=True, metavar="FILE", help=".jpg or .png to write")
    add("--count", action=AtLeastOne, default=3, metavar="N", help="rows, 1 or more")


def run(options: argparse.Namespace) -> None:
    from lib.vis.overlay import write_picture
    from lib.vis.sheet import comparison_sheet

    sheet = comparison_sheet(options.data, options.prediction, options.dataset, options.count)
    write_picture(options.out, sheet)
