"""Confusion matrix and scores agree with counts made pixel by pixel, figures worked out by hand, and torchmetrics."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from lib.base.errors import UserError
from lib.scores import Scores
from lib.scores.confusion import ConfusionMatrix

# Rows are labels. Class 2 is only predicted, class 3 occurs nowhere.
MATRIX = np.array([[6, 1, 1, 0], [2, 4, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
IOU = [6 / 10, 4 / 9, 0.0]


def counted(prediction, label, num_classes, ignore):
    """The confusion matrix, one pixel at a time."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for true, predicted in zip(label.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if true != ignore:
            matrix[true, predicted] += 1
    return matrix


@pytest.mark.parametrize(
    "dtype, ignore", [(torch.uint8, 255), (torch.int64, 255), (torch.int64, -1)], ids=["uint8", "int64", "minus one"]
)
def test_updates_add_up_to_the_pixel_counts(dtype, ignore):
    generator = torch.Generator().manual_seed(0)
    confusion, expected = ConfusionMatrix(7, ignore=ignore), np.zeros((7, 7), np.int64)
    for shape in [(2, 9, 11), (5, 3)]:
        prediction = torch.randint(0, 7, shape, generator=generator).to(dtype)
        label = torch.randint(0, 7, shape, generator=generator).to(dtype)
        label[0, 1:] = ignore
        counts = confusion.update(prediction, label)
        np.testing.assert_array_equal(counts.numpy(), counted(prediction, label, 7, ignore))
        expected += counts.numpy()
    assert confusion.matrix.dtype == torch.int64
    np.testing.assert_array_equal(confusion.matrix.numpy(), expected)
    assert confusion.scores() == Scores.of(expected)


def test_more_classes_than_a_byte_squared_holds_are_counted_apart():
    ids = torch.arange(150, dtype=torch.uint8)
    confusion = ConfusionMatrix(150)
    confusion.update(ids, ids)
    np.testing.assert_array_equal(confusion.matrix.numpy(), np.eye(150, dtype=np.int64))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_counting_changes_neither_prediction_nor_label(dtype):
    prediction, label = torch.tensor([1, 1], dtype=dtype), torch.tensor([0, 255], dtype=dtype)
    confusion = ConfusionMatrix(2)
    confusion.update(prediction, label)
    assert confusion.matrix.tolist() == [[0, 1], [0, 0]]
    assert prediction.tolist() == [1, 1] and label.tolist() == [0, 255]


def test_an_ignored_image_counts_nothing():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.zeros(4, 4, dtype=torch.uint8), torch.full((4, 4), 255))
    assert not confusion.matrix.any()
    assert all(math.isnan(value) for value in vars(confusion.scores()).values() if isinstance(value, float))


@pytest.mark.parametrize(
    "prediction, label, words",
    [
        ([0, 1], [0, 34], "34.*label.*0..2 and 255"),
        ([0, 1], [-1, 0], "-1.*label"),
        ([0, 1], [0, 3], "3.*label"),
        ([3, 1], [0, 0], "3.*prediction.*0..2"),
        ([0, 1], [0, 0, 0], r"\(2,\).*\(3,\)"),
    ],
)
def test_ids_and_sizes_that_do_not_belong_are_named_and_not_counted(prediction, label, words):
    confusion = ConfusionMatrix(3)
    with pytest.raises(UserError, match=words):
        confusion.update(torch.tensor(prediction), torch.tensor(label))
    assert not confusion.matrix.any()


def test_scores_are_those_worked_out_by_hand():
    scores = Scores.of(MATRIX)
    assert scores.iou[:3] == pytest.approx(IOU)
    assert scores.accuracy[:2] == pytest.approx([6 / 8, 4 / 8])
    assert math.isnan(scores.iou[3]) and math.isnan(scores.accuracy[2]) and math.isnan(scores.accuracy[3])
    assert scores.miou == pytest.approx(sum(IOU) / 3)  # the class that is predicted only counts, with 0
    assert scores.pixel_accuracy == pytest.approx(10 / 16)
    assert scores.mean_accuracy == pytest.approx((6 / 8 + 4 / 8) / 2)
    assert scores.frequency_weighted_iou == pytest.approx(0.5 * IOU[0] + 0.5 * IOU[1])


def test_pixels_predicted_as_no_class_are_missed_but_no_class_is_blamed():
    scores = Scores.of(np.array([[6, 1, 3], [0, 5, 0]]))
    assert scores.iou == pytest.approx([6 / 10, 5 / 6])
    assert scores.accuracy == pytest.approx([6 / 10, 1])
    assert scores.pixel_accuracy == pytest.approx(11 / 15)


def test_iou_is_that_of_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 12, (3, 50, 70), generator=generator)
    prediction = torch.where(torch.rand(label.shape, generator=generator) < 0.4, label.roll(1), label)
    label[:, 20:25] = 255
    prediction[prediction == 11] = label[label == 11] = 0  # class 11 occurs nowhere
    label[label == 10] = 3  # class 10 is predicted only
    confusion = ConfusionMatrix(12)
    confusion.update(prediction, label)
    scores = confusion.scores()
    reference = MulticlassJaccardIndex(12, average="none", ignore_index=255)
    reference.update(prediction, label)
    ious = reference.compute().double().numpy()
    assert math.isnan(scores.iou[11]) and scores.iou[10] == 0
    np.testing.assert_allclose(scores.iou[:11], ious[:11], rtol=1e-6)  # torchmetrics divides in float32
    exact = reference.confmat.double().numpy()
    exact = exact.diagonal() / np.maximum(exact.sum(0) + exact.sum(1) - exact.diagonal(), 1)
    np.testing.assert_allclose(scores.iou[:11], exact[:11], rtol=1e-9)
    assert scores.miou == pytest.approx(exact[:11].mean(), rel=1e-9)


def test_a_perfect_prediction_scores_one():
    scores = Scores.of(np.diag([5, 0, 7]))
    assert (scores.miou, scores.pixel_accuracy, scores.mean_accuracy, scores.frequency_weighted_iou) == (1, 1, 1, 1)


def test_scores_survive_json_with_null_for_what_was_not_counted():
    scores = json.loads(json.dumps(Scores.of(MATRIX).as_dict(), allow_nan=False))
    assert scores["miou"] == pytest.approx(sum(IOU) / 3)
    assert scores["iou"][:3] == pytest.approx(IOU) and scores["iou"][3] is None
    empty = Scores.of(np.zeros((2, 2), np.int64)).as_dict()
    assert empty == {
        "miou": None,
        "pixel_accuracy": None,
        "mean_accuracy": None,
        "frequency_weighted_iou": None,
        "iou": [None, None],
        "accuracy": [None, None],
    }


def test_the_table_has_an_aligned_line_for_each_class_and_mean():
    table = Scores.of(MATRIX).table(["road", "traffic light", "bus", "train"])
    lines = table.splitlines()
    assert len({len(line) for line in lines[:7]}) == 1 and len({len(line) for line in lines[7:]}) == 1
    assert lines[0].split() == ["class", "IoU", "%", "accuracy", "%"]
    classes = {name: values for name, *values in (line.rsplit(maxsplit=2) for line in lines[2:6])}
    assert classes["road"] == ["60.00", "75.00"] and classes["traffic light"] == ["44.44", "50.00"]
    assert classes["bus"] == ["0.00", "-"] and classes["train"] == ["-", "-"]
    means = dict(line.rsplit(maxsplit=1) for line in lines[7:])
    assert means["mean IoU"] == "34.81" and means["pixel accuracy"] == "62.50"


def test_the_csv_has_a_line_for_each_class():
    rows = list(csv.reader(Scores.of(MATRIX).csv(["road", "light, red", "bus", "train"]).splitlines()))
    assert rows[0] == ["class", "iou", "accuracy"]
    assert [row[0] for row in rows[1:]] == ["road", "light, red", "bus", "train"]
    assert [float(row[1]) for row in rows[1:4]] == pytest.approx(IOU)
    assert float(rows[1][2]) == pytest.approx(0.75) and rows[3][2] == "" and rows[4][1:] == ["", ""]
