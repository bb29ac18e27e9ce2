"""A file that a command is asked to write: seen to be possible before the work begins."""

import os
from collections.abc import Sequence
from pathlib import Path

from lib.base.errors import UserError


def require_output(path: Path, suffixes: Sequence[str]) -> None:
    """Raise UserError unless ``path`` ends in one of ``suffixes``, such as ``.png``, and can be written."""
    if path.suffix not in suffixes:
        raise UserError(f"cannot write {path}: name a file that ends in {' or '.join(suffixes)}")
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: {path.parent} is not a folder")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {path}: you may not write in {path.parent}")
