"""Processes to be struck down: starting them, finding what they started, and waiting for their end. Linux only."""

import atexit
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import main
from lib.engine import launch

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")
FULL_DISK = "full disk"


def start(command: Sequence[str], said: Path, environment: dict[str, str], *, fork: bool) -> int:
    """Start ``python command...`` as the leader of a session of its own; returns its process id.

    Args:
        command: main.py or another program by its path, and its arguments.
        said: file for what it prints, stdout and stderr.
        environment: variables beside those of this process.
        fork: let a copy of this process run the program's ``main``, which saves the seconds that importing takes,
            instead of starting an interpreter.
    """
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 1)
        os.dup2(1, 2)
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        for name in SIGNALS[1:]:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        os.environ.update(environment)
        if not fork:
            os.execv(sys.executable, [sys.executable, *command])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = _main(command)
    finally:
        os._exit(status)


def _main(command: Sequence[str]) -> int:
    sys.argv = list(command)
    try:
        status = launch.main() if Path(command[0]).stem == "launch" else main.main()
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def children(process: int) -> list[int]:
    """Ids of the processes that ``process`` started and that live, oldest first."""
    found = {int(entry): _stat(int(entry)) for entry in os.listdir("/proc") if entry.isdecimal()}
    return sorted(child for child, (parent, state) in found.items() if parent == process and state != "Z")


def descendants(process: int) -> list[int]:
    """Ids of all that ``process`` and its children started."""
    found = children(process)
    return found + [later for child in found for later in descendants(child)]


def workers_of_job(launcher: int) -> dict[int, int]:
    """{rank: process id} of the job's processes that a launcher started."""
    found = {}
    for child in children(launcher):
        try:
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        found |= {int(word[5:]): child for word in variables if word.startswith(b"RANK=")}
    return found


def _stat(process: int) -> tuple[int, str]:
    """A process's parent and state; of one that is gone, 0 and Z."""
    try:
        # The name, in brackets, may hold anything.
        state, parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return 0, "Z"
    return int(parent), state


def strike(process: int, fault: str, room: int) -> None:
    """Send ``process`` the signal ``fault``; or, where that is ``full disk``, let no file grow beyond ``room`` bytes.

    A full disk strikes all that the process has started, too.
    """
    if fault != FULL_DISK:
        os.kill(process, getattr(signal, fault))
        return
    for struck in (process, *descendants(process)):
        try:
            _, hard = resource.prlimit(struck, resource.RLIMIT_FSIZE)
            resource.prlimit(struck, resource.RLIMIT_FSIZE, (room, hard))
        except ProcessLookupError:
            continue


def ended(process: int) -> int | None:
    """The exit status of a process that ``start`` started, -n for signal n; None while it runs."""
    found, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def wait(process: int, seconds: float) -> int | None:
    """The exit status as of ``ended``, or None where ``process`` hangs longer than ``seconds`` and was killed."""
    deadline = time.monotonic() + seconds
    while (status := ended(process)) is None:
        if time.monotonic() > deadline:
            for left in (process, *descendants(process)):
                os.kill(left, signal.SIGKILL)
            os.waitpid(process, 0)
            return None
        time.sleep(0.003)
    return status


def is_alive(process: int) -> bool:
    """Whether there is a process of that id that has not ended."""
    return _stat(process)[1] != "Z"


def outlive(processes: Sequence[int], seconds: float) -> list[int]:
    """Those of ``processes`` that still live after ``seconds``; returns as soon as none does."""
    deadline = time.monotonic() + seconds
    while (alive := [process for process in processes if is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return alive
