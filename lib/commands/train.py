"""train a new run"""

import argparse

from lib.commands._options import add_configuration

add_options = add_configuration


def run(options: argparse.Namespace) -> None:
    from lib.engine.runs import RunFolder
    from lib.engine.train import train
    from lib.tasks import load_config, make_task

    config = load_config(options.config, options.overrides)
    train(make_task(config), config, RunFolder(config))
