"""Seeing that a file is one, before anything is read: pipes block, devices never end, folders are no files."""

import os
import stat
from pathlib import Path

from lib.base.errors import UserError


def require_regular(path: str | Path, what: str, largest: int) -> int:
    """The size in bytes of the regular file ``path``, links followed.

    Args:
        what: what errors call the file.
        largest: its sane size in bytes.

    Raises:
        UserError: there is none, it is a folder, a pipe or a device, it is larger than ``largest``, or it may not be
            read.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{what} {path}: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{what} {path} is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{what} {path} is no regular file but a pipe, a socket or a device: give a file")
    if found.st_size > largest:
        raise UserError(
            f"{what} {path} has {found.st_size:,} bytes, more than the {largest:,} that such a file may have"
        )
    if not os.access(path, os.R_OK):
        raise UserError(f"{what} {path} may not be read by you: change its permissions")
    return found.st_size
