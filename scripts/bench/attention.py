"""Time and memory of the disentangled block, against the same block with the plain attention formula.

Time: the block at 97 x 97 positions, both variants by turns. Memory: what a pass adds to the peak of a fresh process at
97 x 97 and at 129 x 257 positions, on a GPU to the peak of its allocator.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
from common import median_times, parser, report
from memory import HEADROOM, added_megabytes, free_memory, peak_in_subprocess
from torch import Tensor

from lib.models.blocks import nonlocal_block
from lib.models.blocks.disentangled import DisentangledNonLocal

CHANNELS, EMBEDDING = 512, 256
SMALL, LARGE = (97, 97), (129, 257)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TARGETS = {"forward": 1.0, "forward + backward": 1.3, SMALL: 1 / 4, LARGE: 1 / 20}


def plain_attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float = 1.0) -> Tensor:
    """The formula as it stands, with the whole affinity map."""
    return torch.softmax(torch.bmm(scale * query, key.mT), dim=-1) @ value


VARIANTS = {"plain": plain_attend, "ours": nonlocal_block.attend}


def make_pass(variant: str, dtype: str, size: tuple[int, int], *, backward: bool, device: str) -> Callable[..., None]:
    """A function that runs the block once, taking and ignoring any arguments."""
    block = DisentangledNonLocal(CHANNELS, embedding=EMBEDDING, whitening="layer")
    block = block.to(device, DTYPES[dtype], memory_format=torch.channels_last)
    torch.nn.init.ones_(block.gamma)
    x = torch.randn(1, CHANNELS, *size, device=device, dtype=DTYPES[dtype])
    x = x.to(memory_format=torch.channels_last).requires_grad_(backward)
    grad = torch.ones_like(x)

    def run(*_: object) -> None:
        nonlocal_block.attend = VARIANTS[variant]
        with torch.set_grad_enabled(backward):
            out = block(x)
        if backward:
            out.backward(grad)
            block.zero_grad()
            x.grad = None

    return run


def measure_times(device: str, repeats: int, clock: Callable[[], float]) -> list[dict]:
    """Seconds of each pass at the small size."""
    rows = []
    for dtype in DTYPES:
        for name, backward in (("forward", False), ("forward + backward", True)):
            passes = {v: make_pass(v, dtype, SMALL, backward=backward, device=device) for v in VARIANTS}
            seconds = median_times(passes, repeats, clock=clock)
            rows.append({"dtype": dtype, "pass": name, "unit": "s", "target": TARGETS[name], **seconds})
    return rows


def measure_memory(device: str) -> list[dict]:
    """Bytes of each pass at both sizes; at the large one without backward where the plain formula's does not fit."""
    rows = []
    for size in (SMALL, LARGE):
        for dtype in DTYPES:
            maps = 3 * (size[0] * size[1]) ** 2 * DTYPES[dtype].itemsize
            backward = free_memory(device) > maps + HEADROOM
            name = f"{size[0]} x {size[1]}, forward{' + backward' if backward else ''}"
            step = {"dtype": dtype, "size": size, "backward": backward, "device": device}
            peaks = {variant: peak_in_subprocess(variant=variant, **step) for variant in VARIANTS}
            rows.append({"dtype": dtype, "pass": name, "unit": "MB", "target": TARGETS[size], **peaks})
    return rows


def print_peak(variant: str, dtype: str, size: list[int], backward: bool, device: str) -> None:
    """The subprocess's part: warm the libraries up on a small input, then print the growth of the peak in MB."""
    make_pass(variant, dtype, (8, 8), backward=backward, device=device)()
    run = make_pass(variant, dtype, tuple(size), backward=backward, device=device)
    print(added_megabytes(run, device))


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=5, help="turns of which the median counts")
    options.add_argument("--cpu-time", action="store_true", help="seconds of CPU time, for a machine that others use")
    options.add_argument("--peak-of", type=json.loads, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.peak_of:
        print_peak(**arguments.peak_of)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    measured = measure_times(device, arguments.repeats, clock) + measure_memory(device)
    table = []
    for row in measured:
        row["ratio"] = row["ours"] / row["plain"]
        shown = [f"{row[variant]:.{3 if row['unit'] == 's' else 0}f} {row['unit']}" for variant in VARIANTS]
        verdict = "met" if row["ratio"] <= row["target"] else "MISSED"
        table.append([row["pass"], row["dtype"], *shown, f"{row['ratio']:.3f}", f"{row['target']:.3g}", verdict])
    header = ["disentangled block, 512 channels", "type", *VARIANTS, "ratio", "target", ""]
    report("Attention: ours against the plain formula", header, table, {"rows": measured}, arguments.json)


if __name__ == "__main__":
    main()
