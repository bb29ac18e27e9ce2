"""Streams that are closed, full or poor, and an environment that speaks of a job that is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAIN = [sys.executable, str(ROOT / "main.py"), "explain", "train.lr"]


def shell(redirections="", words=MAIN, **environment):
    """A command in a shell, with redirections."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirections}', "bash", *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("redirections", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(redirections):
    done = shell(redirections)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_device_is_one_line():
    done = shell(">/dev/full")
    assert done.returncode == 2 and done.stderr == "error: [Errno 28] No space left on device\n"


def test_what_an_encoding_cannot_say_is_escaped(tmp_path):
    (tmp_path / "Größe.yaml").write_text("train: {lr: 0.5}")
    words = [*MAIN, "--config", str(tmp_path / "Größe.yaml")]
    done = shell(words=words, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and r"Gr\xf6\xdfe.yaml" in done.stdout


@pytest.mark.parametrize(
    "environment, words",
    [
        ({"RANK": "abc"}, "RANK=abc: must be a whole number"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK=-1: must be a whole number"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE=: must be a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE=2, but RANK, MASTER_ADDR or MASTER_PORT is not set"),
    ],
)
def test_an_environment_of_no_job_is_named(command, monkeypatch, environment, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert words in command("train").error
