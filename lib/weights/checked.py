"""Seeing that a checkpoint holds what it should before any of it is used; and what to do where it does not."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.base.errors import UserError
from lib.weights.archive import is_whole
from lib.weights.files import Damaged, read_file

NUMBERED = re.compile(r"iter_(0|[1-9][0-9]{0,17})\.pth")
"""Names of a run's checkpoints, with their iterations."""

LARGEST_ITERATION = 10**15

TEXTS = {"config": 1 << 16, "classes": 1 << 20}
"""What a checkpoint carries as text, and the most bytes of each: its configuration, YAML; its class table, CSV."""


def read_checkpoint(path: str | Path) -> Any:
    """``read_file``, whose errors on a damaged file name another one of its run, if there is any."""
    path = Path(path)
    try:
        return read_file(path, kind="checkpoint")
    except Damaged as error:
        raise Damaged(f"{error}{_or_another(path)}") from None


def _or_another(path: Path) -> str:
    """Words that send the reader to the whole checkpoint before ``path`` in its folder; none where there is none."""
    number = NUMBERED.fullmatch(path.name)
    limit = int(number[1]) if number else LARGEST_ITERATION
    try:
        found = {int(name[1]): file for file in path.parent.iterdir() if (name := NUMBERED.fullmatch(file.name))}
    except OSError:
        return ""
    earlier = [found[number] for number in sorted(found, reverse=True) if number < limit]
    for file in [*earlier[:3], path.with_name("best.pth")]:
        if file.is_file() and not (path.exists() and file.samefile(path)) and is_whole(file):
            return f", or use the one before it: checkpoint={file}"
    return ""


class Checks:
    """Checks of what one checkpoint holds; each raises a UserError that names the file, the entry and the remedy."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def wrong(self, entry: str, problem: str) -> UserError:
        """The error of an entry that ``problem`` says what is wrong with."""
        entry = entry if entry.isprintable() and len(entry) < 200 else ascii(entry)[:200]
        advice = _or_another(self.path) or ", or start anew from its weights with pretrained=FILE"
        return UserError(f"checkpoint {self.path}: {entry} {problem}: copy the file again{advice}")

    def entry(self, state: Mapping, name: str, kind: type | tuple[type, ...], wanted: str, within: str = "") -> Any:
        """``state[name]``, which has to be there and of ``kind``."""
        if name not in state:
            raise self.wrong(f"{within}{name}", "is missing")
        return self.kind(state[name], f"{within}{name}", kind, wanted)

    def kind(self, value: Any, entry: str, kind: type | tuple[type, ...], wanted: str) -> Any:
        """``value``, which has to be of ``kind``; True and False are no numbers."""
        is_bool = isinstance(value, bool) and kind is not bool
        if is_bool or not isinstance(value, kind):
            raise self.wrong(entry, f"is {describe(value)}, not {wanted}")
        return value

    def count(self, state: Mapping, name: str, within: str = "") -> int:
        """``state[name]``, a whole number from 0."""
        value = self.entry(state, name, int, "a whole number", within)
        if not 0 <= value <= LARGEST_ITERATION:
            raise self.wrong(f"{within}{name}", f"is {describe(value)}, not a number of iterations")
        return value

    def tensors(self, state: Mapping, name: str) -> Mapping[str, Tensor]:
        """``state[name]``, a dictionary of tensors by names."""
        found = self.entry(state, name, dict, "a dictionary of tensors")
        for key, value in found.items():
            if not isinstance(key, str) or not key.isprintable():
                raise self.wrong(name, f"has {describe(key)} for a name")
            self.kind(value, f"{name}.{key}", Tensor, "a tensor")
        return found

    def like(self, value: Any, entry: str, expected: Tensor) -> Tensor:
        """``value``, a tensor of the shape and type of ``expected``."""
        self.kind(value, entry, Tensor, "a tensor")
        if value.shape != expected.shape or value.dtype != expected.dtype:
            raise self.wrong(entry, f"is {describe(value)}, not {describe(expected)}")
        return value


def describe(value: Any) -> str:
    """What ``value`` is, in a few words whatever it is."""
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and value.bit_length() < 64):
        return str(value)
    if isinstance(value, str):
        return ascii(value[:40])
    return f"a {type(value).__name__}"


def check_own(state: Any, path: Path, own_format: int) -> dict[str, Any]:
    """``state``, seen to be a checkpoint of this project, its weights tensors and its iteration a number."""
    if not isinstance(state, dict) or "format" not in state or "model" not in state:
        raise UserError(f"{path} is not a checkpoint of this project")
    if isinstance(state["format"], torch.Tensor) or state["format"] != own_format:
        raise UserError(
            f"{path} has checkpoint format {describe(state['format'])}; this version reads format {own_format}"
        )
    checks = Checks(path)
    for name in ("model", "ema"):
        if name in state:
            checks.tensors(state, name)
    if "iteration" in state:
        checks.count(state, "iteration")
    for name, most in TEXTS.items():
        if name in state:
            text = checks.kind(state[name], name, str, "a text")
            if len(text.encode("utf-8", "surrogatepass")) > most:
                raise checks.wrong(name, f"is longer than the {most:,} bytes that it may have")
    return state
