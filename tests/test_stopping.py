"""Signals to stop: at any moment one line at most, no traceback, the signal's status; SIGHUP saves as SIGTERM does."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]

PROGRAM = """
from lib.base.processes import end_on_signals
end_on_signals()
import sys
sys.path.insert(0, sys.argv[1])
{body}
"""


def send(process, number, times=2):
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.05)


def has_children(process):
    return bool(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


def in_dispatcher(process):
    """Signals are kept for Python, but it is bash that runs."""
    words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    status = Path(f"/proc/{process.pid}/status").read_text()
    blocked = int(status.split("SigBlk:")[1].split()[0], 16)
    return words[0] == b"bash" and b"--kept" in words and bool(blocked >> signal.SIGTERM - 1 & 1)


def in_interpreter(process):
    """Bash has given way to Python, which is starting."""
    return any(word.endswith(b"launch.py") for word in Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0"))


def in_launcher(process):
    """Python has been importing for a while."""
    if not in_interpreter(process):
        return False
    time.sleep(0.3)
    return True


def in_main(process):
    """Whether main.py has been importing for a while."""
    if not in_interpreter(process) or not has_children(process):
        return False
    time.sleep(1)
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
class TestStart:
    @pytest.mark.parametrize(
        "number, moment, processes",
        [
            (signal.SIGTERM, in_dispatcher, "1"),
            (signal.SIGINT, in_interpreter, "1"),
            (signal.SIGHUP, in_launcher, "1"),
            (signal.SIGINT, in_main, "2"),
        ],
    )
    def test_it_is_stopped_in_one_line(self, scripts, data_root, long_run, number, moment, processes):
        process = scripts.start("train", "hasty", data_root, *long_run, "train.batch_size=4", NPROC=processes)
        while not moment(process):
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        send(process, number)
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout, stderr) == (128 + number, "", "interrupted\n")
        assert not scripts.run("hasty").path.exists()

    def test_a_wait_for_other_machines_is_ended_too(self, scripts, data_root):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            meeting = f"127.0.0.1:{silent.getsockname()[1]}"
            process = scripts.start("train", "alone", data_root, NNODES="2", NODE_RANK="1", RDZV=meeting)
            silent.settimeout(60)
            silent.accept()
            send(process, signal.SIGTERM)
            assert process.communicate(timeout=20) == ("", "interrupted\n")
        assert process.returncode == 128 + signal.SIGTERM


def test_the_end_of_the_terminal_saves_like_sigterm(scripts, data_root, long_run):
    process = scripts.start("train", "hung up", data_root, *long_run, "train.max_iters=100000")
    run = scripts.run("hung up")
    while not (run.path / "metrics.jsonl").exists() or len(run.rows) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    send(process, signal.SIGHUP)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (128 + signal.SIGHUP, "")
    assert "checkpoint saved, resume continues from here" in stdout
    assert torch.load(run.checkpoint(), weights_only=True)["iteration"] == run.rows[-1]["iter"]


class TestProgram:
    """What ``end_on_signals`` makes of a small program."""

    @pytest.fixture
    def program(self, tmp_path):
        def start(body, **environment):
            (tmp_path / "slow_module.py").write_text(
                "import time\nprint('at it', flush=True)\ntry:\n    time.sleep(60)\nexcept BaseException:\n    pass\n"
            )
            return subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(body=body), tmp_path],
                cwd=ROOT,
                env=os.environ | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

        return start

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_an_import_is_broken_off_whatever_the_module_catches(self, program, number):
        process = program("import slow_module\nprint('imported')")
        assert process.stdout.readline() == "at it\n"
        send(process, number)
        assert process.communicate(timeout=20) == ("", "interrupted\n")
        assert process.returncode == 128 + number

    def test_anything_else_is_unwound_and_a_second_signal_does_not_disturb_that(self, program):
        body = (
            "import time\nfrom lib.base.processes import Interrupted\n"
            "try:\n    print('at it', flush=True); time.sleep(60)\n"
            "except Interrupted as interrupt:\n    time.sleep(0.5); print('unwound', interrupt.number)"
        )
        process = program(body)
        assert process.stdout.readline() == "at it\n"
        send(process, signal.SIGHUP)
        assert process.communicate(timeout=20) == (f"unwound {int(signal.SIGHUP)}\n", "")

    def test_nohup_is_respected(self, program):
        body = "import signal\nassert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN\nprint('ignored')"
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            process = program(body)
        finally:
            signal.signal(signal.SIGHUP, before)
        assert process.communicate(timeout=20) == ("ignored\n", "")

    def test_a_signal_in_a_destructor_ends_the_program(self, program):
        body = (
            "import os, signal\n"
            "class Thing:\n    def __del__(self): os.kill(os.getpid(), signal.SIGTERM)\n"
            "Thing()\nprint('still here')"
        )
        process = program(body)
        assert process.communicate(timeout=20) == ("", "interrupted\n")
        assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells nobody of a parent's death elsewhere")
def test_a_process_whose_parent_died_before_it_began_to_listen_ends_too():
    program = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from lib.base.processes import end_with_parent
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        time.sleep(0.01)
    print("orphaned", flush=True)
    end_with_parent(parent)
    print("lives", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program, ROOT], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "orphaned\n")
