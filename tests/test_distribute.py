"""The processes of a job agree, alone and in company; the launcher starts what the environment asks for."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lib.engine.distribute import join_world, use_bfloat16
from lib.engine.launch import torchrun_arguments
from lib.errors import UserError

ROOT = Path(__file__).parents[1]

MEETING = """
import torch
from lib.engine.distribute import join_world
with join_world("cpu") as world:
    print(world.is_main, world.sum(torch.tensor([1, world.rank])).tolist(), world.any(world.rank == 1),
          world.any(False), world.gather({"rank": world.rank}))
"""

CHILD = """
import time
from lib.engine.stop import end_with_launcher
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
    agreed = "[2, 1] True False [{'rank': 0}, {'rank': 1}]"
    assert said == [f"True {agreed}", f"False {agreed}"]


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device=cuda, but PyTorch sees no GPU"), join_world("cuda"):
        pass


@pytest.mark.parametrize("setting, expected", [("true", True), ("false", False)])
def test_a_setting_decides_about_bfloat16_unless_it_is_auto(setting, expected):
    assert use_bfloat16(setting, torch.device("cpu")) is expected
    assert isinstance(use_bfloat16("auto", torch.device("cpu")), bool)


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, "--nproc-per-node 1 --nnodes 1 --standalone"),
        ({"NPROC": "4"}, "--nproc-per-node 4 --nnodes 1 --standalone"),
        (
            {"NPROC": "8", "NNODES": "2", "NODE_RANK": "1", "RDZV": "head:29500"},
            "--nproc-per-node 8 --nnodes 2 --rdzv-backend c10d --rdzv-endpoint head:29500 --node-rank 1",
        ),
    ],
)
def test_torchrun_is_told_what_the_environment_says(monkeypatch, environment, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("NPROC", "NNODES", "NODE_RANK", "RDZV"):
        monkeypatch.delenv(name, raising=False)
        if name in environment:
            monkeypatch.setenv(name, environment[name])
    assert torchrun_arguments() == expected.split()


def test_one_process_per_gpu_is_the_default(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.delenv("NPROC", raising=False)
    assert torchrun_arguments()[:2] == ["--nproc-per-node", "8"]


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
