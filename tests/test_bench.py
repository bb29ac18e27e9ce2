"""Every benchmark starts, and that of scoring folders measures something."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "scripts" / "bench"
PROGRAMS = sorted(path.stem for path in BENCH.glob("*.py") if "__main__" in path.read_text())


def run(name, *words):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, BENCH / f"{name}.py", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_benchmark_starts(name):
    assert "--json" in run(name, "--help")


def test_folders_are_scored_beside_the_baseline(tmp_path):
    out = run("eval", "--images", "0", "--pairs", "1", "--json", tmp_path / "figures.json")
    assert "ratio" in out
    assert json.loads((tmp_path / "figures.json").read_text())["figures"]
