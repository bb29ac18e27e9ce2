"""Stopping: politely, where a signal asks and the training loop decides when; and never outliving the launcher."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PR_SET_PDEATHSIG = 1
"""Of ``prctl(2)``: the signal that a process gets when its parent dies."""


def end_with_launcher() -> None:
    """Die when torchrun, if that started this process, is killed: a resumed run must not meet this one still writing.

    torchrun starts its processes in sessions of their own, so that nothing else would end them. Linux only.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()


def end_with_parent() -> None:
    """Die when the process that started this one does. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in the list it yields instead of letting them end the process.

    Repeats change nothing: on Ctrl-C the terminal and the launcher both send one.
    """
    caught: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, frame: caught.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
