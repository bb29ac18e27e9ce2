"""RUN DIR: what was trained as a folder for others, with a model card; nothing in it is pickled

In DIR: the weights (safetensors; averaged where the run has averages), configuration, class table, scores where val
has found any, README.md, the model card, with a picture of predictions where the data are at hand, and SHA256SUMS.
Places of this machine (data.root, pretrained, ...) are emptied. Where a checkpoint is asked for, DIR serves. key=value
overrides the run's configuration, such as data.root=DATA_DIR for the picture.
"""

import argparse
from pathlib import Path

from lib.base.errors import UserError
from lib.commands._options import split_words


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "main.py publish RUN DIR [--overwrite] [--no-picture] [key=value ...]"
    add = parser.add_argument
    add("words", nargs="*", metavar="RUN DIR key=value", help="a run folder or checkpoint, and the folder to write")
    add("--overwrite", action="store_true", help="replace DIR where it is a published folder")
    add("--no-picture", action="store_true", help="show no images of the data, whose licence may forbid it")


def run(options: argparse.Namespace) -> None:
    words, overrides = split_words(options.words)
    if len(words) != 2:
        raise UserError("publish needs a run and a folder: main.py publish RUN DIR")
    from lib.publish.folder import publish, require_place
    from lib.tasks.trained import open_trained

    source, target = Path(words[0]), require_place(Path(words[1]), options.overwrite)
    trained = open_trained(source, overrides)
    notes = publish(trained, source, target, picture=not options.no_picture)
    for note in (*trained.notes, *notes):
        print(note)
    print(f"published: {target}, iteration {trained.iteration} of {trained.path}")
