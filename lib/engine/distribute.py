"""The processes of one job: who this one is, which device it uses, and what the processes agree on."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from lib.base.errors import UserError
from lib.base.processes import uninterruptible

PATIENCE_SECONDS = 20
"""How long a process that lost the others leaves the word to the one that failed before it tells what it saw itself."""


@dataclass(frozen=True)
class World:
    """This process among those that ``torchrun`` started; alone where it started none."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace ``tensor`` by its sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def concatenate(self, tensor: torch.Tensor) -> torch.Tensor:
        """Every process's ``tensor``, all of one shape, one after the other along the first dimension."""
        if self.size == 1:
            return tensor
        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(tensors, tensor.contiguous())
        return torch.cat(tensors)

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any process; asked over the network, without waiting for a GPU."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(int(flag))).item())

    def gather(self, value: Any) -> list[Any]:
        """Every process's ``value``, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Return once every process has come this far."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def stop_with_others(self, caught: Sequence[int]) -> Iterator[None]:
        """End quietly where another process's end breaks the connection after ``caught`` received a signal to stop."""
        try:
            yield
        except RuntimeError as error:
            if caught and _is_lost_connection(error):
                sys.exit(128 + caught[0])
            raise


def choose_device(setting: str) -> torch.device:
    """The device of this process for ``auto``, ``cpu`` or ``cuda``; a GPU is made the current one."""
    if setting == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but PyTorch sees no GPU: use device=cpu, or check the driver")
    if setting == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", 0))
    if local >= torch.cuda.device_count():
        raise UserError(f"process {local} of this machine has no GPU of its own: set NPROC={torch.cuda.device_count()}")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the job's processes over nccl (GPU) or gloo (CPU); ``device`` is ``auto``, ``cpu`` or ``cuda``."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    world = World(rank, size, choose_device(device))
    use_cuda = world.device.type == "cuda"
    if size == 1:
        yield world
        return
    # What lies in ordinary memory travels over gloo in any case, so that to agree on it no GPU need be waited for.
    with uninterruptible():
        dist.init_process_group("cpu:gloo,cuda:nccl" if use_cuda else "gloo")
    try:
        yield world
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        # Some other process failed: what it says counts, and torchrun ends this one meanwhile. It may itself be
        # waited for, by processes that have no connection to the one that failed.
        dist.destroy_process_group()
        time.sleep(PATIENCE_SECONDS)
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether ``error`` says that another process has left."""
    # gloo has no exception type of its own, but names its source file.
    return isinstance(error, dist.DistError) or "gloo/" in str(error)


def use_bfloat16(setting: str, device: torch.device) -> bool:
    """Whether to run under bfloat16 autocast: ``setting`` is ``auto``, ``true`` or ``false``."""
    if setting != "auto":
        return setting == "true"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without instructions of its own for it, a CPU is slower in bfloat16 than in float32.
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
