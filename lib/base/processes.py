"""Stopping: at once and in one line, or politely where the training loop decides when; never outliving the launcher.

Imports next to nothing, so that a program can call ``end_on_signals`` before it imports what takes seconds.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from types import FrameType, TracebackType
from typing import NoReturn

PR_SET_PDEATHSIG = 1
"""Of ``prctl(2)``: the signal that a process gets when its parent dies."""

REPEAT_SECONDS = 2
"""Signals so soon after the first one are the same request: terminal and launcher both send one, and people two."""


class Interrupted(KeyboardInterrupt):
    """A signal asked this program to stop; ``number`` is the signal's."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class _Interrupt:
    """The signal handler of a program with nothing to save: an exception, or the end at once while modules load."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.since: float | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.owner:
            # A process that was forked a moment ago and has not said yet what signals mean to it.
            return
        if self.since is not None:
            if time.monotonic() - self.since > REPEAT_SECONDS:
                os._exit(128 + number)
            return
        self.since = time.monotonic()
        if _is_importing(frame):
            # An exception here may come out of a C library as another one.
            end_now(number)
        raise Interrupted(number)


def stop_signals() -> list[int]:
    """Those that ask to stop: Ctrl-C, the end of the terminal unless ``nohup`` has it ignored, and SIGTERM."""
    hangs_up = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hangs_up else [])]


def end_on_signals() -> None:
    """From here on, a signal to stop raises ``Interrupted``, or ends a program that is importing, in one line.

    One that came before, while whoever started the program had them blocked, counts as if it came now.
    """
    handler = _Interrupt()
    report, report_last = sys.unraisablehook, sys.excepthook

    def end(event: "sys.UnraisableHookArgs") -> None:
        # Raised where nothing can be: in a destructor, say.
        if isinstance(event.exc_value, Interrupted):
            end_now(event.exc_value.number)
        report(event)

    def end_last(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # Raised where nobody catches it: between two imports, say.
        if isinstance(error, Interrupted):
            end_now(error.number)
        report_last(kind, error, trace)

    sys.unraisablehook, sys.excepthook = end, end_last
    numbers = stop_signals()
    for number in numbers:
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def ignore_signals() -> None:
    """What is left to do is short and must not be disturbed."""
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def end_now(number: int) -> NoReturn:
    """End this process in one line and with no more ado, as a signal ends one.

    A process of torchrun's dies by the signal itself and leaves the line to the launcher, which alone knows whether
    somebody asked for the end or another process's mistake did.
    """
    if is_launched():
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def end_with_launcher() -> None:
    """Die when torchrun, if that started this process, is killed: a resumed run must not meet this one still writing.

    torchrun starts its processes in sessions of their own, so that nothing else would end them. Linux only.
    """
    if is_launched():
        end_with_parent()


def end_with_parent(parent: int | None = None) -> None:
    """Die when the process that started this one does, at once where it has already. Linux only.

    Args:
        parent: its id, where that is known.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # Of a death that came before, no signal comes.
        if parent is not None and os.getppid() != parent:
            os._exit(1)


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP in the list it yields instead of letting them end the process.

    Repeats change nothing: on Ctrl-C the terminal and the launcher both send one. Once one was caught, the process is
    on its way out, and later ones do not disturb it.
    """
    caught: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    previous = {number: signal.signal(number, catch) for number in stop_signals()}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            if not (caught and isinstance(handler, _Interrupt)):
                signal.signal(number, handler)


@contextmanager
def end_while_waiting(clean_up: Callable[[], None]) -> Iterator[None]:
    """For a wait inside a library that lets no handler run: a thread ends the program on a signal, in one line.

    Args:
        clean_up: done before.
    """
    if not hasattr(signal, "sigtimedwait"):  # macOS
        yield
        return
    numbers = stop_signals()
    is_over = Event()

    def watch() -> None:
        while not is_over.is_set():
            found = signal.sigtimedwait(numbers, 0.05)
            if found and not is_over.is_set():
                clean_up()
                end_now(found.si_signo)
            elif found:
                # The wait was over by a hair: whoever listens from now on is told.
                os.kill(os.getpid(), found.si_signo)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def uninterruptible() -> Iterator[None]:
    """For a wait inside a library that lets no handler run: in a process of torchrun's, signals end it at once.

    The launcher, which sends them, sees how it ended, and speaks in its place.
    """
    if not is_launched():
        yield
        return
    previous = {number: signal.signal(number, signal.SIG_DFL) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
