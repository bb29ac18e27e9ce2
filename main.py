"""The one entry point: ``python main.py COMMAND ...``. The commands are the files of ``lib/commands``."""

import os
import signal
import sys
import time

from lib.base.errors import UserError
from lib.base.processes import end_with_launcher
from lib.commands import parse


def main() -> int:
    end_with_launcher()
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
            time.sleep(2)
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError" or options.debug:
            raise
        print("error: the GPU has too little memory: lower train.micro_batch or val.batch_size", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
