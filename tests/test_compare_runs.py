"""``main.py compare`` finds a difference that is there, finds none where there is none, and says which."""

import json
import sys

import cv2
import numpy as np
import pytest

import main
from datasets.seg.classes import load_table
from lib.scores.bootstrap import paired
from lib.scores.comparison import Comparison, most_changed
from lib.scores.per_image import FILE, ImageCounts

TABLE = load_table("camvid")
IMAGES = 12


def drawn(seed, better=0.0, images=60):
    """Counts of made images in two classes: IoU scatters around a half, plus ``better``."""
    rng = np.random.default_rng(seed)
    labelled = rng.integers(500, 1000, (images, 2))
    right = np.round(labelled * np.clip(rng.normal(0.5 + better, 0.1, (images, 2)), 0, 1)).astype(np.int64)
    return ImageCounts([f"{i:03}" for i in range(images)], right, right, labelled, ["a", "b"])


@pytest.fixture
def runs(tmp_path):
    """Two runs on made images: the first wrong in the left part of each, the second less so; and their data."""
    data = tmp_path / "data" / "val"
    for folder in (data / "image", data / "label"):
        folder.mkdir(parents=True)
    paths = [tmp_path / "camvid" / "dnl" / tag for tag in ("old", "new")]
    counts = [{}, {}]
    for image in range(IMAGES):
        name = f"scene {image:02}"
        label = np.zeros((40, 60), np.uint8)
        label[20:, :] = 3
        label[5:15, 30:50] = 8
        label[:3] = 11  # void
        cv2.imwrite(str(data / "image" / f"{name}.png"), np.full((40, 60, 3), 100, np.uint8))
        cv2.imwrite(str(data / "label" / f"{name}.png"), label)
        for path, counts_of, wrong in zip(paths, counts, (20 + image, 10), strict=True):
            prediction = np.where(label == 11, 0, label).astype(np.uint8)
            prediction[:, :wrong] = 5
            (path / "val" / "label").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path / "val" / "label" / f"{name}.png"), TABLE.id_of[prediction])
            ids = TABLE.train_id_of[label]
            of = [[(prediction == k) & (ids != 255), ids == k] for k in range(len(TABLE))]
            counts_of[name] = np.array([[(a & b).sum(), a.sum(), b.sum()] for a, b in of]).T
    for path, counts_of in zip(paths, counts, strict=True):
        ImageCounts.of(counts_of, TABLE.names).save(path / "val" / FILE)
        (path / "config.yaml").write_text(f"data: {{dataset: camvid, root: {data.parent}}}\n")
    return paths


@pytest.fixture
def compare(monkeypatch, capfd):
    """``main.py compare`` in this process: compare(*words) -> (status, stdout, stderr)."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["main.py", "compare", *map(str, words)])
        capfd.readouterr()
        try:
            status = main.main()
        except SystemExit as end:
            status = end.code
        return status, *capfd.readouterr()

    return call


def refused(outcome):
    status, _, err = outcome
    assert status == 2 and len(err.splitlines()) == 1 and err.startswith("error: "), err
    return err


class TestBootstrap:
    def test_a_difference_that_every_image_shows_is_more_than_chance(self):
        found = Comparison.of(drawn(0), drawn(1, better=0.1))
        assert found.difference.low > 0 and found.difference.p < 0.001 and found.difference.is_more_than_chance
        assert found.difference.low < found.gain < found.difference.high
        back = Comparison.of(drawn(1, better=0.1), drawn(0))
        assert (back.difference.low, back.difference.high) == (-found.difference.high, -found.difference.low)
        assert back.difference.p == found.difference.p

    def test_a_run_against_itself_differs_by_nothing_and_p_is_1(self):
        found = paired(drawn(0), drawn(0))
        assert (found.low, found.high, found.p) == (0, 0, 1) and not found.is_more_than_chance

    def test_it_is_that_of_images_drawn_one_by_one(self):
        first, second, rng = drawn(0, images=20), drawn(1, better=0.03, images=20), np.random.default_rng(5)
        differences = []
        for _ in range(4000):
            chosen = rng.integers(20, size=20)
            shares = [c.intersection[chosen].sum(0) / c.labelled[chosen].sum(0) for c in (first, second)]
            differences.append(np.mean(shares[1]) - np.mean(shares[0]))
        found = paired(first, second)
        assert (found.low, found.high) == pytest.approx(np.percentile(differences, [2.5, 97.5]), abs=0.004)
        share = 2 * min(np.mean(np.array(differences) <= 0), np.mean(np.array(differences) >= 0))
        assert found.p == pytest.approx(share, abs=0.03)

    def test_one_image_and_images_without_counts_tell_nothing(self):
        alone = Comparison.of(drawn(0, images=1), drawn(1, images=1))
        assert "one image tells nothing of chance" in alone.verdict("A", "B") and alone.as_dict()["p"] is None
        nothing = ImageCounts(["a", "b"], *[np.zeros((2, 1), np.int64)] * 3, ["road"])
        found = Comparison.of(nothing, nothing)
        assert "- points of mIoU; nothing counts" in found.verdict("A", "B") and "road" in found.table("A", "B")
        assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["miou"] == [None, None]

    def test_only_the_difference_within_an_image_counts(self):
        """Images differ far more than the runs do: without pairing this would drown."""
        easy = np.linspace(100, 900, 40).astype(np.int64)[:, None]
        labelled = np.full((40, 1), 1000)
        names = [f"{i:02}" for i in range(40)]
        first, second = (ImageCounts(names, easy + more, easy + more, labelled, ["a"]) for more in (0, 10))
        found = paired(first, second)
        assert found.low == pytest.approx(0.01) and found.high == pytest.approx(0.01)

    @pytest.mark.slow
    @pytest.mark.parametrize("better", [0.0, 0.02])
    def test_the_interval_holds_the_truth_as_often_as_it_says(self, better):
        rng, inside = np.random.default_rng(0), 0
        for _ in range(300):
            labelled = rng.integers(500, 1500, (80, 2))
            share = rng.beta(5, 5, (80, 2))
            shares = [share, np.clip(share + better + rng.normal(0, 0.05, share.shape), 0, 1)]
            rights = [np.round(labelled * each).astype(np.int64) for each in shares]
            first, second = (ImageCounts([f"{i}" for i in range(80)], r, r, labelled, "ab") for r in rights)
            found = paired(first, second, resamples=1000, seed=int(rng.integers(1 << 30)))
            inside += found.low <= better <= found.high
        assert 0.91 <= inside / 300 <= 0.985


class TestCommand:
    def test_the_better_run_is_told_with_its_figures(self, compare, runs, tmp_path):
        status, out, err = compare(*runs, "--json", tmp_path / "figures.json")
        assert status == 0 and err == ""
        facts = json.loads((tmp_path / "figures.json").read_text())
        (found,) = facts["comparisons"]
        counts = [ImageCounts.load(run / "val" / FILE) for run in runs]
        for place, each in enumerate(counts):
            right, predicted, labelled = (
                part.sum(axis=0) for part in (each.intersection, each.predicted, each.labelled)
            )
            union = predicted + labelled - right
            ious = [r / u if u else None for r, u in zip(right, union, strict=True)]
            assert found["iou"][place] == pytest.approx(ious)
            assert found["miou"][place] == pytest.approx(np.mean([iou for iou in ious if iou is not None]))
        assert found["difference"] == pytest.approx(found["miou"][1] - found["miou"][0]) and found["difference"] > 0
        assert found["is_more_than_chance"] and found["p"] < 0.001 and facts["images"] == IMAGES
        assert "Of fewer than 20 images the interval is too narrow" in out
        assert "B is better by more than the choice of images makes by chance" in out
        assert f"{100 * found['difference']:+.2f} points of mIoU" in out
        rows = dict(line.rsplit(maxsplit=3)[::3] for line in out.splitlines() if line.startswith(TABLE.names[3]))
        assert rows[TABLE.names[3]] == f"{100 * found['iou_difference'][3]:+.2f}"

    def test_the_same_run_twice_is_no_more_than_chance(self, compare, runs, tmp_path):
        status, out, _ = compare(runs[0], runs[0], "--out", tmp_path / "sheet.png")
        assert status == 0 and "p = 1 " in out and "no more than the choice of images makes by chance" in out
        assert "no image changed" in out and not (tmp_path / "sheet.png").exists()

    def test_each_further_run_is_compared_with_the_first(self, compare, runs):
        status, out, _ = compare(runs[0], runs[1], runs[0])
        assert status == 0 and "B less A: +" in out and "C less A: +0.00" in out and "B less C" not in out

    def test_the_sheet_shows_the_images_that_changed_most(self, compare, runs, tmp_path):
        status, out, _ = compare(*runs, "--count", 2, "--out", tmp_path / "sheet.png")
        assert status == 0 and str(tmp_path / "sheet.png") in out
        sheet = cv2.imread(str(tmp_path / "sheet.png"))
        assert sheet.shape[1] == 4 * 360 + 3 * 8 and len(sheet) > 2 * 240
        counts = [ImageCounts.load(run / "val" / FILE) for run in runs]
        assert [counts[0].names[i] for i in most_changed(counts, 2)] == ["scene 11", "scene 10"]
        # Of the first image's 60 columns, 31 are wrong in the first run and 10 in the second; 360 pixels show them
        wrong = TABLE.palette[5][::-1] // 2 + 50
        for left, columns in ((2 * 368, 31), (3 * 368, 10)):
            line = sheet[48 + 60, left : left + 360].astype(int)
            assert (np.abs(line - wrong) <= 1).all(axis=1).sum() == 6 * columns

    def test_without_its_images_the_sheet_is_left_out_and_why_is_said(self, compare, runs, tmp_path):
        (tmp_path / "data").rename(tmp_path / "elsewhere")
        status, out, err = compare(*runs, "--out", tmp_path / "sheet.png")
        assert status == 0 and err == "" and "points of mIoU" in out
        assert "is left out, for the images are not at hand" in out and str(tmp_path / "data") in out
        assert not (tmp_path / "sheet.png").exists()


class TestMistakes:
    def test_other_images_and_classes_are_named(self, compare, runs):
        path = runs[1] / "val" / FILE
        counts = ImageCounts.load(path)
        fields = (counts.intersection, counts.predicted, counts.labelled)
        ImageCounts(["another", *counts.names[1:]], *fields, counts.classes).save(path)
        assert "image 1 is 'scene 00' in" in refused(compare(*runs)) and "'another' in" in refused(compare(*runs))
        ImageCounts(counts.names, *fields, [*counts.classes[:-1], "unicycle"]).save(path)
        assert "class 11 is" in refused(compare(*runs)) and "'unicycle'" in refused(compare(*runs))
        ImageCounts(counts.names[:5], *(field[:5] for field in fields), counts.classes).save(path)
        assert "has 12 images and" in refused(compare(*runs))
        fields[2][4] += 1
        ImageCounts(counts.names, *fields, counts.classes).save(path)
        assert "the label of image 'scene 04' counts other pixels" in refused(compare(*runs))

    def test_what_is_no_run_is_named(self, compare, runs, tmp_path):
        assert "2 to 26 runs, not 1" in refused(compare(runs[0]))
        assert f"{tmp_path / 'nowhere'} is no run's folder" in refused(compare(runs[0], tmp_path / "nowhere"))
        error = refused(compare(*runs, "--split", "test"))
        assert f"{runs[0]} has no test/{FILE}: run test of it first" in error
        (runs[1] / "val" / FILE).write_bytes(b"PK")
        assert str(runs[1] / "val" / FILE) in refused(compare(*runs))

    @pytest.mark.parametrize("option, name", [("--out", "a.gif"), ("--out", "no/a.png"), ("--json", "a.txt")])
    def test_what_cannot_be_written_is_said_first(self, compare, runs, tmp_path, option, name):
        assert str(tmp_path / name) in refused(compare(*runs, option, tmp_path / name))

    def test_a_prediction_of_another_size_is_named(self, compare, runs, tmp_path):
        path = runs[1] / "val" / "label" / "scene 11.png"
        cv2.imwrite(str(path), np.full((5, 5), 3, np.uint8))
        assert str(path) in refused(compare(*runs, "--out", tmp_path / "sheet.png"))
        assert not (tmp_path / "sheet.png").exists()
