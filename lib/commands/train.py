"""train a new run"""

import argparse

from lib.commands._options import add_configuration

add_options = add_configuration


def run(options: argparse.Namespace) -> None:
    from lib.engine.runs import RunFolder
    from lib.engine.train import train
    from lib.tasks import load, make_task

    recipe = load(options.config, options.overrides)
    train(make_task(recipe.config), recipe.config, RunFolder(recipe.config), recipe.note)
