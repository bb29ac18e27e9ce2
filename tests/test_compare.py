"""The comparison sheet shows image, prediction and label of each picture, and the classes' colours."""

import shutil
import sys

import cv2
import numpy as np
import pytest

import main
from datasets.seg.classes import load_table
from datasets.seg.dataset import list_samples
from datasets.seg.files import read_image


@pytest.fixture
def sheet(monkeypatch, data_root, tmp_path):
    """Runs the command on the labels of ``val`` as if they were predictions, and reads the sheet as RGB."""

    def call(predictions, count=2):
        words = ["--data", data_root / "val", "--prediction", predictions, "--dataset", "cityscapes", "--count", count]
        monkeypatch.setattr(sys, "argv", ["main.py", "sheet", *map(str, words), "--out", str(tmp_path / "sheet.png")])
        status = main.main()
        if status:
            sys.exit(status)
        return cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1]

    return call


def test_rows_hold_the_image_and_the_overlays(sheet, data_root):
    picture = sheet(data_root / "val" / "label")
    first = read_image(list_samples(data_root, "val")[0].image)[..., ::-1]
    height, width = first.shape[:2]
    assert np.array_equal(picture[:height, :width], first)
    prediction, label = picture[:height, width + 8 : 2 * width + 8], picture[:height, 2 * width + 16 :]
    assert np.array_equal(prediction, label) and not np.array_equal(prediction, first)
    road = load_table("cityscapes").palette[0]
    assert (picture[2 * (height + 8) :] == road).all(axis=-1).any(), "the legend lacks the road's colour"


def test_only_pictures_with_a_prediction_are_shown(sheet, data_root, tmp_path):
    shutil.copy(min((data_root / "val" / "label").iterdir()), tmp_path)
    both = sheet(data_root / "val" / "label", count=2)
    assert len(sheet(tmp_path, count=2)) < len(both)


def test_a_folder_without_predictions_is_one_line(sheet, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        sheet(tmp_path)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} holds no prediction")
