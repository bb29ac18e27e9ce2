"""RUN ...: draw the curves of runs as a picture, or as one page with their tables and pictures

Loss, learning rate and mIoU over the iterations, of one or many runs; those that differ in their seeds alone are drawn
as their mean and the range from the lowest to the highest.
"""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run folders, one or more")
    add("--out", type=Path, required=True, metavar="FILE", help=".png: the curves; .html: tables and pictures too")


def run(options: argparse.Namespace) -> None:
    from lib.base.atomic import write_atomically
    from lib.base.output import require_output
    from lib.vis.curves import as_file, curves_figure
    from lib.vis.page import page
    from lib.vis.recorded import read_runs

    require_output(options.out, (".png", ".html"))
    runs = read_runs(options.runs)
    content = page(runs).encode() if options.out.suffix == ".html" else as_file(curves_figure(runs), "png")
    write_atomically(options.out, lambda file: file.write(content))
    print(f"{len(runs)} run{'s' if len(runs) > 1 else ''} drawn in {options.out}")
