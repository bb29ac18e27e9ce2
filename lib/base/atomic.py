"""Writing files so that a kill at any moment leaves the old file or the new one, never half of one."""

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from lib.base.names import shortened


def write_atomically(path: str | Path, write: Callable[[BinaryIO], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to the disk, then rename it to ``path``.

    The file has the permissions that the user's umask leaves of ``rw-rw-rw-``. If ``write`` raises (a full disk, an
    interrupt) the temporary file is removed and ``path`` is as it was; an OSError names ``path`` if it names nothing.
    """
    path = Path(path)
    # The longest names that there can be leave no room for an addition.
    temporary = path.parent / f"{shortened(f'.{path.name}', '.', most=200)}{secrets.token_hex(4)}.part"
    # Only the system itself can read the umask without changing it for other threads.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # a full disk does not say where it is
        raise


def write_folder_atomically(path: Path, write: Callable[[Path], None], *, replaces: bool = False) -> None:
    """Let ``write`` fill a temporary folder beside ``path``, flush its files to the disk, then rename it to ``path``.

    If ``write`` raises, the temporary folder is removed and ``path`` is as it was.

    Args:
        replaces: whether ``path`` is an old folder that goes. A kill at that very moment leaves it whole beside
            ``path``, as ``.<name>.<...>.old``.

    Raises:
        OSError: something could not be written, or ``path`` exists and is not to be replaced.
    """
    token = secrets.token_hex(4)
    temporary, old = (
        path.parent / f"{shortened(f'.{path.name}', '.', most=200)}{token}{ending}" for ending in (".part", ".old")
    )
    try:
        temporary.mkdir()
        write(temporary)
        for file in (*temporary.iterdir(), temporary):
            handle = os.open(file, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        if replaces:
            path.rename(old)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
