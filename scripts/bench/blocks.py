"""Time and memory of every context block, against its formula written out with the map of all pairs of positions.

A measurement has a process of its own: a first pass, whose growth of the process's peak (on a GPU the allocator's) is
the memory, and further ones, whose median is the time. Where the formula needs more memory than there is, or would by
its growth take longer than ``--limit``, the table says so. For the blocks that are linear in the positions the growth
of the time from 128 x 256 to 256 x 256 positions is measured as well, by turns.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import torch
from attention import DTYPES
from common import median_times, parser, report
from memory import HEADROOM, added_megabytes, free_memory
from torch import nn
from written_out import (
    asymmetric_fusion,
    asymmetric_pyramid,
    compact_generalized,
    criss_cross,
    double_attention,
    global_context,
    non_local,
    spectral,
    unary,
)

from lib.models.blocks import BLOCKS
from lib.models.blocks.asymmetric import AsymmetricFusion

CHANNELS = 512
SIZES = ((64, 64), (97, 97), (128, 256))
DOUBLED = ((128, 256), (256, 256))
TARGETS = {"growth": 2.3, "SNL at 97 x 97": 8.0}
LONG = 2.0  # seconds after which a pass is not repeated


@dataclass(frozen=True)
class Case:
    """A block and its formula.

    ``maps`` are the N x N maps that the formula holds at a time, ``entries`` the channels that share one (the compact
    generalized block's map is of positions and channels), ``power`` how its time grows with N.
    """

    build: Callable[..., nn.Module]
    formula: Callable
    linear: bool = False
    maps: int = 0
    entries: int = 1
    power: int = 2
    inputs: int = 1


def _non_local(**options) -> Case:
    linear = options.get("mode") in ("dot_product", "concatenation")
    return Case(partial(BLOCKS["nonlocal"], **options), non_local, linear=linear, maps=2)


def _spectral(
    unit: str = "chebyshev", affinity: str = "normalised", *, maps: int = 3, power: int = 2, **options
) -> Case:
    return Case(
        partial(BLOCKS["spectral"], unit=unit, affinity=affinity, **options),
        partial(spectral, unit=unit, affinity=affinity),
        linear=affinity != "softmax",
        maps=maps,
        power=power,
    )


CASES = {
    "non-local, embedded Gaussian": _non_local(),
    "non-local, Gaussian": _non_local(mode="gaussian"),
    "non-local, dot product": _non_local(mode="dot_product"),
    "non-local, concatenation": _non_local(mode="concatenation"),
    "disentangled": Case(partial(BLOCKS["disentangled"], whitening="layer"), non_local, maps=2),
    "unary": Case(BLOCKS["unary"], unary, linear=True),
    "global context": Case(BLOCKS["global_context"], global_context, linear=True),
    "AFNB": Case(partial(AsymmetricFusion, high_channels=CHANNELS), asymmetric_fusion, linear=True, inputs=2),
    "APNB": Case(BLOCKS["asymmetric_pyramid"], asymmetric_pyramid, linear=True),
    "SNL": _spectral(),
    "NS": _spectral("laplacian", "softmax", maps=2, symmetric=False),
    "NL of the SNL stage": _spectral("nonlocal", "softmax", maps=2, symmetric=False),
    "DNL of the SNL stage": _spectral("disentangled", "softmax", maps=2, symmetric=False),
    "A2 of the SNL stage": _spectral("nonlocal", "relu", maps=1, symmetric=False),
    "Cayley as published": _spectral("squared_laplacian"),
    "Chebyshev of order 3": _spectral(order=3),
    "ARMA of order 2": _spectral("arma", order=2),
    "Cayley of order 1": _spectral("cayley", maps=9, power=3),
    "double attention": Case(BLOCKS["double_attention"], double_attention, linear=True),
    "compact generalized, 8 groups": Case(
        partial(BLOCKS["compact_generalized"], groups=8),
        compact_generalized,
        linear=True,
        maps=3 * 8,
        entries=CHANNELS // 2 // 8,
    ),
    "criss-cross, 2 passes": Case(BLOCKS["criss_cross"], criss_cross),
}


def make_pass(case: Case, variant: str, size: tuple[int, int], dtype: torch.dtype, device: str) -> Callable[..., None]:
    """A function that runs ours or the formula once without gradients, taking and ignoring any arguments."""
    block = case.build(CHANNELS).to(device, dtype).eval()
    inputs = [torch.randn(1, CHANNELS, *size, device=device, dtype=dtype) for _ in range(case.inputs)]
    function = block if variant == "ours" else partial(case.formula, block)

    def run(*_: object) -> None:
        with torch.no_grad():
            function(*inputs)

    return run


def measure(name: str, variant: str, size: tuple[int, int], repeats: int, dtype: str, clock: Callable) -> dict | None:
    """Seconds of a pass and megabytes that the first one adds to the peak; None if the formula's maps do not fit."""
    device, case = _device(), CASES[name]
    needed = case.maps * (math.prod(size) * case.entries) ** 2 * DTYPES[dtype].itemsize
    if variant == "written out" and free_memory(device) < needed + HEADROOM:
        return None
    make_pass(case, variant, (8, 8), DTYPES[dtype], device)()  # the libraries' own memory
    run = make_pass(case, variant, size, DTYPES[dtype], device)
    begin = clock()
    megabytes, seconds = added_megabytes(run, device), [clock() - begin]
    if seconds[0] < LONG:
        seconds = median_times({variant: run}, repeats, warm_up=0, clock=clock).values()
    return {"s": statistics.median(seconds), "MB": megabytes}


def measure_growth(name: str, repeats: int, dtype: str, clock: Callable) -> float:
    """How many times as long a pass takes with twice the positions."""
    passes = {size: make_pass(CASES[name], "ours", size, DTYPES[dtype], _device()) for size in DOUBLED}
    half, whole = median_times(passes, repeats, clock=clock).values()
    return whole / half


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def in_fresh_process(function: Callable, *arguments: object) -> object:
    """The function's result, from a process that inherits the imports and nothing that was computed."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as executor:
        return executor.submit(function, *arguments).result()


def measure_block(name: str, options: argparse.Namespace) -> list[dict]:
    """A row for each size, without ``written out`` where that is not possible; the growth in the last one."""
    settings = (options.repeats, options.dtype, time.process_time if options.cpu_time else time.perf_counter)
    rows, expected = [], 0.0
    for size in SIZES:
        print(f"{name}, {size[0]} x {size[1]}", file=sys.stderr, flush=True)
        row = {"block": name, "size": size, "ours": in_fresh_process(measure, name, "ours", size, *settings)}
        if rows and "written out" in rows[-1]:
            ratio = math.prod(size) / math.prod(rows[-1]["size"])
            expected = rows[-1]["written out"]["s"] * ratio ** CASES[name].power
        if expected > options.limit:
            row["left out"] = f"> {options.limit:.0f} s"
        elif plain := in_fresh_process(measure, name, "written out", size, *settings):
            row["written out"] = plain
        else:
            row["left out"] = "does not fit"
        rows.append(row)
    if CASES[name].linear:
        rows[-1]["growth"] = in_fresh_process(measure_growth, name, *settings)
    return rows


def format_row(row: dict) -> list[str]:
    """The row's cells, with the verdict about its target."""
    ours, plain = row["ours"], row.get("written out")
    cells = [row["block"], f"{row['size'][0]} x {row['size'][1]}", f"{ours['s']:.3f} s"]
    cells += [f"{plain['s']:.3f} s", f"{plain['s'] / ours['s']:.1f}"] if plain else [row["left out"], ""]
    cells += [f"{ours['MB']:.0f} MB"]
    cells += [f"{plain['MB']:.0f} MB", f"{plain['MB'] / ours['MB']:.1f}"] if plain else ["", ""]
    cells += [f"{row['growth']:.2f}" if "growth" in row else ""]
    met = None
    if "growth" in row:
        met = row["growth"] <= TARGETS["growth"]
    elif plain and f"{cells[0]} at {cells[1]}" in TARGETS:
        met = plain["s"] / ours["s"] >= TARGETS[f"{cells[0]} at {cells[1]}"]
    return [*cells, {None: "", True: "met", False: "MISSED"}[met]]


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--blocks", nargs="+", metavar="NAME", default=[""], help="only blocks whose names begin so")
    options.add_argument("--repeats", type=int, default=5, help="passes of which the median counts")
    options.add_argument("--limit", type=float, default=60, help="seconds that a formula may be expected to take")
    options.add_argument("--dtype", choices=DTYPES, default="fp32", help="type of weights and input")
    options.add_argument("--cpu-time", action="store_true", help="seconds of CPU time, for a machine that others use")
    arguments = options.parse_args()
    chosen = [name for name in CASES if name.lower().startswith(tuple(map(str.lower, arguments.blocks)))]
    if not chosen:
        options.error(f"no block's name begins with {' or '.join(arguments.blocks)}: choose from {'; '.join(CASES)}")
    rows = [row for name in chosen for row in measure_block(name, arguments)]
    title = f"Blocks of {CHANNELS} channels, forward, {arguments.dtype}: ours against the formula written out"
    header = ["block", "positions", "ours", "written out", "faster", "ours", "written out", "leaner", "2 N / N", ""]
    report(title, header, [format_row(row) for row in rows], {"rows": rows}, arguments.json)


if __name__ == "__main__":
    main()
