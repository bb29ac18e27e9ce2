"""Dice, precision, recall, boundary IoU, the interval of mIoU and each image's counts, against other people's code."""

import csv
import json
import math

import cv2
import numpy as np
import pytest
import torch
from torchmetrics.classification import (
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
    MulticlassStatScores,
)

from lib.base.peers import ALONE
from lib.scores import Scores, bootstrap
from lib.scores.boundary import boundary_counts
from lib.scores.confusion import Tally
from lib.scores.full import FullScores
from lib.scores.per_image import ImageCounts

CLASSES = 6
SIZES = [(40, 60), (55, 31), (70, 90), (9, 120)]


def scene(rng, size, classes):
    """A label of rectangles and discs, with ignored regions, and a prediction that is wrong along edges and in places.

    The last class occurs nowhere, the one before it is only predicted, the one before that never predicted.
    """
    label, prediction = np.zeros((2, *size), np.uint8)
    for picture, ids in ((label, [*range(classes - 2), 255]), (prediction, [*range(classes - 3), classes - 2])):
        for _ in range(12):
            centre, sides = (rng.integers(size[::-1]).tolist() for _ in range(2))
            cv2.ellipse(picture, centre, [side // 2 for side in sides], 0, 0, 360, int(rng.choice(ids)), -1)
    kept = rng.random(size) < 0.7
    prediction[kept] = np.roll(label, 1, axis=1)[kept]
    prediction[(prediction == 255) | (prediction == classes - 3)] = 0
    return prediction, label


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [scene(rng, size, CLASSES) for size in SIZES]


def tally_of(scenes, names=None, boundary=True):
    tally = Tally(CLASSES, boundary=boundary)
    for index, (prediction, label) in enumerate(scenes):
        name = names[index] if names else f"{index}"
        batch = {"meta": [{"name": name}], "label": torch.from_numpy(label.astype(np.int64))[None]}
        tally.add(batch, torch.from_numpy(prediction)[None])
    tally.sum(ALONE)
    return tally


def full(tally):
    images = ImageCounts.of(tally.counts_of, [str(k) for k in range(CLASSES)])
    return FullScores.of_all(tally.confusion.matrix.numpy(), images, tally.boundary)


METRICS = {
    "iou": (MulticlassJaccardIndex, lambda tp, fp, fn: tp / (tp + fp + fn)),
    "dice": (MulticlassF1Score, lambda tp, fp, fn: 2 * tp / (2 * tp + fp + fn)),
    "precision": (MulticlassPrecision, lambda tp, fp, fn: tp / max(tp + fp, 1)),
    "recall": (MulticlassRecall, lambda tp, fp, fn: tp / max(tp + fn, 1)),
}


@pytest.mark.parametrize("score", METRICS)
def test_scores_are_those_of_torchmetrics(scenes, score):
    metric, formula = METRICS[score]
    scores = full(tally_of(scenes))
    of_classes, mean = (metric(CLASSES, average=average, ignore_index=255) for average in ("none", "macro"))
    counts = MulticlassStatScores(CLASSES, average="none", ignore_index=255)
    for prediction, label in scenes:
        for reference in (of_classes, mean, counts):
            reference.update(torch.from_numpy(prediction)[None].long(), torch.from_numpy(label)[None].long())
    values, mean_value = getattr(scores, score), scores.miou if score == "iou" else getattr(scores, f"mean_{score}")
    assert math.isnan(values[-1])
    # torchmetrics divides in float32; its counts are whole
    np.testing.assert_allclose(values[:-1], of_classes.compute()[:-1].numpy(), rtol=1e-6)
    assert mean_value == pytest.approx(mean.compute().item(), rel=1e-6)
    exact = [formula(tp, fp, fn) for tp, fp, _, fn, _ in counts.compute().tolist()[:-1]]
    np.testing.assert_allclose(values[:-1], exact, rtol=1e-9)
    assert mean_value == pytest.approx(np.mean(exact), rel=1e-9)


def mask_to_boundary(mask, dilation_ratio=0.02):
    """As the authors of Boundary IoU publish it: what iterated erosion of the mask, in a frame of 0, takes away."""
    h, w = mask.shape
    dilation = max(1, round(dilation_ratio * np.sqrt(h**2 + w**2)))
    framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = framed
    for _ in range(dilation):
        eroded = cv2.erode(eroded, np.ones((3, 3), np.uint8), iterations=1)
    return mask - eroded[1 : h + 1, 1 : w + 1]


def reference_boundary_iou(scenes, classes):
    intersection, union = np.zeros(classes), np.zeros(classes)
    for prediction, label in scenes:
        for k in range(classes):
            truth = mask_to_boundary((label == k).astype(np.uint8))
            found = mask_to_boundary(((prediction == k) & (label != 255)).astype(np.uint8))
            intersection[k] += ((truth + found) == 2).sum()
            union[k] += ((truth + found) > 0).sum()
    return np.divide(intersection, union, out=np.full(classes, np.nan), where=union > 0)


def test_boundary_iou_is_that_of_iterated_erosions_of_each_class(scenes):
    scores, expected = full(tally_of(scenes)), reference_boundary_iou(scenes, CLASSES)
    assert np.isnan(expected[-1]) and not np.isnan(expected[:-1]).any() and (expected[:2] > 0).all()
    np.testing.assert_allclose(scores.boundary_iou, expected, rtol=1e-9)
    assert scores.mean_boundary_iou == pytest.approx(expected[:-1].mean(), rel=1e-9)


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (3, 3), (150, 200), (300, 20)])
def test_boundary_iou_of_any_size(size):
    scenes = [scene(np.random.default_rng(sum(size)), size, 5)]
    counts = boundary_counts(*scenes[0], 5)
    with np.errstate(invalid="ignore"):
        ours = counts[0] / (counts[1] + counts[2] - counts[0])
    np.testing.assert_allclose(ours, reference_boundary_iou(scenes, 5), rtol=1e-9)


def test_a_prediction_that_is_right_where_it_counts_has_boundary_iou_1_whatever_it_says_elsewhere(scenes):
    label = scenes[0][1]
    for elsewhere in (0, 3, 255):
        both, found, true = boundary_counts(np.where(label == 255, np.uint8(elsewhere), label), label, CLASSES)
        assert (label == 255).any() and both.any()
        np.testing.assert_array_equal(both, found)
        np.testing.assert_array_equal(both, true)


def test_254_classes_do_not_overflow():
    rng = np.random.default_rng(0)
    scenes = [tuple(rng.integers(0, 254, (2, 30, 40)).astype(np.uint8))]
    counts = boundary_counts(*scenes[0], 254)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(
            counts[0] / (counts[1] + counts[2] - counts[0]), reference_boundary_iou(scenes, 254), rtol=1e-9
        )


def test_training_counts_nothing_near_contours_and_tells_what_it_told(scenes):
    tally = tally_of(scenes, boundary=False)
    assert tally.boundary is None and type(tally.scores()) is Scores
    scores = full(tally)
    assert scores.boundary_iou is None and "boundary_iou" not in scores.as_dict()
    assert {name: scores.as_dict()[name] for name in tally.scores().as_dict()} == tally.scores().as_dict()


def test_two_processes_give_the_numbers_of_one(scenes):
    names = ["d", "b", "c", "a"]
    whole, parts = tally_of(scenes, names), [tally_of(scenes[i::2], names[i::2]) for i in range(2)]
    everyones = parts[1].counts_of | parts[0].counts_of
    together = FullScores.of_all(
        sum(part.confusion.matrix.numpy() for part in parts),
        ImageCounts.of(everyones, range(CLASSES)),
        sum(part.boundary for part in parts),
    )
    assert together.as_dict() == full(whole).as_dict()
    assert ImageCounts.of(everyones, range(CLASSES)).names == ["a", "b", "c", "d"]


def test_each_images_miou_is_that_of_its_own_pixels(scenes):
    counts = ImageCounts.of(tally_of(scenes, ["straße", "b", "c", "a"]).counts_of, range(CLASSES))
    for name, miou in zip(counts.names, counts.miou, strict=True):
        prediction, label = scenes[["straße", "b", "c", "a"].index(name)]
        ious = []
        for k in range(CLASSES):
            true, found = label == k, (prediction == k) & (label != 255)
            ious += [(true & found).sum() / (true | found).sum()] if (true | found).any() else []
        assert miou == pytest.approx(np.mean(ious), rel=1e-12)


class TestWords:
    def test_the_table_has_a_column_for_each_score_and_the_interval(self, scenes):
        scores = full(tally_of(scenes))
        lines = scores.table(["road", "traffic light", "bus", "car", "van", "tram"]).splitlines()
        assert lines[0].split("  ")[0] == "class" and lines[0].endswith("boundary IoU %")
        assert len({len(line) for line in lines[:11]}) == 1 and max(map(len, lines)) <= 100
        assert lines[7].split() == ["tram", *"-----"]
        low, high = scores.miou_interval
        assert f"{100 * scores.miou:.2f}  (95 % interval {100 * low:.2f} to {100 * high:.2f})" in lines[11]
        assert lines[9].split()[1:] == [
            f"{100 * value:.2f}"
            for value in (
                scores.miou,
                scores.mean_dice,
                scores.mean_precision,
                scores.mean_recall,
                scores.mean_boundary_iou,
            )
        ]

    def test_json_and_csv_hold_the_same(self, scenes):
        scores = full(tally_of(scenes))
        facts = json.loads(json.dumps(scores.as_dict(), allow_nan=False))
        rows = list(csv.DictReader(scores.csv([f"c{k}" for k in range(CLASSES)]).splitlines()))
        assert list(rows[0]) == ["class", "iou", "accuracy", "dice", "precision", "recall", "boundary_iou"]
        for name in list(rows[0])[1:]:
            assert [float(row[name]) if row[name] else None for row in rows] == facts[name]
        assert facts["miou_interval"] == list(scores.miou_interval)


class TestInterval:
    def test_it_is_that_of_images_drawn_one_by_one(self):
        rng = np.random.default_rng(1)
        labelled = rng.integers(50, 100, (30, 4))
        right = labelled // rng.integers(1, 4, (30, 4))
        images = ImageCounts([f"{i:02}" for i in range(30)], right, right, labelled)
        low, high = bootstrap.miou_interval(images)
        drawn = []
        for _ in range(4000):
            chosen = rng.integers(30, size=30)
            right, of = images.intersection[chosen].sum(axis=0), images.labelled[chosen].sum(axis=0)
            drawn.append(np.mean(right / of))
        assert (low, high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.01)
        assert bootstrap.miou_interval(images) == (low, high)

    def test_it_does_not_depend_on_the_steps_it_is_taken_in(self, monkeypatch, scenes):
        images = ImageCounts.of(tally_of(scenes).counts_of, range(CLASSES))
        whole = bootstrap.miou_interval(images)
        monkeypatch.setattr(bootstrap, "AT_A_TIME", 100)
        assert bootstrap.miou_interval(images) == whole

    @pytest.mark.parametrize("count", [0, 1])
    def test_there_is_none_of_fewer_than_two_images(self, count):
        counts = np.ones((count, 2), np.int64)
        assert bootstrap.miou_interval(ImageCounts(["a"][:count], counts, counts, counts)) is None

    def test_there_is_none_where_nothing_counts(self):
        counts = np.zeros((3, 2), np.int64)
        assert bootstrap.miou_interval(ImageCounts(["a", "b", "c"], counts, counts, counts)) is None

    @pytest.mark.slow
    def test_it_holds_the_truth_as_often_as_it_says(self):
        rng, truth, inside = np.random.default_rng(0), np.array([0.9, 0.6, 0.3]), 0
        for _ in range(300):
            labelled = rng.integers(500, 1500, (100, 3))
            # Each image has its own difficulty; overlap as a share of the union, which all have alike
            share = rng.beta(20 * truth, 20 * (1 - truth), (100, 3))
            right = np.round(labelled * share).astype(np.int64)
            low, high = bootstrap.miou_interval(ImageCounts([f"{i}" for i in range(100)], right, right, labelled))
            inside += low <= truth.mean() <= high
        assert 0.92 <= inside / 300 <= 0.98
