"""continue an interrupted run exactly where its last checkpoint is"""

import argparse

from lib.commands._options import add_configuration

add_options = add_configuration


def run(options: argparse.Namespace) -> None:
    from lib.engine.runs import RunFolder
    from lib.engine.train import resume
    from lib.tasks import load_config, make_task, open_run

    # Another job may be about to change what the run recorded.
    with RunFolder(load_config(options.config, options.overrides, fit=False)).claim():
        config, folder = open_run(options.config, options.overrides, needs_run=True)
        resume(make_task(config), config, folder)
