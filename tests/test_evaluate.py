"""``main.py evaluate`` agrees with the official evaluation, needs no PyTorch, and names what does not fit."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official
import cv2
import numpy as np
import pytest
import torch
from cityscapesscripts.helpers.labels import id2label
from PIL import Image
from torchmetrics.classification import MulticlassJaccardIndex

import main

ROOT = Path(__file__).parents[1]
ADE20K = ROOT.parent / "shared" / "data" / "ade20k_sample" / "annotations" / "validation"


def patches(rng, ids, size):
    """A label of rectangles of random ``ids``."""
    height, width = size
    label = np.full(size, ids[0], np.uint8)
    for _ in range(60):
        top, left = rng.integers(height), rng.integers(width)
        label[top : top + rng.integers(1, 30), left : left + rng.integers(1, 40)] = rng.choice(ids)
    return label


def with_errors(rng, label, ids):
    """``label`` moved a little, with patches and single pixels of random ``ids``."""
    prediction = np.roll(label, (2, 3), axis=(0, 1))
    wrong = rng.random(label.shape) < 0.05
    prediction[wrong] = rng.choice(ids, wrong.sum())
    prediction[10:20, 10:40] = rng.choice(ids)
    return prediction


def write(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), ids)


@pytest.fixture
def cityscapes(tmp_path):
    """Labels and predictions, in Cityscapes' folders: errors, ignored regions, absent classes, no class predicted."""
    rng = np.random.default_rng(0)
    all_ids = np.arange(34)
    # train, 31, occurs nowhere; bus, 28, is predicted only; truck, 27, is never predicted
    true_ids, predicted_ids = np.setdiff1d(all_ids, [28, 31]), np.setdiff1d(all_ids, [27, 31])
    for frame in range(5):
        name = f"lindau_000000_{frame:06}"
        label = patches(rng, true_ids, (90, 121))
        prediction = with_errors(rng, label, predicted_ids)
        prediction[prediction == 27] = 26
        write(tmp_path / "gtFine" / "lindau" / f"{name}_gtFine_labelIds.png", label)
        write(tmp_path / "gtFine" / "lindau" / f"{name}_gtFine_color.png", np.zeros((90, 121, 3), np.uint8))
        write(tmp_path / "gtFine" / "lindau" / f"{name}_gtFine_labelTrainIds.png", label)
        write(tmp_path / "results" / f"{name}_leftImg8bit.png", prediction)
    return tmp_path


@pytest.fixture
def evaluate(monkeypatch, capfd, tmp_path):
    """Runs the phase in this process: evaluate(predictions, labels, dataset, ...) -> its scores, or its error."""

    def call(predictions, labels, dataset="cityscapes", *words):
        file = tmp_path / "scores.json"
        file.unlink(missing_ok=True)
        words = ("--pred", predictions, "--gt", labels, "--dataset", dataset, "--json", file, *words)
        monkeypatch.setattr(sys, "argv", ["main.py", "evaluate", *map(str, words)])
        try:
            status = main.main()
        except SystemExit as end:
            status = end.code
        call.stdout, stderr = capfd.readouterr()
        if status == 0:
            return json.loads(file.read_text())
        lines = stderr.splitlines()
        assert status == 2 and len(lines) == 1 and lines[0].startswith("error: "), stderr
        assert not file.exists()
        return lines[0]

    return call


def test_scores_are_those_of_the_official_cityscapes_evaluation(evaluate, cityscapes):
    ours = evaluate(cityscapes / "results", cityscapes / "gtFine")
    args = official.CArgs()
    args.evalInstLevelScore = args.evalPixelAccuracy = False
    matrix = official.generateMatrix(args)
    for label in sorted(cityscapes.glob("gtFine/*/*_labelIds.png")):
        prediction = cityscapes / "results" / label.name.replace("gtFine_labelIds", "leftImg8bit")
        official.evaluatePair(str(prediction), str(label), matrix, {}, {}, args)
    theirs = {id2label[i].name: official.getIouScoreForLabel(i, matrix, args) for i in args.evalLabels}
    assert np.isnan(theirs["train"]) and theirs["bus"] == theirs["truck"] == 0  # the cases this test is about
    for name, iou in zip(ours["classes"], ours["iou"], strict=True):
        assert iou == (None if np.isnan(theirs[name]) else pytest.approx(theirs[name], abs=1e-9))
    assert ours["miou"] == pytest.approx(official.getScoreAverage(theirs, args), abs=1e-9)
    assert ours["images"] == 5


@pytest.mark.skipif(not ADE20K.is_dir(), reason="the ADE20K pairs are not at hand")
def test_scores_of_real_ade20k_labels_are_those_of_plain_formulas_and_torchmetrics(evaluate, tmp_path):
    rng, truths, predictions = np.random.default_rng(0), [], []
    for path in sorted(ADE20K.iterdir()):
        label = np.array(Image.open(path))
        prediction = with_errors(rng, label, np.arange(151))
        write(tmp_path / path.name, prediction)
        truths.append(label.ravel())
        predictions.append(prediction.ravel())
    assert len(truths) == 3
    scores = evaluate(tmp_path, ADE20K, "ade20k")
    truth, prediction = np.concatenate(truths), np.concatenate(predictions)
    counted = truth > 0
    metric = MulticlassJaccardIndex(151, average="none")  # 0 a class of its own: what is predicted as none
    metric.update(torch.from_numpy(prediction[counted]), torch.from_numpy(truth[counted]))
    by_torchmetrics = metric.compute()
    ious = []
    for index in range(1, 151):
        hit = (truth == index) & (prediction == index)
        union = ((truth == index) | (prediction == index)) & counted
        iou = scores["iou"][index - 1]
        if not union.any():
            assert iou is None
            continue
        ious.append(hit.sum() / union.sum())
        assert iou == pytest.approx(ious[-1], abs=1e-9)
        assert iou == pytest.approx(by_torchmetrics[index].item(), abs=1e-6)  # which divides in float32
    assert scores["miou"] == pytest.approx(np.mean(ious), abs=1e-9)
    assert scores["pixel_accuracy"] == pytest.approx((truth == prediction)[counted].mean(), abs=1e-9)


def test_pytorch_is_not_needed(cityscapes):
    without = "import runpy, sys; sys.modules['torch'] = None; runpy.run_path('main.py', run_name='__main__')"
    words = ["evaluate", "--pred", cityscapes / "results", "--gt", cityscapes / "gtFine", "--dataset", "cityscapes"]
    command = [sys.executable, "-c", without, *map(str, words), "--workers", "2"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "mean IoU" in ended.stdout and "traffic light" in ended.stdout and "5 images" in ended.stdout


def test_help_lists_the_phase_at_once():
    started = time.perf_counter()
    ended = subprocess.run([sys.executable, "main.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert time.perf_counter() - started < 1
    assert "  evaluate " in ended.stdout and "--pred DIR" in ended.stdout


def test_the_number_of_threads_changes_nothing(evaluate, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(20):
        label = patches(rng, np.arange(12), (40, 50))
        write(tmp_path / "labels" / f"{i}.png", label)
        write(tmp_path / "predictions" / f"{i}.png", with_errors(rng, label, np.arange(11)))
    alone, three = (evaluate(tmp_path / "predictions", tmp_path / "labels", "camvid", "--workers", n) for n in (1, 3))
    assert alone == three and alone["images"] == 20


def test_labels_against_themselves_are_perfect(evaluate, cityscapes):
    scores = evaluate(cityscapes / "gtFine", cityscapes / "gtFine")
    assert scores["miou"] == scores["pixel_accuracy"] == 1


def test_predictions_are_found_below_the_same_path_or_by_name(evaluate, tmp_path):
    label = patches(np.random.default_rng(0), np.arange(11), (20, 30))
    other = np.zeros_like(label)
    for folder in ("a", "b"):  # the same name twice: only the path tells them apart
        write(tmp_path / "labels" / folder / "1.png", label if folder == "a" else other)
        write(tmp_path / "predictions" / folder / "1.png", label if folder == "a" else other)
    write(tmp_path / "labels" / "c" / "2.png", label)
    write(tmp_path / "predictions" / "elsewhere" / "2.png", label)
    write(tmp_path / "predictions" / "of no label.png", label)
    scores = evaluate(tmp_path / "predictions", tmp_path / "labels", "camvid")
    assert (scores["images"], scores["miou"]) == (3, 1)


def test_the_prepared_layout_is_scored_as_the_raw_one(evaluate, cityscapes):
    raw = evaluate(cityscapes / "results", cityscapes / "gtFine")
    for path in cityscapes.glob("gtFine/*/*_labelIds.png"):
        name = path.name.replace("gtFine_labelIds", "leftImg8bit")
        (cityscapes / "label").mkdir(exist_ok=True)
        shutil.copy(path, cityscapes / "label" / name)
    prepared = evaluate(cityscapes / "results", cityscapes / "label")
    assert (prepared["iou"], prepared["images"]) == (raw["iou"], raw["images"])


def test_a_palette_png_counts_by_its_indices(evaluate, tmp_path):
    label = patches(np.random.default_rng(0), np.array([*range(21), 255]), (40, 50))
    picture = Image.fromarray(label)
    picture.putpalette([level % 256 for level in range(0, 3 * 768, 3)])
    for folder in ("labels", "predictions"):
        (tmp_path / folder).mkdir()
    picture.save(tmp_path / "labels" / "1.png")
    assert Image.open(tmp_path / "labels" / "1.png").mode == "P"
    prediction = np.where(label == 255, 0, label).astype(np.uint8)
    write(tmp_path / "predictions" / "1.png", prediction)
    assert evaluate(tmp_path / "predictions", tmp_path / "labels", "pascal_voc")["miou"] == 1


class TestMistakes:
    @pytest.mark.parametrize("which", ["results", "gtFine"])
    def test_a_missing_folder_is_named(self, evaluate, cityscapes, which):
        (cityscapes / which).rename(cityscapes / "elsewhere")
        assert f"{cityscapes / which} is not a folder" in evaluate(cityscapes / "results", cityscapes / "gtFine")

    def test_a_folder_without_labels_is_named(self, evaluate, cityscapes, tmp_path):
        (tmp_path / "empty").mkdir()
        assert f"{tmp_path / 'empty'} holds no PNG" in evaluate(tmp_path / "empty", cityscapes / "gtFine")

    def test_folders_that_have_nothing_in_common_are_named(self, evaluate, cityscapes, tmp_path):
        write(tmp_path / "others" / "1.png", np.zeros((4, 4), np.uint8))
        error = evaluate(tmp_path / "others", cityscapes / "gtFine")
        assert str(tmp_path / "others") in error and str(cityscapes / "gtFine") in error

    def test_a_label_without_prediction_is_named(self, evaluate, cityscapes):
        for frame in (1, 3):
            (cityscapes / "results" / f"lindau_000000_{frame:06}_leftImg8bit.png").unlink()
        error = evaluate(cityscapes / "results", cityscapes / "gtFine")
        assert "lindau_000000_000001_gtFine_labelIds.png has no prediction" in error and "nor have 1 others" in error

    def test_two_predictions_are_named(self, evaluate, cityscapes):
        first = cityscapes / "results" / "lindau_000000_000001_leftImg8bit.png"
        second = cityscapes / "results" / "more" / "lindau_000000_000001_again.png"
        write(second, np.zeros((90, 121), np.uint8))
        error = evaluate(cityscapes / "results", cityscapes / "gtFine")
        assert str(first) in error and str(second) in error

    @pytest.mark.parametrize("workers", [1, 2])
    def test_sizes_that_differ_are_named(self, evaluate, cityscapes, workers):
        path = cityscapes / "results" / "lindau_000000_000001_leftImg8bit.png"
        write(path, np.zeros((90, 120), np.uint8))
        error = evaluate(cityscapes / "results", cityscapes / "gtFine", "cityscapes", "--workers", workers)
        assert str(path) in error and "120 x 90" in error and "121 x 90" in error

    @pytest.mark.parametrize("pattern", ["results/*001_*.png", "gtFine/*/*001_*labelIds.png"])
    def test_an_id_that_the_dataset_does_not_have_is_named(self, evaluate, cityscapes, pattern):
        (path,) = cityscapes.glob(pattern)
        ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        ids[3, 4] = 34
        write(path, ids)
        error = evaluate(cityscapes / "results", cityscapes / "gtFine")
        assert f"label 34 in {path}" in error and "0..33" in error

    @pytest.mark.parametrize("damage", ["cut off", "in colour", "a damaged palette image"])
    def test_a_file_that_is_no_label_is_named(self, evaluate, cityscapes, damage):
        path = cityscapes / "results" / "lindau_000000_000001_leftImg8bit.png"
        if damage == "in colour":
            write(path, np.zeros((90, 121, 3), np.uint8))
        elif damage == "cut off":
            path.write_bytes(path.read_bytes()[:-30])
        else:
            Image.fromarray(np.zeros((90, 121), np.uint8)).convert("P").save(path)
            path.write_bytes(path.read_bytes()[:-40])
        assert str(path) in evaluate(cityscapes / "results", cityscapes / "gtFine")

    def test_an_unknown_dataset_is_named(self, evaluate, cityscapes):
        assert "'towns'" in evaluate(cityscapes / "results", cityscapes / "gtFine", "towns")

    def test_a_file_that_cannot_be_written_is_named_before_anything_is_counted(self, evaluate, cityscapes, tmp_path):
        file = tmp_path / "nowhere" / "scores.json"
        error = evaluate(cityscapes / "results", cityscapes / "gtFine", "cityscapes", "--json", file)
        assert f"cannot write {file}" in error

    @pytest.mark.parametrize(
        "words, expected",
        [
            ([], "--pred, --gt, --dataset"),
            (["--pred", "a", "--gt", "b"], "--dataset"),
            (["--pred", "a", "--gt", "b", "--dataset", "camvid", "val.mode=ss"], "no configuration"),
            (["--pred", "a", "--gt", "b", "--dataset", "camvid", "--config", "c"], "no configuration"),
            (["--pred", "a", "--gt", "b", "--dataset", "camvid", "--workers", "0"], "--workers 0"),
        ],
    )
    def test_wrong_options_are_named(self, monkeypatch, capfd, words, expected):
        monkeypatch.setattr(sys, "argv", ["main.py", "evaluate", *words])
        with pytest.raises(SystemExit) as end:
            main.main()
        assert end.value.code == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert expected in line

    def test_other_phases_refuse_its_options(self, command):
        assert "--pred" in command("val", "--pred", "somewhere").error
