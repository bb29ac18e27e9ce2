"""Folders that ``publish`` wrote: weights as safetensors, configuration, class table, and checksums of them all.

Nothing in them is pickled. Other people's safetensors files are read too, as what they are: names and tensors.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from lib.base.errors import UserError
from lib.base.regular import read_regular, require_regular

WEIGHTS = "model.safetensors"
CONFIG = "config.yaml"
CLASSES = "classes.csv"
SCORES = "metrics.json"
CARD = "README.md"
PICTURE = "predictions.jpg"
SUMS = "SHA256SUMS"
FILES = (WEIGHTS, CONFIG, CLASSES, SCORES, CARD, PICTURE, SUMS)
"""All that there can be in such a folder."""

MARK = "checkpoint_format"
"""Of the metadata of ``WEIGHTS``: the checkpoint's format, by which a published file is told from another's."""

LARGEST = 1 << 36
MOST_TEXT = 1 << 20
MOST_LINES = 64
LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\0]{1,255})")


def is_published(folder: Path) -> bool:
    """Whether ``publish`` wrote the folder, as its files' names have it."""
    return all((folder / name).is_file() for name in (WEIGHTS, CONFIG, CLASSES, SUMS))


def read_safetensors(path: Path, kind: str) -> dict[str, Any]:
    """The content of a published checkpoint, as ``torch.load`` gives that of others; of another's file, its tensors.

    Args:
        kind: what the file is called in errors.

    Raises:
        UserError: it is missing, damaged or of another format, or what is published with it is missing, is not what
            its checksum says, or has none.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise UserError(f"to read {kind} {path}, install safetensors: pip install safetensors") from None

    require_regular(path, kind, min(LARGEST, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    sums = _read_sums(path.parent) if (path.parent / SUMS).exists() else {}
    if path.name in sums:
        _verify(path, sums)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            # Copies: what is only mapped would go with the file.
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise UserError(f"{kind} {path} is damaged or no safetensors file ({reason}): download it again") from None
    if MARK not in metadata:
        return tensors
    for name in (path.name, CONFIG, CLASSES):
        if name not in sums:
            raise UserError(
                f"{path.parent} is no whole published folder: {SUMS} is missing or does not name {name}: download it "
                "again, with all its files"
            )
    for name in sums.keys() - {path.name}:
        _verify(path.parent / name, sums)
    return {
        "format": _number(metadata, MARK, path),
        "model": tensors,
        "iteration": _number(metadata, "iteration", path),
        "config": _text(path.with_name(CONFIG), sums),
        "classes": _text(path.with_name(CLASSES), sums),
    }


def sums_of(folder: Path) -> str:
    """The text of ``SHA256SUMS`` for the files in ``folder``, as ``sha256sum -c`` reads it."""
    names = sorted(path.name for path in folder.iterdir() if path.name != SUMS)
    return "".join(f"{_hash(folder / name)}  {name}\n" for name in names)


def _read_sums(folder: Path) -> dict[str, str]:
    """The checksums in ``folder`` by the names of the files."""
    path = folder / SUMS
    lines = read_regular(path, MOST_TEXT).decode("utf-8", "replace").splitlines()
    found = [LINE.fullmatch(line) for line in lines]
    if len(lines) > MOST_LINES or None in found or any(line[2] in (".", "..", SUMS) for line in found):
        raise UserError(f"{path} is damaged: it has to hold lines of a SHA256 and a name: download the folder again")
    return {line[2]: line[1] for line in found}


def _verify(path: Path, sums: dict[str, str]) -> None:
    require_regular(path, "published file", LARGEST)
    if _hash(path) != sums[path.name]:
        raise UserError(f"{path} is not what {SUMS} says that it was when published: download it again")


def _hash(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()


def _text(path: Path, sums: dict[str, str]) -> str:
    content = read_regular(path, MOST_TEXT)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8: download it again") from None
    if hashlib.sha256(content).hexdigest() != sums[path.name]:
        raise UserError(f"{path} changed while it was read: try again")
    return text


def _number(metadata: dict[str, str], name: str, path: Path) -> int:
    value = metadata.get(name, "")
    if not re.fullmatch(r"[0-9]{1,15}", value):
        raise UserError(f"{path} is damaged: its metadata have {ascii(value)[:40]} for {name}: download it again")
    return int(value)
