"""Data of one's own: any recipe trains on it, whatever its classes are."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import FAST, Run

import main
from datasets.seg.preprocess import camvid, runner
from lib import commands

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "seg"
CUSTOM = CONFIGS / "custom" / "fcn_r101.yaml"
CAMVID = ROOT.parent / "shared" / "data" / "camvid"
TINY = ("model.backbone.name=mobilenet_v2", "model.head.options.width=32", "model.aux.options.width=32")
HEADER = "id,name,train_id,red,green,blue,weight\n"
TWO = HEADER + "7,ground,0,0,0,0,\n200,cell,1,255,0,0,\n"


def write_data(root, table, ids, *, train=4, val=2):
    """DATA_DIR with a class table and noise that has something to do with its labels, whose ids are ``ids``."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for kind in ("image", "label"):
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            label = rng.choice(ids, (6, 8)).astype(np.uint8).repeat(12, 0).repeat(12, 1)
            image = (rng.integers(128, size=(72, 96, 3)) + label[..., None] // 2).astype(np.uint8)
            assert cv2.imwrite(str(root / split / "label" / f"{index}.png"), label)
            assert cv2.imwrite(str(root / split / "image" / f"{index}.png"), image)
    (root / "classes.csv").write_text(table)
    return root


@pytest.fixture
def go(command, tmp_path, monkeypatch):
    """One mode of a recipe in two iterations: go(mode, root, *words, config=FILE) gives the outcome and the run."""
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "runs"))

    def call(mode, root, *words, config=CUSTOM, dataset="auto"):
        short = ("train.max_iters=2", "val.interval=2", "val.pictures=0", "data.workers=0", f"data.dataset={dataset}")
        outcome = command(mode, "tag=t", f"data.root={root}", *FAST, *short, *TINY, *words, config=config)
        return outcome, Run(tmp_path / "runs" / "seg" / dataset / config.stem / "t")

    yield call
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


def trained(outcome_and_run):
    outcome, run = outcome_and_run
    assert outcome.status == 0, outcome.stderr
    return run


def label_ids(run):
    return {int(value) for file in (run.path / "val/label").glob("*.png") for value in np.unique(cv2.imread(file, -1))}


class TestTwoClasses:
    def test_they_train_are_scored_and_come_back_in_their_own_ids(self, go, tmp_path):
        root = write_data(tmp_path / "mine", TWO, [7, 200])
        run = trained(go("train", root))
        assert len(run.rows[-1]["iou"]) == 2
        trained(go("val", root))
        scores = json.loads((run.path / "val/metrics.json").read_text())
        assert scores["miou"] == pytest.approx(run.rows[-1]["miou"]) and list(scores["classes"]) == ["ground", "cell"]
        assert label_ids(run) and label_ids(run) <= {7, 200}

        # the table of the data became another since
        (root / "classes.csv").write_text(TWO + "9,sky,2,0,0,255,\n")
        for mode in ("val", "resume"):
            error = go(mode, root)[0].error
            assert "latest.pth" in error or "best.pth" in error
            assert "class 2 is none there and sky with id 9" in error and "pretrained=" in error

    @pytest.mark.parametrize(
        "table, words",
        [
            (TWO.replace("200", "201"), "label 200 in .* is not a mine label id \\(7, 201\\)"),
            (None, r"data.dataset=auto looks for the class table.*classes\.csv.*new-dataset"),
            (HEADER + "200,cell,0,255,0,0,\n7,ground,,,,,\n", "one class, cell.*background"),
            (TWO.replace("200,cell", "7,cell"), "id 7 comes 2 times"),
        ],
    )
    def test_a_table_that_does_not_fit_ends_the_start_in_one_line(self, go, tmp_path, table, words):
        root = write_data(tmp_path / "mine", TWO, [200])
        if table:
            (root / "classes.csv").write_text(table)
        else:
            (root / "classes.csv").unlink()
        outcome, run = go("train", root)
        assert re.search(words, outcome.error)
        assert not run.path.exists()


def test_two_hundred_classes_train_and_validate(go, tmp_path):
    ids = list(range(50, 250))
    table = HEADER + "".join(f"{id},class {id},{id - 50},{id},0,0,{1 + id / 100}\n" for id in ids)
    root = write_data(tmp_path / "mine", table, ids)
    run = trained(go("train", root, "loss.class_weights=true", "val.interval=0"))
    assert np.isfinite([row["loss"] for row in run.rows]).all()
    trained(go("val", root))
    assert len(json.loads((run.path / "val/metrics.json").read_text())["iou"]) == 200
    assert label_ids(run) and label_ids(run) <= set(ids)


RECIPE = CONFIGS / "camvid" / "dnl_r101.yaml"


def assert_equal_losses(go, known_root, unknown_root):
    """Training is the same, bit by bit, on a known dataset and on what nobody knows that it is this one."""
    known = trained(go("train", known_root, config=RECIPE, dataset="camvid"))
    unknown = trained(go("train", unknown_root, "data.fitted=false", config=RECIPE))
    assert len(known.figures) == 3 and known.figures == unknown.figures
    assert known.rows[0]["loss"] > 0 and known.rows[-1]["miou"] is not None


def write_table_by_hand(root):
    """CamVid's classes with names and colours of somebody else."""
    rows = "".join(f"{id},thing {id},{id},{20 * id},0,0,\n" for id in range(11))
    (root / "classes.csv").write_text(HEADER + rows + "11,rest,,,,,\n")


def test_known_data_under_an_unknown_name_train_bit_by_bit_alike(go, tmp_path):
    root = write_data(tmp_path / "mine", "", range(12))
    write_table_by_hand(root)
    assert_equal_losses(go, root, root)


@pytest.fixture
def part_of_camvid(tmp_path, monkeypatch):
    """A few of CamVid's files, raw and prepared."""
    if not CAMVID.is_dir():
        pytest.skip("CamVid is not here")
    raw, prepared = tmp_path / "raw", tmp_path / "camvid"
    for split, count in (("train", 6), ("val", 2), ("test", 1)):
        for folder in (split, f"{split}annot"):
            (raw / folder).mkdir(parents=True)
            for file in sorted((CAMVID / folder).iterdir())[:count]:
                shutil.copy(file, raw / folder)
    monkeypatch.setattr("sys.argv", ["camvid", "--src", str(raw), "--dst", str(prepared), "--workers", "1"])
    assert runner.main("camvid", camvid.find_pairs, camvid.LAYOUT) == 0
    return raw, prepared


@pytest.mark.slow
def test_camvid_under_an_unknown_name_trains_bit_by_bit_alike(go, part_of_camvid):
    _, prepared = part_of_camvid
    write_table_by_hand(prepared)
    assert_equal_losses(go, prepared, prepared)


@pytest.mark.skipif("new-dataset" not in commands.names(), reason="there is no new-dataset")
def test_camvid_prepared_as_unknown_folders_trains_bit_by_bit_alike(go, part_of_camvid, tmp_path, monkeypatch):
    raw, prepared = part_of_camvid
    for split in ("train", "val"):
        for kind, folder in (("images", split), ("labels", f"{split}annot")):
            shutil.copytree(raw / folder, tmp_path / kind / split)
    own = tmp_path / "own"
    folders = ("--images", tmp_path / "images", "--labels", tmp_path / "labels", "--dst", own)
    monkeypatch.setattr("sys.argv", ["main.py", "new-dataset", *map(str, folders), "--ignore", "11"])
    assert main.main() == 0
    assert_equal_losses(go, prepared, own)
