"""Reading a file that is first seen to be one: no pipe that blocks, no device without end, nothing of any size."""

import os
import stat
from pathlib import Path

from lib.base.errors import UserError

LARGEST = 1 << 30
"""Bytes of the largest file that is read at once unless a caller knows better."""


def read_regular(path: str | Path, most: int = LARGEST) -> bytes:
    """The contents of a regular file of up to ``most`` bytes.

    Raises:
        UserError: it is missing, cannot be read, is another kind of file (a folder, pipe, socket or device) or larger.
    """
    return read_with_status(path, most)[0]


def read_with_status(path: str | Path, most: int = LARGEST) -> tuple[bytes, os.stat_result]:
    """As ``read_regular``, and the file's ``os.stat`` at the time."""
    try:
        # Looked at first, for opening a device may do something; and again once it is open, for it may be another now.
        _check(path, os.stat(path), most)
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            _check(path, status, most)
            return file.read(most), status
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file can have this name"
        raise UserError(f"{path} cannot be read: {reason}") from error


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _check(path: str | Path, status: os.stat_result, most: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path} cannot be read: it is a folder where a file is expected")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a regular file but a pipe, socket or device: put the file itself there")
    if status.st_size > most:
        raise UserError(f"{path} has {status.st_size} bytes, more than the {most} that such a file may have: check it")


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
