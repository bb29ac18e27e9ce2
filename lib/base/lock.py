"""One process at a time: a lock that the system drops with the process, however that ends."""

import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lib.base.errors import UserError


def acquire(path: Path, busy: str, patience: float = 0) -> int:
    """The open file ``path``, made with its folders if it is missing, once it is locked (``flock``) for this process.

    A file that a kill leaves there stops nobody. Linux passes the lock on to the server of an NFS. On a file system
    without locks a warning is printed, and the file is open without one.

    Args:
        busy: what to say where another process has the lock.
        patience: seconds for which that is waited out.

    Raises:
        UserError: with ``busy``.
        OSError: the file cannot be written.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Writable: NFS grants an exclusive lock for no other file.
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except FileNotFoundError:
            # Somebody else tidies up.
            if time.monotonic() > deadline:
                raise
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                print(
                    f"warning: {path} cannot be locked ({error.strerror}): start no second job there", file=sys.stderr
                )
                return handle
            os.close(handle)
            if time.monotonic() > deadline:
                raise UserError(busy) from None
            time.sleep(0.05)
            continue
        if _is_current(handle, path):
            return handle
        os.close(handle)  # of a process that has just ended and removed it


def release(handle: int) -> None:
    """Give back what ``acquire`` returned."""
    with suppress(OSError):
        # Closing would not do: children may have the file open for a moment longer.
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


@contextmanager
def only_process(folder: Path, busy: str) -> Iterator[None]:
    """Keep ``folder`` to this process while the block lasts, by a lock on ``folder/.lock``: see ``acquire``."""
    path = folder / ".lock"
    handle = acquire(path, busy)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        release(handle)


def _is_current(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
