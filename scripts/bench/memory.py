"""The peak of a process's memory, for benchmarks that measure each variant in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import torch

from lib.base.machine import peak_bytes

HEADROOM = 4 << 30
"""Bytes that must stay free."""


def free_memory(device: str) -> int:
    """Bytes that can be allocated."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    with open("/proc/meminfo") as file:
        fields = dict(line.split(":") for line in file)
    return int(fields["MemAvailable"].split()[0]) * 1024


def peak_in_subprocess(**run: object) -> float:
    """Megabytes that one run adds to the peak of a fresh process: what this script prints for ``--peak-of RUN``."""
    command = [sys.executable, sys.argv[0], "--peak-of", json.dumps(run)]
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=alone).stdout)


def added_megabytes(run: Callable[[], object], device: str) -> float:
    """By how much a call of ``run`` raises the peak, in megabytes."""
    before = peak_bytes(device)
    run()
    return (peak_bytes(device) - before) / 1e6
