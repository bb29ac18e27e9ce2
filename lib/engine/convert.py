"""The phase ``import-weights``: another project's checkpoint in this project's format."""

from pathlib import Path

import torch

from lib.atomic import write_atomically
from lib.engine.build import build_model
from lib.engine.checkpoint import FORMAT
from lib.errors import UserError
from lib.recipes import load_config
from lib.weights import read_file
from lib.weights.checkpoints import import_network


def import_weights(recipe: str, words: list[str]) -> None:
    """Convert the file SRC to DST, which ``checkpoint=DST`` reads, and print what was matched, left out and missing.

    Args:
        recipe: of the network that SRC holds.
        words: SRC, DST and then overrides of the configuration.
    """
    if len(words) < 2:
        raise UserError("import-weights needs two files: main.py import-weights SRC DST --config FILE")
    source, destination, *overrides = words
    model = build_model(load_config(recipe, overrides))
    state, report = import_network(model, read_file(source, kind="checkpoint"), f"checkpoint {source}")
    content = {"format": FORMAT, "model": state, "iteration": 0}
    Path(destination).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(destination), lambda file: torch.save(content, file))
    print(f"{report.summary}\nwritten: {destination}")
