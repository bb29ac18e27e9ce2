"""The one entry point: ``python main.py <phase> --config FILE [key=value ...]``."""

import argparse
import importlib
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from lib.engine.stop import end_with_launcher
from lib.errors import UserError

PHASES = {
    "train": ("train a new run", "lib.engine.train:train"),
    "resume": ("continue an interrupted run exactly where its last checkpoint is", "lib.engine.train:resume"),
    "val": ("score a run on the validation images", "lib.engine.evaluate:val"),
    "test": ("write label images for the test images", "lib.engine.evaluate:test"),
    "import-weights": (
        "SRC DST: another project's checkpoint in our format",
        "lib.engine.convert:import_weights",
    ),
    "evaluate": (
        "score a folder of label PNGs against another; needs --pred, --gt and --dataset alone",
        "lib.engine.score:evaluate",
    ),
    "models": ("print what the networks cost at a recipe's crop; needs no --config", "lib.engine.models:models"),
}

SCORE_OPTIONS = ("pred", "gt", "dataset", "json", "workers")
"""Of the phase ``evaluate``, in its function's order."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (main.py --help lists what there is)", file=sys.stderr)
        sys.exit(2)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    width = max(map(len, PHASES))
    parser = _Parser(
        prog="main.py",
        description="Train and evaluate segmentation networks with non-local attention.",
        epilog="phases:\n" + "\n".join(f"  {name:{width}}  {text}" for name, (text, _) in PHASES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("phase", choices=PHASES, metavar="phase", help=", ".join(PHASES))
    parser.add_argument("--config", metavar="FILE", help="a recipe below configs/, or a run's config.yaml")
    parser.add_argument("--print-config", action="store_true", help="show the merged configuration and stop")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="configuration values; lib/config.py lists all"
    )
    _add_score_options(parser)
    arguments = parser.parse_intermixed_args(argv)
    if arguments.phase == "evaluate":
        _check_score_options(parser, arguments)
    elif arguments.config is None and (arguments.phase != "models" or arguments.print_config):
        parser.error("the following arguments are required: --config")
    elif any(getattr(arguments, name) is not None for name in SCORE_OPTIONS):
        parser.error(f"--{', --'.join(SCORE_OPTIONS)} are for the phase evaluate")
    return arguments


def _add_score_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("options of the phase evaluate")
    group.add_argument("--pred", type=Path, metavar="DIR", help="label PNGs to score, in the dataset's ids")
    group.add_argument("--gt", type=Path, metavar="DIR", help="the true label PNGs")
    group.add_argument("--dataset", metavar="NAME", help="whose classes: a table in datasets/seg/tables")
    group.add_argument("--json", type=Path, metavar="FILE", help="write the scores there too")
    group.add_argument("--workers", type=int, metavar="N", help="threads (default: one for each core)")


def _check_score_options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    missing = [f"--{name}" for name in ("pred", "gt", "dataset") if getattr(arguments, name) is None]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    if arguments.config is not None or arguments.print_config or arguments.overrides:
        parser.error(f"evaluate has no configuration, only --{', --'.join(SCORE_OPTIONS)}")
    if arguments.workers is not None and arguments.workers < 1:
        parser.error(f"--workers {arguments.workers}: must be at least 1")


def run(arguments: argparse.Namespace) -> None:
    if arguments.print_config:
        from lib.recipes import load_config, to_yaml

        print(to_yaml(load_config(arguments.config, arguments.overrides)), end="")
        return
    module, function = PHASES[arguments.phase][1].split(":")
    names = SCORE_OPTIONS if arguments.phase == "evaluate" else ("config", "overrides")
    getattr(importlib.import_module(module), function)(*(getattr(arguments, name) for name in names))


def main() -> int:
    end_with_launcher()
    arguments = parse_arguments(sys.argv[1:])
    try:
        run(arguments)
    except (UserError, OSError) as error:
        if arguments.debug:
            raise
        # The processes of a job often meet the same mistake: a machine's first speaks, and its end stops the others.
        if int(os.environ.get("LOCAL_RANK", 0)) > 0:
            time.sleep(2)
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError" or arguments.debug:
            raise
        print("error: the GPU has too little memory: lower train.micro_batch or val.batch_size", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
