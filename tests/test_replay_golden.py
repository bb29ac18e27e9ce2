"""Every fixture of a supported family holds, and the replay notices when something does not."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import replay_golden

GOLDEN = Path(__file__).parents[1].parent / "shared" / "golden"
FILES = [
    file for file in sorted(GOLDEN.glob("*.npz")) if replay_golden.is_supported(replay_golden.load_fixture(file)[0])
]

pytestmark = pytest.mark.skipif(not FILES, reason="the fixtures are not there")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_fixture_holds(file):
    line, holds = replay_golden.replay(file)
    assert holds, line


def test_all_families_of_this_stage_are_replayed():
    families = {replay_golden.load_fixture(file)[0]["family"] for file in FILES}
    assert families >= {"torchcv/nonlocal_nowd", "torchcv/nonlocalnowd", "torchcv/basenet", "torchcv/loss"}


def test_a_wrong_number_is_noticed(tmp_path):
    with np.load(GOLDEN / "nowd_ln_nostd.npz") as archive:
        arrays = dict(archive)
    arrays["grad_state/gamma"] = arrays["grad_state/gamma"] * 1.01
    np.savez(tmp_path / "wrong.npz", **arrays)
    command = [sys.executable, replay_golden.__file__, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "wrong: torchcv/nonlocal_nowd" in ended.stdout and "MISSED: grad_state/gamma" in ended.stdout


def test_a_family_that_is_not_supported_is_a_miss(tmp_path):
    np.savez(tmp_path / "new.npz", description='{"family": "other/block"}')
    line, holds = replay_golden.replay(tmp_path / "new.npz")
    assert not holds and "not supported yet" in line


def test_an_output_that_is_nan_or_of_another_shape_never_holds():
    published = torch.ones(2)
    assert replay_golden.relative_error(torch.tensor([1.0, torch.nan]), published) == np.inf
    assert replay_golden.relative_error(torch.ones(1), published) == np.inf
