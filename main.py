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
from lib.commands import parse


def main() -> int:
    end_with_launcher()
    try:
        return run_command()
    except KeyboardInterrupt as interrupt:
        number = interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
        if is_launched():
            end_now(number)
        print("interrupted", file=sys.stderr, flush=True)
        return 128 + number


def run_command() -> int:
    """Do what the command line asks for; returns the exit status."""
    run, options = parse(sys.argv[1:])
    try:
        run(options)
    except BrokenPipeError:
        # Whoever read the output, `head` or `less`, has seen enough; what is still to be flushed goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (UserError, OSError) as error:
        if options.debug:
            raise
        # The processes of a job often meet the same mistake: a machine's first speaks, and its end stops the others.
        if int(os.environ.get("LOCAL_RANK", 0)) > 0:
            time.sleep(3)
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except Exception as error:
        if options.debug or not (line := shortage(error)):
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
