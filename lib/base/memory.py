"""What a machine can hold, and what it says when that was not enough."""

import os
from pathlib import Path

from lib.base.errors import UserError

CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux keeps the limit of a container."""


def machine_bytes() -> int:
    """The memory of this machine, or of the container that this process runs in."""
    known = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in CGROUPS:
        try:
            known = min(known, int(file.read_text()))
        except (OSError, ValueError):
            continue
    return known


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Raise UserError where ``what`` needs more bytes than the machine has: Linux would kill the process in the end."""
    if needed > machine_bytes():
        raise UserError(
            f"{what} needs {needed / 2**30:.0f} GiB, this machine has {machine_bytes() / 2**30:.0f}: {remedy}"
        )


def shortage(error: BaseException) -> str | None:
    """The line for an error that says that memory is exhausted; None for any other."""
    remedy = "lower train.micro_batch, val.batch_size, data.crop_size or data.workers"
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU has too little memory: lower train.micro_batch or val.batch_size"
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
