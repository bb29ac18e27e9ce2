"""``python -m datasets.seg.street``: draw a dataset of street scenes."""

import argparse
import os
import sys
from pathlib import Path

from datasets.seg.street.write import SPLITS, write_dataset
from lib.base.errors import UserError


def main() -> int:
    """Read the command line and draw; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.seg.street",
        description="Draw street scenes with Cityscapes' 19 classes, in the layout of the raw Cityscapes download.",
    )
    parser.add_argument("--dst", metavar="RAW", type=Path, required=True, help="the folder to write to")
    for split, count in zip(SPLITS, (160, 24, 4), strict=True):
        parser.add_argument(f"--{split}", type=int, default=count, help=f"scenes in {split} (default: {count})")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 256), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: all cores)")
    args = parser.parse_args()
    counts = {split: getattr(args, split) for split in SPLITS}
    if min(*counts.values(), args.seed) < 0 or args.workers < 1:
        parser.error("counts and --seed must not be negative, --workers must be at least 1")
    try:
        write_dataset(args.dst, counts, tuple(args.size), args.seed, args.workers)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(f"street scenes: {', '.join(f'{split} {count}' for split, count in counts.items())}; in {args.dst}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
