"""Time and memory of the fused batch norm and ReLU, forward and backward, against PyTorch's own two layers.

The baseline is ``nn.BatchNorm2d`` and ReLU on a CPU, ``nn.SyncBatchNorm`` and ReLU on GPUs, of which ``torchrun`` gives
each process one (a process by itself has nothing to synchronise). The table also has the time that moving the bytes
takes at the bandwidth of a copy: three times the input's size forward, five times backward.
"""

import argparse
import json
import os
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from common import median_times, parser, report
from memory import added_megabytes, peak_in_subprocess
from torch import nn

from exts.sync_bn import COMPILED, SyncBatchNorm
from lib.base.errors import UserError

SHAPES = [(2, 64, 385, 385), (2, 256, 193, 193), (2, 512, 97, 97), (2, 2048, 97, 97)]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PASSES = 8  # over the input's size, in one step
TARGET, TARGET_OF_BANDWIDTH = 1.5, 1.3


def make_layers(variant: str, channels: int, device: str) -> nn.Module:
    """``baseline``, ``ours``, or ``inplace``: ours with leaky ReLU, overwriting its input."""
    if variant == "baseline":
        norm = (nn.SyncBatchNorm if device == "cuda" else nn.BatchNorm2d)(channels)
        return nn.Sequential(norm, nn.ReLU(inplace=True)).to(device)
    if variant == "ours":
        return SyncBatchNorm(channels, activation="relu", device=device)
    return SyncBatchNorm(channels, activation="leaky_relu", inplace=True, device=device)


def make_step(variant: str, shape: tuple[int, ...], memory_format: str, dtype: str, device: str) -> Callable[..., None]:
    """A function that runs the layers forward and backward once, taking and ignoring any arguments."""
    layers = make_layers(variant, shape[1], device)
    x = torch.empty(shape, dtype=DTYPES[dtype], device=device, memory_format=FORMATS[memory_format])
    grad = torch.empty_like(x).normal_()
    x.normal_().requires_grad_()

    def run(*_: object) -> None:
        # The in-place layer may not overwrite a leaf: it is given a view of one, which costs nothing.
        y = layers(_Borrow.apply(x) if variant == "inplace" else x)
        y.backward(grad)
        layers.zero_grad()
        x.grad = None

    return run


class _Borrow(torch.autograd.Function):
    """The identity, whose output may be overwritten."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.detach()

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
        return grad


def print_peak(shape: list[int], **step: str) -> None:
    """The subprocess's part: warm the libraries up on a small input, then print the growth of the peak in MB."""
    make_step(shape=(2, shape[1], 8, 8), **step)()
    run = make_step(shape=tuple(shape), **step)
    print(added_megabytes(run, step["device"]))


def measure(device: str, repeats: int, clock: Callable[[], float]) -> list[dict]:
    """Seconds and megabytes of a step at each shape, memory format and type."""
    rows = []
    for dtype in DTYPES:
        for shape in SHAPES:
            for memory_format in FORMATS:
                step = {"shape": shape, "memory_format": memory_format, "dtype": dtype, "device": device}
                variants = ("baseline", "ours", "inplace")
                x, y = torch.empty(2, *shape, dtype=DTYPES[dtype], device=device).fill_(1)
                candidates = {variant: make_step(variant, **step) for variant in variants}
                seconds = median_times(candidates | {"copy": lambda _, x=x, y=y: y.copy_(x)}, repeats, clock=clock)
                seconds["bytes"] = PASSES / 2 * seconds.pop("copy")
                peaks = {variant: peak_in_subprocess(variant=variant, **step) for variant in variants}
                rows.append({**step, "seconds": seconds, "peak_mb": peaks})
    return rows


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=7, help="turns of which the median counts")
    options.add_argument("--cpu-time", action="store_true", help="seconds of CPU time, for a machine that others use")
    options.add_argument("--peak-of", type=json.loads, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.peak_of:
        print_peak(**arguments.peak_of)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in COMPILED:
        raise UserError(f"exts/sync_bn is not built for {device}: run bash exts/make.sh")
    if device == "cuda" and "RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl")
    measured = measure(device, arguments.repeats, time.process_time if arguments.cpu_time else time.perf_counter)
    if int(os.environ.get("RANK", 0)) > 0:
        return
    table = []
    for row in measured:
        seconds, peaks = row["seconds"], row["peak_mb"]
        row["speed_up"] = seconds["baseline"] / seconds["ours"]
        row["of_bandwidth"] = seconds["ours"] / seconds["bytes"]
        is_met = row["speed_up"] >= TARGET and (device == "cpu" or row["of_bandwidth"] <= TARGET_OF_BANDWIDTH)
        times = [f"{1e3 * seconds[name]:.1f}" for name in ("baseline", "ours", "inplace", "bytes")]
        sizes = [f"{peaks[name]:.0f}" for name in ("baseline", "ours", "inplace")]
        name = f"{row['dtype']} {list(row['shape'])} {row['memory_format']}"
        table.append([name, *times, f"{row['speed_up']:.2f}x", "met" if is_met else "MISSED", *sizes])
    header = ["forward + backward", "base ms", "ours", "in place", "bytes", "speed-up", f">= {TARGET}x"]
    header += ["base MB", "ours", "in place"]
    report("Batch norm and ReLU: ours against PyTorch's", header, table, {"rows": measured}, arguments.json)


if __name__ == "__main__":
    main()
