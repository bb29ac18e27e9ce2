"""The processes of a job agree, alone and in company; the launcher starts what the environment asks for."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.rendezvous import RendezvousConnectionError
from torch.distributed.run import parse_args

from lib.base.errors import UserError
from lib.base.peers import ALONE
from lib.engine import launch
from lib.engine.distribute import World, join_world, use_bfloat16
from lib.engine.launch import torchrun_arguments
from lib.losses import SegmentationLoss

ROOT = Path(__file__).parents[1]

MEETING = """
import torch
from lib.engine.distribute import join_world
with join_world("cpu") as world:
    print(world.is_main, world.sum(torch.tensor([1, world.rank])).tolist(), world.any(world.rank == 1),
          world.any(False), world.gather({"rank": world.rank}), world.concatenate(torch.tensor([world.rank])).tolist())
"""

CHILD = """
import time
from lib.base.processes import end_with_launcher
end_with_launcher()
print("ready", flush=True)
time.sleep(9)
"""

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
child.wait()
"""


def test_a_process_alone_needs_nobody():
    with join_world("cpu") as world:
        assert world.is_main and world.size == 1
        assert world.sum(torch.tensor([2])).tolist() == [2]
        assert world.any(True) and not world.any(False)
        assert world.gather("mine") == ["mine"]
        assert world.concatenate(torch.tensor([2])).tolist() == [2]
        world.wait()


def test_two_processes_sum_agree_and_gather():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MEETING],
            cwd=ROOT,
            env=os.environ | job | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=60)[0].strip() for process in processes]
    agreed = "[2, 1] True False [{'rank': 0}, {'rank': 1}] [0, 1]"
    assert said == [f"True {agreed}", f"False {agreed}"]


@pytest.mark.parametrize(
    "message, caught, expected",
    [
        ("[gloo/pair.cc:1] Connection closed by peer", [signal.SIGTERM], SystemExit),
        ("[gloo/pair.cc:1] Connection closed by peer", [], RuntimeError),
        ("shapes do not match", [signal.SIGTERM], RuntimeError),
    ],
)
def test_a_stop_outlives_the_connection_to_the_others_but_hides_no_other_error(message, caught, expected):
    with pytest.raises(expected) as ended, World(0, 2, torch.device("cpu")).stop_with_others(caught):
        raise RuntimeError(message)
    assert expected is RuntimeError or ended.value.code == 128 + signal.SIGTERM


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device=cuda, but PyTorch sees no GPU"), join_world("cuda"):
        pass


@pytest.mark.parametrize("setting, expected", [("true", True), ("false", False)])
def test_a_setting_decides_about_bfloat16_unless_it_is_auto(setting, expected):
    assert use_bfloat16(setting, torch.device("cpu")) is expected
    assert isinstance(use_bfloat16("auto", torch.device("cpu")), bool)


VARIABLES = ("NPROC", "NNODES", "NODE_RANK", "RDZV", "MAX_RESTARTS")


@pytest.fixture
def surroundings(monkeypatch):
    """Sets the launcher's variables to those given and clears the others, on a machine without a GPU."""

    def surround(**environment):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return surround


def options(arguments):
    """What torchrun itself understands by its arguments."""
    return vars(parse_args([*arguments, "main.py"]))


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, {"nproc_per_node": "1", "nnodes": "1", "max_restarts": 0, "standalone": True}),
        ({"NPROC": "4", "MAX_RESTARTS": "2"}, {"nproc_per_node": "4", "max_restarts": 2, "standalone": True}),
        (
            {"NPROC": "8", "NNODES": "2", "NODE_RANK": "1", "RDZV": "head:29500"},
            {
                **{"nproc_per_node": "8", "nnodes": "2", "standalone": False},
                **{"rdzv_backend": "c10d", "rdzv_endpoint": "head:29500"},
                "rdzv_conf": "is_host=0,read_timeout=600,join_timeout=600",
            },
        ),
    ],
)
def test_torchrun_is_told_what_the_environment_says(surroundings, environment, expected):
    surroundings(**environment)
    assert options(torchrun_arguments()).items() >= expected.items()


def test_the_number_of_restarts_on_the_command_line_wins(surroundings):
    surroundings(MAX_RESTARTS="2")
    assert options(torchrun_arguments("5"))["max_restarts"] == 5


@pytest.mark.parametrize(
    "environment, words, complaint",
    [
        ({"NPROC": "many"}, [], "NPROC=many: must be the number of processes, 1 or more"),
        ({"NPROC": "0"}, [], "NPROC=0: must be the number of processes"),
        ({"NPROC": "9" * 5000}, [], "must be the number of processes, 1024 at most"),
        ({"NNODES": "9" * 9}, [], "must be the number of machines, 1000000 at most"),
        ({"RDZV": "head:0"}, [], "RDZV=head:0: must be HOST:PORT"),
        ({"RDZV": "head:65536"}, [], "RDZV=head:65536: must be HOST:PORT"),
        ({"RDZV": "head:" + "9" * 5000}, [], "must be HOST:PORT"),
        ({"NNODES": "0"}, [], "NNODES=0: must be the number of machines"),
        ({"NNODES": "2"}, [], "NNODES=2, but RDZV is not set: give RDZV=HOST:PORT of the first machine"),
        ({"NNODES": "2", "RDZV": "head"}, [], "RDZV=head: must be HOST:PORT"),
        ({"NNODES": "2", "RDZV": "head:1", "NODE_RANK": "2"}, [], "NODE_RANK=2: must be below NNODES=2"),
        ({"NNODES": "2", "RDZV": "head:1", "NODE_RANK": "a"}, [], "NODE_RANK=a: must be the number of this machine"),
        ({"MAX_RESTARTS": "-1"}, [], "MAX_RESTARTS=-1: must be the number of restarts, 0 or more"),
        ({}, ["--max-restarts", "x"], "--max-restarts=x: must be the number of restarts"),
        ({}, ["--max-restarts"], "--max-restarts: expected one argument"),
    ],
)
def test_a_mistake_in_the_launch_ends_in_one_line(surroundings, monkeypatch, capsys, environment, words, complaint):
    surroundings(**environment)
    monkeypatch.setattr(sys, "argv", ["launch", "train", *words])
    assert launch_main(monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and complaint in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "has_started, status, complaint",
    [
        (False, 2, "not all of NNODES=2 machines met at RDZV=head:1"),
        (True, 1, "the job ended on another machine"),
    ],
)
def test_machines_that_do_not_meet_end_in_one_line(surroundings, monkeypatch, capsys, has_started, status, complaint):
    def run(arguments):
        raise RendezvousConnectionError

    surroundings(NNODES="2", RDZV="head:1", NODE_RANK="1")
    monkeypatch.setattr(sys, "argv", ["launch", "train"])
    monkeypatch.setattr(launch, "run", run)
    monkeypatch.setattr(launch.Agent, "has_started", has_started)
    assert launch_main(monkeypatch) == status
    error = capsys.readouterr().err
    assert error.startswith("error: ") and complaint in error and error.count("\n") == 1


def launch_main(monkeypatch):
    """The launcher's exit status; what it changes in this process is put back."""
    for name in ("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "LAUNCH_ID"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(launch.launcher, "LocalElasticAgent", launch.launcher.LocalElasticAgent)
    try:
        return launch.main()
    finally:
        logging.disable(logging.NOTSET)


def test_one_process_per_gpu_is_the_default(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert options(torchrun_arguments())["nproc_per_node"] == "8"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
@pytest.mark.parametrize("is_launched", [True, False])
def test_a_process_ends_with_torchrun_and_with_nobody_else(is_launched):
    environment = {key: value for key, value in os.environ.items() if key != "TORCHELASTIC_RUN_ID"}
    environment |= {"TORCHELASTIC_RUN_ID": "none"} if is_launched else {}
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    pid = int(process.stdout.readline())
    process.stdout.readline()
    process.kill()
    process.wait()
    time.sleep(0.2)
    is_alive = Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    if is_alive:
        os.kill(pid, 9)
    process.stdout.close()
    assert is_alive is not is_launched


class Machines:
    """SLURM's commands as they are where a job has two machines: ``srun`` runs its command once for each."""

    def __init__(self, folder):
        self.folder = folder
        self.write("scontrol", '[ "$*" = "show hostnames node[7-8]" ] && printf "node7\\nnode8\\n"')
        self.write("srun", 'shift; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@" || exit; done')
        self.script = self.write("run some.sh", 'echo "$NNODES $NODE_RANK $RDZV $MAX_RESTARTS|$*"; exit "$STATUS"')

    def write(self, name, body):
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    def __call__(self, *words, **environment):
        job = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2", "STATUS": "0"}
        job |= {"PATH": f"{self.folder}:{os.environ['PATH']}"}
        return subprocess.run(
            ["bash", ROOT / "scripts" / "seg" / "slurm.sh", *words],
            env=os.environ | job | environment,
            capture_output=True,
            text=True,
        )


def test_slurm_starts_the_recipe_once_on_every_machine(tmp_path):
    machines = Machines(tmp_path)
    done = machines(machines.script, "train", "my tag", "a b/c", "seed=1", MAX_RESTARTS="5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"2 {node} node7:32345 5|train my tag a b/c seed=1" for node in (0, 1)]


def test_slurm_passes_on_the_exit_status_and_asks_for_a_script(tmp_path):
    machines = Machines(tmp_path)
    assert machines(machines.script, "train", STATUS="2").returncode == 2
    done = machines()
    assert done.returncode == 2 and done.stderr.startswith("error: name the recipe's script")


class Together:
    """One of several threads that share a batch as processes do."""

    def __init__(self, size):
        self.size = size
        self.barrier, self.shared = threading.Barrier(size, timeout=60), [None] * size
        self.local = threading.local()

    def _exchange(self, tensor):
        self.shared[self.local.rank] = tensor.clone()
        self.barrier.wait()
        tensors = list(self.shared)
        self.barrier.wait()
        return tensors

    def sum(self, tensor):
        return tensor.copy_(sum(self._exchange(tensor)))

    def concatenate(self, tensor):
        return torch.cat(self._exchange(tensor))

    def run(self, work):
        """``work(rank)`` in every thread; their results in order."""

        def enter(rank):
            self.local.rank = rank
            return work(rank)

        with ThreadPoolExecutor(self.size) as threads:
            return list(threads.map(enter, range(self.size)))


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    "settings",
    [
        {"name": "cross_entropy"},
        {"name": "focal"},
        {"name": "ohem", "ohem_threshold": 0.7, "ohem_min_kept": 1},
        {"name": "ohem", "ohem_threshold": 0.05, "ohem_min_kept": 40},  # the rarer way: a selection
        {"name": "ohem", "ohem_threshold": 0.05, "ohem_min_kept": 10**6},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_shared_batch_has_the_loss_and_the_gradient_of_the_whole(settings, size):
    generator = torch.Generator().manual_seed(0)
    logits = {key: 3 * torch.randn(4, 5, 9, 11, generator=generator) for key in ("out", "aux")}
    label = torch.randint(0, 5, (4, 9, 11), generator=generator)
    # Shares differ in what counts: one has nothing at all.
    label[1, 3:], label[2, :, 1:], label[3] = 255, 255, 255
    weight = [0.5, 1.0, 2.0, 1.5, 0.25]

    def loss_of(share, peers):
        parts = {key: value[share].clone().requires_grad_() for key, value in logits.items()}
        losses = SegmentationLoss(**settings, weight=weight, peers=peers)(parts, label[share])
        gradients = torch.autograd.grad(losses["loss"], list(parts.values()))
        return torch.stack([loss.detach() for loss in losses.values()]), torch.stack(gradients)

    expected, expected_gradient = loss_of(slice(None), ALONE)
    together, share = Together(size), 4 // size
    results = together.run(lambda rank: loss_of(slice(rank * share, (rank + 1) * share), together))
    torch.testing.assert_close(torch.stack([losses for losses, _ in results]).mean(0), expected)
    gradient = torch.cat([gradient for _, gradient in results], dim=1) / size
    torch.testing.assert_close(gradient, expected_gradient)
