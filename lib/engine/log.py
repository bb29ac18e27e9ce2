"""What a run tells: lines and a progress bar on the screen, ``log.txt`` and ``metrics.jsonl``."""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.base.machine import peak_bytes
from lib.base.regular import require_regular

logger = logging.getLogger("trainer")

LARGEST = 1 << 30
"""Bytes that ``metrics.jsonl`` may have: rows of millions of iterations."""


class _Screen(logging.Handler):
    """Lines on stdout that do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


@contextmanager
def log_to(file: Path | None) -> Iterator[None]:
    """Send the log to the screen and to the end of ``file``, the error that ends the block included.

    None, for the processes of a job that do not write, keeps the log silent.
    """
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    handlers: list[logging.Handler] = []
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_fifo() or file.is_dir():
            # A pipe would wait for a reader.
            require_regular(file, "the log", sys.maxsize)
        handlers = [_Screen(logging.INFO), logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")]
    for handler in handlers:
        # A full disk is reported where it stops the run; a traceback for every line would bury that.
        handler.handleError = lambda record: None
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(handler)
    try:
        yield
    except Exception as error:
        logger.debug(f"error: {error}")
        raise
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            with suppress(OSError):
                handler.close()


class Progress:
    """Where a run stands: a live bar on a terminal, a plain line for every row elsewhere and in ``log.txt``."""

    def __init__(self, iteration: int, total: int, is_shown: bool):
        self.total = total
        self.bar = None
        if is_shown and sys.stdout.isatty():
            self.bar = tqdm(total=total, initial=iteration, unit="it", dynamic_ncols=True, file=sys.stdout)

    def advance(self) -> None:
        """One more iteration is done."""
        if self.bar:
            self.bar.update()

    def show(self, row: dict[str, Any], losses: Sequence[str]) -> None:
        """Tell the figures of a row of ``metrics.jsonl``; ``losses`` are the parts of its loss."""
        parts = ", ".join(f"{name} {row[name]:.4f}" for name in losses)
        figures = (
            f"loss {row['loss']:.4f} ({parts})  lr {row['lr']:.3e}  {row['images_per_s']:.2f} images/s  "
            f"{row['memory_gib']:.1f} GiB"
        )
        line = f"iter {row['iter']}/{self.total}  epoch {row['epoch']:.2f}  {figures}  {clock(row['left_s'])} left"
        if self.bar:
            self.bar.set_postfix_str(figures)
            logger.debug(line)
        else:
            logger.info(line)

    def close(self) -> None:
        if self.bar:
            self.bar.close()


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line, kept whole across interruptions.

    Args:
        path: of the file.
        score: a name that the rows of validations have and no others.
    """

    def __init__(self, path: Path, score: str):
        self.path, self.score = path, score

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; it is in the file when this returns."""
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; free some space, then resume") from error

    def rewind(self, iteration: int, validation_is_due: bool) -> None:
        """Drop what a resumed run writes anew: rows later than ``iteration`` and a last line that a kill cut short.

        With ``validation_is_due``, the validation of ``iteration`` itself is among them.

        Raises:
            UserError: it is no regular file, or a line is JSON but no row of a run: somebody else wrote there.
        """
        if not self.path.exists() and not self.path.is_symlink():
            return
        require_regular(self.path, "the file", LARGEST)
        kept, cut = [], 0
        for number, line in enumerate(self.path.read_bytes().split(b"\n"), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                cut += 1
                continue
            if not isinstance(row, dict) or type(row.get("iter")) is not int:
                raise UserError(
                    f'line {number} of {self.path} is no row of a run ("iter": N): remove the line, then resume'
                )
            is_repeated = validation_is_due and self.score in row
            if row["iter"] < iteration or (row["iter"] == iteration and not is_repeated):
                kept.append(line + b"\n")
        if cut > 1:
            logger.info(f"{cut} lines of {self.path} were damaged and are gone")
        write_atomically(self.path, lambda file: file.write(b"".join(kept)))


def memory_gib(device: torch.device) -> float:
    """Peak memory so far: of the GPU's allocator, or of this process where there is no GPU; in GiB."""
    return peak_bytes(device.type) / 2**30


def clock(seconds: float) -> str:
    """``h:mm:ss``."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
