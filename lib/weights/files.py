"""Reading checkpoint files that strangers made: tensors come out, code never runs."""

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from lib.base.errors import UserError
from lib.weights.foreign import Refused
from lib.weights.unpickle import read_data


def read_file(path: str | Path, kind: str = "pretrained file") -> Any:
    """What ``torch.save`` wrote to ``path``, its tensors on the CPU.

    Foreign objects (a project's configuration, its log) are dropped without importing what they ask for.

    Args:
        kind: what the file is called in errors.

    Raises:
        UserError: if there is no such file, if it is no checkpoint, is cut off, holds no tensors, or wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{kind} {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    try:
        with warnings.catch_warnings():
            # The error that follows tells more than PyTorch's remark on a strange pickle.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        content = _read_data(path, kind)
        if _holds_tensors(content):
            return content
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted is None:
            raise UserError(f"{kind} {path} {_diagnose(path)}") from None
        raise UserError(f"refused to load {kind} {path}: it asks for {wanted[1]}, and only tensors are read") from None
    except Exception:  # the bytes of a broken file can lead the reader into any error
        raise UserError(f"{kind} {path} {_diagnose(path)}") from None


def _read_data(path: Path, kind: str) -> Any:
    try:
        return read_data(path)
    except Refused as error:
        raise UserError(f"refused to load {kind} {path}: it asks for {error}, which runs code") from None
    except Exception:  # as above
        raise UserError(f"{kind} {path} {_diagnose(path)}") from None


def _holds_tensors(content: Any) -> bool:
    if isinstance(content, dict):
        return any(map(_holds_tensors, content.values()))
    if isinstance(content, (list, tuple)):
        return any(map(_holds_tensors, content))
    return isinstance(content, torch.Tensor)


def _diagnose(path: Path) -> str:
    """Why ``path`` could not be read."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"":
        return "is empty"
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        return "is cut off or damaged: copy or download it again"
    if start.startswith(b"PK"):
        return "is damaged or no PyTorch checkpoint: copy or download it again"
    if start.startswith(b"\x80"):
        return "is refused: it is a pickle that is damaged or holds more than tensors"
    return "is not a PyTorch checkpoint"
