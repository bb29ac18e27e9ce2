"""Reading a file that is first seen to be one: no pipe that blocks, no device without end, nothing of any size."""

import errno
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
        _check(str(path), os.stat(path), most)
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            _check(str(path), status, most)
            return file.read(most), status
    except (OSError, ValueError) as error:
        raise _unreadable(str(path), error) from error


def require_regular(path: str | Path, what: str, largest: int) -> int:
    """The size in bytes of the regular file ``path``, links followed, for whoever opens it next.

    Args:
        what: what errors call the file.
        largest: its sane size in bytes.

    Raises:
        UserError: as ``read_regular``.
    """
    try:
        status = os.stat(path)
        _check(f"{what} {path}", status, largest)
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise _unreadable(f"{what} {path}", error) from None
    return status.st_size


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _check(name: str, status: os.stat_result, most: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{name} is a folder: give a file")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{name} is no regular file but a pipe, a socket or a device: put the file itself there")
    if status.st_size > most:
        raise UserError(
            f"{name} has {status.st_size:,} bytes, more than the {most:,} that such a file may have: check it"
        )


def _unreadable(name: str, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) else "no file can have this name"
    return UserError(f"{name} cannot be read: {reason}")
