"""One process at a time in a folder."""

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.base.errors import UserError

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems without locks answer."""


@contextmanager
def only_process(folder: Path, busy: str) -> Iterator[None]:
    """Keep ``folder`` to this process while the block lasts, by a lock on ``folder/.lock``.

    The system drops the lock with the process, however it ends; a file that a kill leaves there stops nobody. Linux
    passes it on to the server of an NFS. On a file system without locks a warning is printed and the block is run.

    Args:
        folder: exists.
        busy: what to say where another process has it.

    Raises:
        UserError: with ``busy``.
        OSError: the file cannot be written.
    """
    path = folder / ".lock"
    while True:
        # Writable: NFS grants an exclusive lock for no other file.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(handle)
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                raise UserError(busy) from None
            print(
                f"warning: {folder} is on a file system without locks: let no other process write to it",
                file=sys.stderr,
            )
        if _is_current(handle, path):
            break
        os.close(handle)  # of a process that has just ended and removed it
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _is_current(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
