"""``torchrun`` for ``main.py``: one process for each GPU, and the exit status of main.py rather than a report.

``python lib/engine/launch.py [--max-restarts N] <main.py's arguments>``. The environment says how many processes and
machines: ``NPROC`` (default: the number of GPUs, 1 without any), ``NNODES``, ``NODE_RANK``, ``RDZV`` (host:port of the
machine with ``NODE_RANK=0``, where all of them meet), ``MAX_RESTARTS`` (what ``--max-restarts`` says, if it is given).
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # In place of this file's own folder, whose modules have names that others have too. ``python -m`` would look into
    # the working directory first, which may hold a lib/ of its own.
    ROOT = str(Path(__file__).resolve().parents[2])
    sys.path[:] = [ROOT, *(place for place in sys.path if place not in (ROOT, str(Path(__file__).resolve().parent)))]

from lib.base.processes import (
    Interrupted,
    catch_signals,
    end_on_signals,
    end_while_waiting,
    ignore_signals,
)

if __name__ == "__main__":
    # Before all that takes long to import.
    end_on_signals()

import argparse
import logging
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed.launcher.api as launcher
from torch.distributed.elastic.agent.server import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousError
from torch.distributed.run import parse_args, run

from lib.base.errors import UserError

SCRIPT = Path(__file__).parents[2] / "main.py"

GRACE_SECONDS = "600"
"""How long stopped processes may take to finish their iteration and save a checkpoint before they are killed."""

MEETING_SECONDS = 600
"""How long a machine waits for the others, at the start and before a restart."""

MOST_PROCESSES = 1024
"""Of one machine: each takes some hundred megabytes before it has said anything."""

FINAL = (2, 128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGHUP)
"""Exit statuses of main.py after which a restart would only repeat itself: a user's mistake, and a stop on request."""


class Agent(LocalElasticAgent):
    """torchrun's supervisor of this machine's processes, which restarts them only after what a restart can heal."""

    has_started = False
    caught: Sequence[int] = ()
    """Signals to stop that came while processes ran."""
    waiting = ExitStack()
    """What a signal means while no processes run: PyTorch lets no handler run while it waits for other machines."""
    logs = ""
    """A folder that goes with the launcher."""

    @classmethod
    def wait(cls) -> None:
        """Until processes run, a signal ends the launcher."""
        cls.waiting.close()
        cls.waiting.enter_context(end_while_waiting(lambda: shutil.rmtree(cls.logs, ignore_errors=True)))

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        self._stop_if_asked()
        self.wait()
        super()._rendezvous(worker_group)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        # From here until all processes have ended, a signal waits for a moment at which it can be passed on.
        self.catching = ExitStack()
        Agent.caught = self.catching.enter_context(catch_signals())
        self.waiting.close()
        # torchrun's own handlers, which it is about to set, would raise wherever they happen to be called.
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
        return super()._start_workers(worker_group)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        """Stop the processes by SIGTERM, whatever the signal: only that one never ends in a traceback of Python's."""
        super()._shutdown(signal.SIGTERM, timeout)
        if self._pcontext and Agent.caught:
            first = self._pcontext.subprocess_handlers[0].proc
            if first.returncode == -signal.SIGTERM:
                # It had not begun, and said nothing.
                print("interrupted", file=sys.stderr, flush=True)
        elif self._pcontext:
            self.catching.close()

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        Agent.has_started = True
        self._stop_if_asked()
        result = super()._monitor_workers(worker_group)
        if result.is_failed():
            # The first one: it is the others' undoing.
            rank, failure = next(iter(result.failures.items()))
            self._report_failure(rank, failure.exitcode, worker_group.spec.max_restarts)
        elif result.state == WorkerState.HEALTHY and worker_group.group_world_size > 1 and _is_over(worker_group):
            self._stop_workers(worker_group)
            raise RendezvousClosedError
        elif result.state == WorkerState.SUCCEEDED:
            # What follows may be a long wait for other machines.
            self.catching.close()
            self.wait()
        return result

    def _stop_if_asked(self) -> None:
        if Agent.caught:
            raise SignalException("asked to stop", sigval=signal.Signals(Agent.caught[0]))

    def _report_failure(self, rank: int, exitcode: int, max_restarts: int) -> None:
        """Tell what the process could not tell itself, and whether there will be a restart; see that there is none."""
        if exitcode in FINAL:
            self._remaining_restarts = 0
        message = f"process {rank} ended with " + (f"status {exitcode}" if exitcode > 0 else f"signal {-exitcode}")
        if self._remaining_restarts:
            restart = max_restarts - self._remaining_restarts + 1
            print(f"{message}: restart {restart} of {max_restarts}", file=sys.stderr, flush=True)
        elif exitcode < 0:
            print(f"error: {message}", file=sys.stderr, flush=True)


def _is_over(worker_group: WorkerGroup) -> bool:
    """Whether the job has ended on another machine, so that nobody will come any more."""
    try:
        return worker_group.spec.rdzv_handler.is_closed()
    except RendezvousError:
        return True


def _whole_number(name: str, text: str, lowest: int, meaning: str, highest: int = 1_000_000) -> int:
    if not text.isdecimal() or int(text[:9]) < lowest:
        raise UserError(f"{name}={text}: must be the number of {meaning}, {lowest} or more")
    if len(text) > 9 or int(text) > highest:
        raise UserError(f"{name}={text}: must be the number of {meaning}, {highest} at most")
    return int(text)


def torchrun_arguments(max_restarts: str | None = None) -> list[str]:
    """What ``torchrun`` is told.

    Args:
        max_restarts: the value of ``--max-restarts``, if it was given.

    Raises:
        UserError: for what is not a number of processes, machines or restarts, and for machines with no meeting point.
    """
    environment = os.environ
    processes = _whole_number(
        "NPROC", environment.get("NPROC") or str(max(1, torch.cuda.device_count())), 1, "processes", MOST_PROCESSES
    )
    machines = _whole_number("NNODES", environment.get("NNODES") or "1", 1, "machines")
    name, restarts = "--max-restarts", max_restarts
    if restarts is None:
        name, restarts = "MAX_RESTARTS", environment.get("MAX_RESTARTS") or "0"
    arguments = [
        *("--nproc-per-node", str(processes), "--nnodes", str(machines)),
        *("--max-restarts", str(_whole_number(name, restarts, 0, "restarts"))),
    ]
    meeting = environment.get("RDZV", "")
    if not meeting:
        if machines > 1:
            raise UserError(f"NNODES={machines}, but RDZV is not set: give RDZV=HOST:PORT of the first machine")
        return [*arguments, "--standalone", "--local-addr", "localhost"]
    host, _, port = meeting.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port[:9]) < 1 << 16:
        raise UserError(f"RDZV={meeting}: must be HOST:PORT of the first machine")
    node = _whole_number("NODE_RANK", environment.get("NODE_RANK") or "0", 0, "this machine")
    if node >= machines:
        raise UserError(f"NODE_RANK={node}: must be below NNODES={machines}")
    # A machine waits as long for the first one to appear as for the others.
    settings = f"is_host={int(node == 0)},read_timeout={MEETING_SECONDS},join_timeout={MEETING_SECONDS}"
    arguments += ["--rdzv-backend", "c10d", "--rdzv-endpoint", meeting, "--rdzv-conf", settings]
    if host in ("localhost", "127.0.0.1"):
        arguments += ["--local-addr", host]
    return arguments


def main() -> int:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--max-restarts")
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", GRACE_SECONDS)
    # The store that the agents share would lead restarted processes to the addresses of those that are gone.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    # By this a restarted process knows the run that it may continue.
    os.environ["LAUNCH_ID"] = uuid.uuid4().hex
    # The processes speak for themselves; torchrun's own report would bury their one line.
    logging.disable(logging.CRITICAL)
    # torchrun has no other way to be given an agent.
    launcher.LocalElasticAgent = Agent
    try:
        own, words = parser.parse_known_args()
        options = torchrun_arguments(own.max_restarts)
        processes = int(options[1])
        if processes > 1:
            # The processes share the machine's cores instead of crowding them.
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
        with tempfile.TemporaryDirectory() as logs, Agent.waiting:
            Agent.logs = logs
            Agent.wait()
            run(parse_args([*options, "--log-dir", logs, str(SCRIPT), *words]))
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        return status if status >= 0 else 128 - status
    except SignalException as error:
        return 128 + error.sigval
    except Interrupted as interrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return 128 + interrupt.number
    except RendezvousError:
        if Agent.has_started:
            print("error: the job ended on another machine, whose output says why", file=sys.stderr)
            return 1
        print(
            f"error: not all of NNODES={os.environ['NNODES']} machines met at RDZV={os.environ['RDZV']}: give every "
            "machine the same NNODES and RDZV, and a NODE_RANK of its own from 0 on",
            file=sys.stderr,
        )
        return 2
    except (UserError, ValueError, argparse.ArgumentError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    status = main()
    ignore_signals()
    sys.exit(status)
