"""Replays fixtures of other projects' checkpoints, for ``replay_golden``, and knows the names that options give."""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lib.weights import read_file


def replay_mmengine(
    case: dict, arrays: dict[str, Tensor], directory: Path
) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """The weights and the optimiser's state of a checkpoint that a training left; all of them, and no others."""
    content = read_file(directory / case["file"])
    entries = {f"state/{name}": tensor for name, tensor in content["state_dict"].items()}
    for index, state in content["optimizer"]["state"].items():
        numbers = {name: value for name, value in state.items() if isinstance(value, (Tensor, int, float))}
        entries |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in numbers.items()}
    for name in sorted(entries.keys() | arrays.keys()):
        yield name, entries[name], arrays[name], 0


REPLAYS = {"mmengine/checkpoint": replay_mmengine}
"""How fixtures are replayed, by their family."""


def listed_as(head: str) -> str:
    """What lists of published names call mmsegmentation's ``head``."""
    return {"ASPPHead": "deeplabv3"}.get(head, head.removesuffix("Head").lower())


def optional_names(names: set[str]) -> set[str]:
    """Names that mmsegmentation's heads of other options than the listed ones have: more branches, other transforms."""
    found = {"decode_head.nl_block.concat_project.conv.weight"}
    for name in names:
        found.add(name.replace(".channel_add_conv.", ".channel_mul_conv."))
        for index in range(8):
            found.add(re.sub(r"\.(psp_modules|aspp_modules|stages)\.\d+\.", rf".\1.{index}.", name))
    return found


def share(case: dict, filled: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a fixture, of which some modules are one and the same under two names: the right one's count."""
    for shadowed, counting in case.get("shared_after_fill", {}).items():
        for name in [name for name in filled if name.startswith(f"{shadowed}.")]:
            filled[name] = filled[counting + name.removeprefix(shadowed)]
    return filled
