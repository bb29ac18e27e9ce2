"""``torchrun`` for ``main.py``: one process for each GPU, and the exit status of main.py rather than a report.

``python -m lib.engine.launch <main.py's arguments>``; the environment says how many processes and machines:
``NPROC`` (default: the number of GPUs, 1 without any), ``NNODES``, ``NODE_RANK``, ``RDZV`` (host:port).
"""

import logging
import os
import sys
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from lib.errors import UserError

GRACE_SECONDS = "600"
"""How long stopped processes may take to finish their iteration and save a checkpoint before they are killed."""


def torchrun_arguments() -> list[str]:
    """What ``torchrun`` is told, from the environment; raises UserError for what is not a number of processes."""
    processes = os.environ.get("NPROC") or str(max(1, torch.cuda.device_count()))
    if not processes.isdecimal() or int(processes) == 0:
        raise UserError(f"NPROC={processes}: must be the number of processes, 1 or more")
    if int(processes) > 1:
        # The processes share the machine's cores instead of crowding them.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(processes))))
    arguments = ["--nproc-per-node", processes, "--nnodes", os.environ.get("NNODES", "1")]
    if os.environ.get("RDZV"):
        arguments += ["--rdzv-backend", "c10d", "--rdzv-endpoint", os.environ["RDZV"]]
        arguments += ["--node-rank", os.environ.get("NODE_RANK", "0")]
    else:
        arguments.append("--standalone")
    return arguments


def main() -> int:
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", GRACE_SECONDS)
    # The processes speak for themselves; torchrun's own report would bury their one line.
    logging.disable(logging.CRITICAL)
    script = Path(__file__).parents[2] / "main.py"
    try:
        run(parse_args([*torchrun_arguments(), str(script), *sys.argv[1:]]))
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        return status if status >= 0 else 128 - status
    except SignalException as error:
        return 128 + error.sigval
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
