"""SRC DST: another project's checkpoint in our format

Prints what was matched, left out and missing, and what was assumed where SRC does not say it; ``checkpoint=DST`` reads
what it writes.
"""

import argparse
from pathlib import Path

from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.commands._options import add_configuration, split_words


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "main.py import-weights SRC DST --config FILE [key=value ...]"
    add_configuration(parser, words="SRC DST", meaning="the file to read and the file to write")


def run(options: argparse.Namespace) -> None:
    import torch

    from lib.recipes import to_yaml
    from lib.tasks import load_config, make_task
    from lib.weights import read_file
    from lib.weights.checkpoints import import_network
    from lib.weights.loading import FORMAT

    files, overrides = split_words(options.overrides)
    if len(files) != 2:
        raise UserError("import-weights needs two files: main.py import-weights SRC DST --config FILE")
    source, destination = files
    config = load_config(options.config, overrides)
    task = make_task(config)
    content = read_file(source, kind="checkpoint")
    state, report = import_network(task.network(), content, f"checkpoint {source}", task.options)
    # The texts of a run's checkpoint too, so that the file is enough for whoever uses it.
    imported = {"format": FORMAT, "model": state, "iteration": 0, "config": to_yaml(config), **task.texts}
    Path(destination).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(destination), lambda file: torch.save(imported, file))
    print(f"{report.summary}\nwritten: {destination}")
