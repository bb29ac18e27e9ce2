"""What the benchmarks share: timing by turns, and the report."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser with the option that every benchmark has, ``--json FILE``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    return parser


def median_times(
    candidates: dict[str, Callable[[int], object]],
    repeats: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each candidate, run by turns so that a disturbance strikes all of them alike.

    A candidate is called with the number of the turn, 0 .. warm_up + repeats - 1; the first ``warm_up`` turns do not
    count. On a GPU the device is synchronised before and after every call. With ``clock=time.process_time`` the
    seconds are those that all threads of the process spent computing.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warm_up + repeats):
        for name, candidate in candidates.items():
            _synchronise()
            begin = clock()
            candidate(turn)
            _synchronise()
            if turn >= warm_up:
                seconds[name].append(clock() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _synchronise() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def report(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], figures: dict, file: Path | None) -> None:
    """Print a table and the environment; with ``file``, write ``figures`` and the environment there as JSON."""
    from lib.base.machine import environment

    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    print(title)
    for first, *others in [header, ["-" * width for width in widths], *rows]:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))
    described = environment()
    print("\n" + "\n".join(f"{name}: {value}" for name, value in described.items()))
    if file:
        file.write_text(json.dumps({"environment": described, "figures": figures}, indent=2) + "\n")
