"""What ``val`` and ``test`` leave: files in the dataset's ids, a zip of them, and the worst and the best images."""

import csv
import json
import math
import zipfile
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from datasets.seg.classes import load_table
from lib.scores import Scores
from lib.scores.folders import evaluate
from lib.scores.per_image import ImageCounts
from lib.tasks.segmentation import DataConfig
from lib.vis.results import ResultFiles, extremes, write_scores, zip_labels


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("dataset, ids", [("ade20k", range(1, 151)), ("cityscapes", [7, 8, 11, 12, 13, 17])])
def test_label_images_hold_what_the_servers_want(tmp_path, dataset, ids):
    files = ResultFiles(tmp_path, load_table(dataset), DataConfig())
    files({"name": "ADE_test_00000001"}, torch.zeros(3, 1, len(ids)), np.arange(len(ids), dtype=np.uint8)[None])
    files.close()
    label = read(tmp_path / "label" / "ADE_test_00000001.png")
    assert label.dtype == np.uint8 and label.tolist() == [list(ids)]


def test_the_zip_holds_the_named_labels_alone_and_no_folder(tmp_path):
    (tmp_path / "label").mkdir()
    for name in ("a", "b", "of another run"):
        (tmp_path / "label" / f"{name}.png").write_bytes(name.encode())
    zip_labels(tmp_path, ["a", "b"])
    with zipfile.ZipFile(tmp_path / "label.zip") as archive:
        assert archive.namelist() == ["a.png", "b.png"] and archive.read("b.png") == b"b"


def test_a_zip_that_fails_half_way_leaves_the_old_one(tmp_path):
    (tmp_path / "label").mkdir()
    (tmp_path / "label" / "a.png").touch()
    (tmp_path / "label.zip").write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        zip_labels(tmp_path, ["a", "missing"])
    assert (tmp_path / "label.zip").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["label", "label.zip"]


def test_scores_are_written_as_json_csv_and_picture(tmp_path):
    table = load_table("camvid")
    matrix = np.diag(np.arange(11))
    matrix[1, 2] = 4
    write_scores(tmp_path, {"mode": "ss"}, Scores.of(matrix), matrix, table)
    facts = json.loads((tmp_path / "metrics.json").read_text())
    assert facts["mode"] == "ss" and facts["classes"] == list(table.names)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == list(table.names)
    assert [row["iou"] and float(row["iou"]) for row in rows] == ["", 1 / 5, 2 / 6, *[1] * 8]
    assert facts["iou"][1:] == [float(row["iou"]) for row in rows[1:]] and facts["iou"][0] is None
    assert read(tmp_path / "confusion.png").ndim == 3


SCORES = {"a": 0.5, "b": 0.25, "c": 1.0, "d": 0.75, "e": math.nan, "f": 0.0}


class TestExtremes:
    def test_the_worst_and_the_best_are_named_with_place_and_score(self):
        assert extremes(SCORES, 2) == {
            "f": "worst_1_0.0000_f",
            "b": "worst_2_0.2500_b",
            "c": "best_1_1.0000_c",
            "d": "best_2_0.7500_d",
        }

    def test_no_image_is_shown_twice(self):
        chosen = extremes(SCORES, 3)
        assert {name: file.split("_")[0] for name, file in chosen.items()} == {
            **dict.fromkeys("fba", "worst"),
            **dict.fromkeys("cd", "best"),
        }
        assert len(extremes(SCORES, 10)) == 5

    def test_places_sort_by_name(self):
        chosen = extremes({str(i): i / 100 for i in range(40)}, 12)
        assert list(chosen.values()) == [*sorted(chosen.values())[12:], *sorted(chosen.values())[:12]]

    @pytest.mark.parametrize("scores", [{}, {"a": math.nan}])
    def test_there_may_be_none(self, scores):
        assert extremes(scores, 5) == {} and extremes(SCORES, 0) == {}


@pytest.fixture
def val(command, scripts, monkeypatch, trained, data_root):
    """Validates the run of ``trained`` in this process: val(*overrides) -> its folder and what was said."""
    monkeypatch.setenv("RUNS_DIR", str(scripts.runs))

    def call(*overrides, phase="val"):
        outcome = command(phase, "tag=whole", f"data.root={data_root}", *overrides)
        assert outcome.status == 0, outcome.stderr
        folder = trained.path / phase
        return SimpleNamespace(folder=folder, metrics=json.loads((folder / "metrics.json").read_text()))

    return call


def test_val_shows_the_worst_and_best_images_with_their_own_scores(val, data_root):
    folder = val("val.mode=ss", "val.extremes=1").folder
    table, scores = load_table("cityscapes"), {}
    for path in (data_root / "val" / "label").iterdir():
        truth, prediction = read(path), read(folder / "label" / path.name)
        counted = np.isin(truth, table.id_of)
        unions = [((truth == i) | (prediction == i)) & counted for i in table.id_of]
        scores[path.stem] = np.mean([(truth == prediction)[union].mean() for union in unions if union.any()])
    order = sorted(scores, key=scores.get)
    worst, best = order[0], order[-1]
    expected = [f"best_1_{scores[best]:.4f}_{best}.jpg", f"worst_1_{scores[worst]:.4f}_{worst}.jpg"]
    assert sorted(path.name for path in (folder / "extremes").iterdir()) == expected
    assert read(folder / "extremes" / expected[0]).shape[1] == 4 * 96 + 3 * 8

    assert not (val("val.mode=ss", "val.extremes=0").folder / "extremes").exists()


def test_val_and_evaluate_give_the_same_scores_and_each_images_counts_add_up_to_them(val, data_root, tmp_path):
    done = val("val.mode=ss", "val.boundary_iou=true")
    evaluate(done.folder / "label", data_root / "val" / "label", "cityscapes", tmp_path / "scores.json", boundary=True)
    scores = json.loads((tmp_path / "scores.json").read_text())
    names = [name for name in scores if name not in ("predictions", "labels", "dataset")]
    assert {"mean_dice", "precision", "recall", "boundary_iou", "mean_boundary_iou", "miou_interval"} <= set(names)
    assert {name: done.metrics[name] for name in names} == {name: scores[name] for name in names}

    images = ImageCounts.load(done.folder / "images.npz")
    assert images.names == sorted(path.stem for path in (data_root / "val" / "label").iterdir())
    assert images.classes == done.metrics["classes"]
    sums = [counts.sum(axis=0) for counts in (images.intersection, images.predicted, images.labelled)]
    for iou, right, predicted, labelled in zip(done.metrics["iou"], *sums, strict=True):
        union = predicted + labelled - right
        assert iou == (pytest.approx(right / union, rel=1e-12) if union else None)

    assert "boundary_iou" not in val("val.mode=ss").metrics


def test_multi_scale_windows_are_recorded_with_their_scores(val):
    protocol = ("val.mode=mscrop", "val.scales=[0.75,1.5]", "val.window=[48,32]", "val.stride=20")
    metrics = val(*protocol, "val.combine=softmax", "val.interpolation=bicubic", "val.pad_multiple=8").metrics
    used = metrics["protocol"]
    assert metrics["mode"] == "mscrop" and used["scales"] == [0.75, 1.5] and used["flip"] is True
    assert (used["window"], used["stride"], used["combine"]) == ([48, 32], 20, "softmax")
    assert used["interpolation"] == "bicubic" and used["align_corners"] is True and 0 <= metrics["miou"] <= 1


@pytest.mark.parametrize("resize", ["torchcv", "mmseg"])
def test_labels_and_pictures_of_resized_grey_levels_have_the_images_size(val, data_root, resize):
    protocol = ("val.mode=ms", "val.scales=[0.5,1.5]", "val.short_side=40", "val.long_side=56", f"val.resize={resize}")
    done = val(*protocol, "val.extremes=1")
    used = done.metrics["protocol"]
    assert used["resize"] == resize and used["pixels"]["mean"] == DataConfig().mean
    for path in (data_root / "val" / "image").iterdir():
        size = read(path).shape[:2]
        assert read(done.folder / "label" / f"{path.stem}.png").shape == size
        assert read(done.folder / "vis" / f"{path.stem}.jpg").shape[:2] == size
    assert len(list((done.folder / "extremes").iterdir())) == 2


def test_labels_are_zipped_on_demand(val, data_root):
    folder = val("val.mode=ss", "val.zip=true", phase="test").folder
    with zipfile.ZipFile(folder / "label.zip") as archive:
        assert sorted(archive.namelist()) == sorted(path.name for path in (data_root / "test" / "image").iterdir())
        for name in archive.namelist():
            assert archive.read(name) == (folder / "label" / name).read_bytes()
    assert not (folder / "confusion.png").exists() and "miou" not in json.loads((folder / "metrics.json").read_text())
