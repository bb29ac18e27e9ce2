"""continue an interrupted run exactly where its last checkpoint is"""

import argparse

from lib.commands._options import add_configuration

add_options = add_configuration


def run(options: argparse.Namespace) -> None:
    from lib.engine.train import resume
    from lib.tasks import make_task, open_run

    config, folder = open_run(options.config, options.overrides, needs_run=True)
    resume(make_task(config), config, folder)
