"""score a run on the validation images

A table on the screen; in the run's folder ``val/`` the scores, label images and pictures.
"""

import argparse

from lib.commands._options import add_configuration

add_options = add_configuration


def run(options: argparse.Namespace, split: str = "val") -> None:
    from lib.engine.evaluate import evaluate
    from lib.tasks import make_task, open_run

    config, folder = open_run(options.config, options.overrides, needs_run=False)
    evaluate(make_task(config), config, folder, split)
