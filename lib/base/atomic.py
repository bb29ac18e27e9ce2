"""Writing files so that a kill at any moment leaves the old file or the new one, never half of one."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from lib.base.names import shortened


def write_atomically(path: str | Path, write: Callable[[BinaryIO], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to the disk, then rename it to ``path``.

    The file has the permissions that the user's umask leaves of ``rw-rw-rw-``. If ``write`` raises (a full disk, an
    interrupt) the temporary file is removed and ``path`` is as it was.
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
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
