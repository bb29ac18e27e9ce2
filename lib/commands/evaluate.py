"""score a folder of label PNGs against another; needs --pred DIR, --gt DIR and --dataset NAME alone"""

import argparse
from pathlib import Path

from datasets.seg.classes import datasets
from lib.commands._options import AtLeastOne


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--pred", type=Path, required=True, metavar="DIR", help="label PNGs to score, in the dataset's ids")
    add("--gt", type=Path, required=True, metavar="DIR", help="the true label PNGs")
    tables = f"one of {', '.join(datasets())}, or a DATA_DIR or file with the class table"
    add("--dataset", required=True, metavar="NAME", help=f"whose classes: {tables}")
    add("--boundary", action="store_true", help="give boundary IoU (Cheng et al., CVPR 2021) too")
    add("--json", type=Path, metavar="FILE", help="write the scores there too")
    add("--workers", action=AtLeastOne, metavar="N", help="threads, 1 or more (default: one for each core)")


def run(options: argparse.Namespace) -> None:
    from lib.scores.folders import evaluate

    evaluate(options.pred, options.gt, options.dataset, options.json, options.workers, options.boundary)
