"""What a machine can hold, and what it says when that was not enough."""

import os
from contextlib import suppress
from pathlib import Path

from lib.base.errors import UserError

CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux keeps the limit of a container."""
USED = (Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"))
"""Where it keeps what the container uses."""


def machine_bytes() -> int:
    """The memory of this machine, or of the container that this process runs in."""
    known = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in CGROUPS:
        try:
            known = min(known, int(file.read_text()))
        except (OSError, ValueError):
            continue
    return known


def available_bytes() -> int:
    """The memory that is left on this machine, or in the container that this process runs in, without swapping."""
    known = [machine_bytes()]
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        known.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    for limit, used in zip(CGROUPS, USED, strict=True):
        with suppress(OSError, ValueError):
            known.append(int(limit.read_text()) - int(used.read_text()) + _reclaimable(used.with_name("memory.stat")))
    return max(0, min(known))


def _reclaimable(statistics: Path) -> int:
    """Bytes of files in the container's memory, which the system gives up before anything else."""
    for line in statistics.read_text().splitlines():
        if line.startswith(("inactive_file ", "total_inactive_file ")):
            return int(line.split()[1])
    return 0


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Raise UserError where ``what`` needs more bytes than the machine has: Linux would kill the process in the end."""
    if needed > machine_bytes():
        raise UserError(
            f"{what} needs {needed / 2**30:.0f} GiB, this machine has {machine_bytes() / 2**30:.0f}: {remedy}"
        )


KILLED = "a process that loads images was killed, perhaps for want of memory: lower data.workers"
"""What is said of a loader's process."""


def shortage(error: BaseException) -> str | None:
    """The line for an error that says that memory is exhausted; None for any other.

    A loader's process that was killed is one: where memory runs out, the system kills whom it finds the largest.
    """
    remedy = "lower train.micro_batch, val.batch_size, data.crop_size or data.workers"
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU has too little memory: lower train.micro_batch or val.batch_size"
    if str(error).startswith("DataLoader worker"):
        return KILLED
    # PyTorch's CPU allocator, sizes beyond 64 bits, OpenCV's allocator, and a thread or process that cannot start.
    signs = (
        "DefaultCPUAllocator",
        "Storage size calculation overflowed",
        "Failed to allocate",
        "can't start new thread",
    )
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in signs):
        return f"this machine has too little memory: {remedy}"
    return None
