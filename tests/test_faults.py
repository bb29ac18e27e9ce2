"""The campaign of ``scripts/bench/faults.py``: it strikes, resumes, and sees every difference."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[1] / "scripts" / "bench"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import faults

    return faults


def test_struck_runs_end_as_the_one_that_was_left_alone(tmp_path):
    command = [sys.executable, BENCH / "faults.py", "--runs", "3", "--alone", "--json", tmp_path / "figures.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "3 of 3 runs equal" in done.stdout, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert all(case["statuses"][-1] == 0 for case in figures["cases"])
    assert figures["missed"] < 3
    assert os.listdir(tmp_path) == ["figures.json"]


def test_cases_are_those_of_the_seed_and_strike_everyone_with_everything_at_all_times(faults):
    cases = [faults.draw(0, number)[-1] for number in range(200)]
    assert cases == [faults.draw(0, number)[-1] for number in range(200)]
    assert cases != [faults.draw(1, number)[-1] for number in range(200)]
    assert {blow.target for blow in cases} == set(faults.TARGETS)
    of_runs = {(blow.phase, blow.fault) for blow in cases if blow.target == "run"}
    assert of_runs == {(phase, fault) for phase in faults.PHASES for fault in faults.FAULTS}
    assert not any("pair" in faults.draw(0, number, alone=True)[-1].target for number in range(200))


def test_the_least_difference_counts(faults):
    rows = [{"iter": 1, "loss": 0.5}, {"iter": 2, "loss": 0.25}]
    state = {"model": {"weight": torch.ones(3)}, "random": [{"cpu": torch.zeros(2)}], "iteration": 2}
    assert faults.difference((rows, state), copy.deepcopy((rows, state))) == ""
    assert "fewer rows" in faults.difference((rows[:1], state), (rows, state))
    assert "metrics.jsonl" in faults.difference(([rows[0], {"iter": 2, "loss": 0.25 + 2**-54}], state), (rows, state))
    for change in (
        lambda state: state["model"]["weight"].__setitem__(1, 1 + 2**-23),
        lambda state: state["random"][0]["cpu"].add_(1),
        lambda state: state.update(iteration=3),
        lambda state: state.pop("random"),
        lambda state: state["model"].update(bias=torch.ones(1)),
        lambda state: state["model"].update(weight=state["model"]["weight"].double()),
    ):
        other = copy.deepcopy(state)
        change(other)
        assert faults.difference((rows, other), (rows, state)).startswith("latest.pth")
