"""print what the networks cost at a recipe's crop; needs no --config"""

import argparse

from lib.base.errors import UserError
from lib.commands._options import add_configuration

CROP = "data.crop_size"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = f"main.py models [--config FILE [{CROP}=[WIDTH,HEIGHT]]]"
    add_configuration(parser, required=False)


def run(options: argparse.Namespace) -> None:
    from lib.models.table import markdown, network_rows
    from lib.tasks import load_config

    for override in options.overrides:
        if options.config is None:
            raise UserError(f"{override} changes a recipe: name it with --config FILE, or leave {override} out")
        if not override.startswith(f"{CROP}="):
            raise UserError(f"models looks at {CROP} alone: leave {override} out")
    config = load_config(options.config, options.overrides)
    print(markdown(list(network_rows(tuple(config.data.crop_size)))))
