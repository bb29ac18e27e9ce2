"""Reading checkpoint files that strangers made: tensors come out, code never runs."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lib.base.errors import UserError
from lib.base.regular import require_regular
from lib.weights.archive import Broken
from lib.weights.foreign import Refused
from lib.weights.published import WEIGHTS, read_safetensors
from lib.weights.unpickle import read_data

LARGEST = 1 << 36
"""Bytes that a checkpoint may have, where the machine's memory does not hold less."""


BEST_FIRST = ("best", "latest")
"""The checkpoint of a run folder that is meant where only the folder is named."""


class Damaged(UserError):
    """A file that cannot be read, though another of its kind may be."""


def read_file(path: str | Path, kind: str = "pretrained file") -> Any:
    """What ``torch.save`` or ``publish`` wrote to ``path``, its tensors on the CPU, once its checksums are verified.

    Foreign objects (a project's configuration, its log) are dropped without importing what they ask for.

    Args:
        kind: what the file is called in errors.

    Raises:
        UserError: if there is no such file, if it is no checkpoint, holds no tensors, or wants to run code; Damaged if
            it is cut off or damaged.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path, kind)
    require_regular(path, kind, min(LARGEST, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    try:
        content, dropped = read_data(path)
    except Refused as error:
        raise UserError(f"refused to load {kind} {path}: it asks for {_shortly(error)}, which runs code") from None
    except Broken as error:
        raise Damaged(f"{kind} {path} {error}; copy or download it again") from None
    except Exception:  # the bytes of a broken file can lead the reader into any error
        raise Damaged(f"{kind} {path} {_diagnose(path)}") from None
    if dropped and not _holds_tensors(content):
        raise UserError(f"refused to load {kind} {path}: it asks for {_shortly(dropped[0])}, and only tensors are read")
    return content


def _shortly(name: object) -> str:
    """A name out of a file, fit for a line."""
    return ascii(str(name))[1:-1][:100]


def _holds_tensors(content: Any) -> bool:
    left, seen = [content], set()
    while left:
        value = left.pop()
        if isinstance(value, torch.Tensor):
            return True
        if isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, dict) else value)
    return False


def _diagnose(path: Path) -> str:
    """Why ``path`` could not be read."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"":
        return "is empty"
    try:
        has_directory = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        # It looks further than its name says, and may not like what it sees.
        has_directory = False
    if start.startswith(b"PK") and not has_directory:
        return "is cut off or damaged: copy or download it again"
    if start.startswith(b"PK"):
        return "is damaged or no PyTorch checkpoint: copy or download it again"
    if start.startswith(b"\x80"):
        return "is refused: it is a pickle that is damaged or holds more than tensors"
    return "is not a PyTorch checkpoint"


def find_checkpoint(path: str | Path, preference: Sequence[str] = BEST_FIRST) -> Path:
    """The file that ``path`` names: itself; of a run folder or its ``checkpoints`` the first of ``preference``; of a
    published folder the weights.

    Raises:
        UserError: it is a folder without any of them.
    """
    path = Path(path)
    if not os.path.isdir(path):
        return path
    names = [f"{name}.pth" for name in preference]
    for folder in (path / "checkpoints", path):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    raise UserError(f"{path} is no run folder: it has no checkpoints/{' or '.join(names)}; name one, or a checkpoint")
