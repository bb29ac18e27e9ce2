"""Every fixture holds, and the replay notices when something does not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.models import build_segmentor
from lib.weights import networks
from tests import replay_golden

GOLDEN = Path(__file__).parents[1].parent / "shared" / "golden"
FILES = sorted(GOLDEN.glob("*.npz"))
NOT_YET = ("snl_preresnet", "snl_resnet", "snl_schedule")
"""Of image classification, which this project does not do."""
MORE = [file for file in sorted((GOLDEN / "more").glob("*.npz")) if not file.stem.startswith(NOT_YET)]

pytestmark = pytest.mark.skipif(not FILES, reason="the fixtures are not there")


@pytest.mark.parametrize("file", FILES + MORE, ids=lambda file: file.stem)
def test_fixture_holds(file):
    line, holds = replay_golden.replay(file)
    assert holds, line


@pytest.mark.parametrize("file", [file for file in FILES if file.stem.startswith("net_")], ids=lambda file: file.stem)
def test_the_names_that_a_network_is_filled_by_are_those_of_its_list(file):
    case, _ = replay_golden.load_fixture(file)
    mmseg = case["family"].startswith("mmseg/")
    translate = networks.mmseg_network_options if mmseg else networks.torchcv_network_options
    with torch.device("meta"):
        network = build_segmentor(**translate(case))
    converted = networks.convert_mmseg_network if mmseg else networks.convert_torchcv_network
    lists = replay_golden.find_key_lists(GOLDEN)
    empty = replay_golden.published_entries(case, network, converted, lists)
    name = file.stem.removeprefix("net_") if mmseg else f"{case['family'].replace('/', '_')}_{case['backbone']}"
    rows = (line.split("\t") for line in (lists / f"{name}.txt").read_text().splitlines())
    assert {name: list(tensor.shape) for name, tensor in empty.items()} == {
        name: json.loads(shape) for name, shape in rows
    }


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("nonlocalnowd", {"use_out": True, "out_bn": True}),
        ("nonlocalbn", {"use_out": True, "whiten_type": ["bn", "bn_affine"]}),
        ("unary", {"use_out": True, "out_bn": True}),
    ],
)
def test_options_that_no_listed_network_has_find_names_as_well(family, options):
    plain = {"downsample": False, "whiten_type": [], "with_gc": True, "with_nl": True, "nowd": []}
    block = plain | {"use_out": False, "out_bn": False} | options
    case = {
        "family": f"torchcv/{family}",
        "backbone": "deepbase_resnet18_dilated8",
        "num_classes": 5,
        "nonlocal_": block,
    }
    with torch.device("meta"):
        network = build_segmentor(**networks.torchcv_network_options(case))
    convert = networks.convert_torchcv_network
    empty = replay_golden.published_entries(case, network, convert, replay_golden.find_key_lists(GOLDEN))
    assert convert(empty).keys() == network.state_dict().keys()


def test_networks_are_replayed_where_their_lists_are_not_beside_them(tmp_path):
    shutil.copy(GOLDEN / "net_dnl_r18.npz", tmp_path)
    line, holds = replay_golden.replay(tmp_path / "net_dnl_r18.npz")
    assert holds, line


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
    assert not holds and "not supported" in line


def test_an_output_that_is_nan_or_of_another_shape_never_holds():
    published = torch.ones(2)
    assert replay_golden.relative_error(torch.tensor([1.0, torch.nan]), published) == np.inf
    assert replay_golden.relative_error(torch.ones(1), published) == np.inf
