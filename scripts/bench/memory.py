"""The peak of a process's memory, for benchmarks that measure each variant in a process of its own."""

import resource
import sys
from pathlib import Path

import torch


def peak_bytes(device: str) -> int:
    """Highest number of bytes in use so far: by the allocator on ``cuda``, by the process on ``cpu``."""
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        # not ru_maxrss, which on Linux begins with the peak of the process that started this one
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
