"""The one entry point: ``python main.py <phase> --config FILE [key=value ...]``."""

import argparse
import importlib
import os
import sys
import time
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
    "models": ("print what the networks cost at a recipe's crop; needs no --config", "lib.engine.models:models"),
}


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
    arguments = parser.parse_intermixed_args(argv)
    if arguments.config is None and (arguments.phase != "models" or arguments.print_config):
        parser.error("the following arguments are required: --config")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    from lib.recipes import load_config, to_yaml

    if arguments.print_config:
        print(to_yaml(load_config(arguments.config, arguments.overrides)), end="")
        return
    module, function = PHASES[arguments.phase][1].split(":")
    getattr(importlib.import_module(module), function)(arguments.config, arguments.overrides)


def main() -> int:
    end_with_launcher()
    arguments = parse_arguments(sys.argv[1:])
    try:
        run(arguments)
    except (UserError, OSError) as error:
        if arguments.debug:
            raise
        # The processes of one job often meet the same mistake: rank 0 speaks, and its end stops the others.
        if int(os.environ.get("RANK", 0)) > 0:
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
