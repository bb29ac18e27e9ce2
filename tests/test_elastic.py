"""Several processes train as one does, and go on where one of them, or a whole machine's, is lost."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lib.base.errors import UserError
from lib.engine.distribute import PATIENCE_SECONDS
from lib.engine.runs import RunFolder
from lib.tasks import load_config, make_task

ROOT = Path(__file__).parents[1]

CRASH = """
import os, signal
import torch
from lib.engine.distribute import join_world
with join_world("cpu") as world:
    if world.rank == 1:
        {crash}
    world.sum(torch.ones(1))
"""

LAUNCH = """
import sys
from pathlib import Path
from lib.engine import launch
launch.SCRIPT = Path(sys.argv.pop(1))
sys.exit(launch.main())
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")


@pytest.fixture(scope="module")
def short_run():
    """Overrides of a run of 20 steps that rounding alone does not lead astray.

    At the recipe's learning rate, the float32 losses of one process part within a few steps already where only the
    memory format differs.
    """
    from conftest import FAST

    return (
        *(*FAST, "train.batch_size=4", "train.max_iters=20", "train.lr=3e-6"),
        *("model.head.dropout=0", "model.aux.dropout=0", "val.interval=0", "checkpoint.interval=8"),
    )


@pytest.fixture(scope="module")
def pair(scripts, data_root, short_run):
    """A run that two processes trained to its end without interruption."""
    outcome = scripts("train", "two processes", data_root, *short_run, NPROC="2")
    assert outcome.status == 0, outcome.stderr
    return scripts.run("two processes")


def test_one_process_learns_what_two_do_with_half_of_the_batch_each(pair, command, runs, data_root, short_run):
    assert command("train", "tag=alone", f"data.root={data_root}", *short_run).status == 0
    alone = runs("alone")
    losses, expected = ([row["loss"] for row in run.rows] for run in (pair, alone))
    assert len(losses) == 20
    assert losses == pytest.approx(expected, rel=1e-5)
    start = make_task(load_config(alone.path / "config.yaml", [])).network().state_dict()
    weights, expected = (torch.load(run.checkpoint(), weights_only=True)["model"] for run in (pair, alone))
    steps, errors = (
        torch.cat([(weights[key] - other[key]).double().flatten() for key in start if "num_batches" not in key])
        for other in (start, expected)
    )
    assert errors.norm() < 0.05 * steps.norm()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def process_ids(launchers):
    """{rank: process id} of what the launchers started."""
    ids = {}
    for launcher in launchers:
        for pid in subprocess.check_output(["pgrep", "-P", str(launcher.pid)], text=True).split():
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            ids |= {int(word[5:]): int(pid) for word in environment if word.startswith(b"RANK=")}
    return ids


def kill_on_the_way(run, launchers, rank):
    """End process ``rank`` between two checkpoints, as the kernel does where memory runs out."""
    while not (run.path / "metrics.jsonl").exists() or '{"iter": 11,' not in (run.path / "metrics.jsonl").read_text():
        assert all(launcher.poll() is None for launcher in launchers), [it.communicate() for it in launchers]
        time.sleep(0.005)
    os.kill(process_ids(launchers)[rank], signal.SIGKILL)


def test_a_killed_process_brings_the_run_back_from_its_last_checkpoint(scripts, data_root, short_run, pair):
    launcher = scripts.start("train", "restarted", data_root, "--max-restarts", "1", *short_run, NPROC="2")
    run = scripts.run("restarted")
    kill_on_the_way(run, [launcher], rank=0)
    stdout, stderr = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, stderr
    assert "latest.pth at iteration 8" in stdout
    assert stderr == "process 0 ended with signal 9: restart 1 of 1\n"
    assert run.figures == pair.figures


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_killed_on_one_of_two_machines_brings_both_back(scripts, data_root, short_run, pair, rank):
    job = {"NPROC": "1", "NNODES": "2", "RDZV": f"127.0.0.1:{free_port()}", "MAX_RESTARTS": "1"}
    machines = [
        scripts.start("train", f"machines {rank}", data_root, *short_run, **job, NODE_RANK=str(node)) for node in (0, 1)
    ]
    run = scripts.run(f"machines {rank}")
    kill_on_the_way(run, machines, rank)
    said = [machine.communicate(timeout=300) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert f"process {rank} ended with signal 9: restart 1 of 1\n" in [stderr for _, stderr in said]
    assert any("latest.pth at iteration 8" in stdout for stdout, _ in said)
    assert run.figures == pair.figures


def launch(folder, crash, **environment):
    """Start processes that meet, of which the second ends by ``crash`` while the others wait for it."""
    program = folder / "program.py"
    program.write_text(CRASH.format(crash=crash))
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(program)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TORCH_CPP_LOG_LEVEL": "ERROR"} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_exception_in_one_process_ends_the_job_in_its_own_words(tmp_path):
    start = time.monotonic()
    launcher = launch(tmp_path, "raise LookupError('process 1 has lost its way')", NPROC="2")
    _, stderr = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert stderr.count("Traceback") == 1 and "LookupError: process 1 has lost its way" in stderr
    assert time.monotonic() - start < PATIENCE_SECONDS, "the other processes do not hold the job up"


@pytest.mark.slow
@pytest.mark.parametrize(
    "crash, status, message",
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL, "error: process 1 ended with signal 9"),
        ("raise SystemExit(2)", 2, ""),
    ],
)
def test_what_ends_on_one_machine_ends_on_the_other(tmp_path, crash, status, message):
    job = {"NPROC": "1", "NNODES": "2", "RDZV": f"127.0.0.1:{free_port()}"}
    # Which machine's process is the second is up to the meeting. A user's mistake is not tried again.
    job |= {"MAX_RESTARTS": "3"} if status == 2 else {}
    machines = [launch(tmp_path, crash, **job, NODE_RANK=str(node)) for node in (0, 1)]
    said = [machine.communicate(timeout=60)[1].strip() for machine in machines]
    ends = {machine.returncode: text for machine, text in zip(machines, said, strict=True)}
    assert ends == {status: message, 1: "error: the job ended on another machine, whose output says why"}


class TestRestartedTrain:
    @pytest.fixture
    def config(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RUNS_DIR", str(tmp_path))
        return load_config(ROOT / "configs" / "seg" / "cityscapes" / "dnl_r101.yaml", ["tag=mine"])

    def test_it_goes_on_from_the_last_checkpoint_or_begins_where_there_is_none(self, config):
        folder = RunFolder(config)
        assert folder.restart(["a", "b"]) is None
        folder.create(["a", "b"])
        assert folder.restart(["a", "b"]) is None
        latest = folder.checkpoints / "latest.pth"
        latest.touch()
        assert folder.restart(["b", "c"]) == latest, "one machine's launcher may have been replaced"

    @pytest.mark.parametrize("launches", [[], ["c"]])
    def test_it_never_goes_on_with_a_run_of_another_launch(self, config, launches):
        folder = RunFolder(config)
        folder.create(["a", "b"])
        (folder.checkpoints / "latest.pth").touch()
        with pytest.raises(UserError, match="already holds a run of tag 'mine'"):
            folder.restart(launches)
        config.overwrite = True
        assert folder.restart(launches) is None
