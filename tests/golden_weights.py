"""Replays fixtures of other projects' checkpoints, for ``replay_golden``."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from lib.weights import read_file


def replay_mmengine(
    case: dict, arrays: dict[str, Tensor], directory: Path
) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """The weights and the optimiser's state of a checkpoint that a training left; all of them, and no others."""
    content = read_file(directory / case["file"])
    entries = {f"state/{name}": tensor for name, tensor in content["state_dict"].items()}
    for index, state in content["optimizer"]["state"].items():
        entries |= {f"optimizer/{index}/{name}": tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    for name in sorted(entries.keys() | arrays.keys()):
        yield name, entries[name], arrays[name], 0


REPLAYS = {"mmengine/checkpoint": replay_mmengine}
"""How fixtures are replayed, by their family."""
