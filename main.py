"""The one entry point: ``python main.py COMMAND ...``. The commands are the files of ``lib/commands``."""

import os
import sys

if __name__ == "__main__":
    # This folder comes first, and neither the working directory nor what a relative PYTHONPATH makes of it at all.
    ROOT = os.path.dirname(os.path.abspath(__file__))
    HERE = [
        os.path.abspath(place)
        for place in os.environ.get("PYTHONPATH", "/").split(os.pathsep)
        if not os.path.isabs(place) or (os.path.isdir(place) and os.path.samefile(place, os.curdir))
    ]
    sys.path[:] = [ROOT, *(place for place in sys.path if place not in ("", ROOT, *HERE))]

from lib.base.processes import Interrupted, end_now, end_on_signals, end_with_launcher, ignore_signals, is_launched

if __name__ == "__main__":
    # Before all that takes long to import.
    end_on_signals()

import signal
import time

from lib.base.errors import UserError
from lib.base.memory import shortage
from lib.base.names import loop_of_links
from lib.commands import parse

JOB = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
"""What torchrun tells a process of its job."""


def main() -> int:
    end_with_launcher()
    open_streams()
    try:
        return run_command()
    except KeyboardInterrupt as interrupt:
        number = interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
        if is_launched():
            end_now(number)
        print("interrupted", file=sys.stderr, flush=True)
        return 128 + number


def open_streams() -> None:
    """What is said goes nowhere where stdout or stderr is closed, and in escapes where their encoding is too poor."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (until the end)
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def check_job() -> None:
    """Raise UserError where the environment speaks of a job as torchrun never does."""
    for name in JOB:
        if not os.environ.get(name, "0").isdecimal():
            raise UserError(
                f"{name}={os.environ[name]}: must be a whole number, as torchrun sets it; unset it otherwise"
            )
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise UserError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}, but RANK, MASTER_ADDR or MASTER_PORT is not set: unset it, "
            "or start the processes by a script of scripts/"
        )


def run_command() -> int:
    """Do what the command line asks for; returns the exit status."""
    run, options = parse(sys.argv[1:])
    try:
        check_job()
        run(options)
    except BrokenPipeError:
        # Whoever read the output, `head` or `less`, has seen enough; what is still to be flushed goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (UserError, OSError) as error:
        if options.debug:
            raise
        # The processes of a job often meet the same mistake: a machine's first speaks, and its end stops the others.
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(3)
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except Exception as error:
        if options.debug or not (line := shortage(error) or loop_of_links(error)):
            raise
        print(f"error: {line}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    status = main()
    ignore_signals()
    if status and is_launched():
        # At once, before another process of the job finds that it must speak itself.
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)
