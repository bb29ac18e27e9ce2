"""Pictures show each class in its colour, leave ignored pixels alone, and reach the disk whole."""

import cv2
import numpy as np
import pytest
import torch

from lib.vis.confusion import confusion_picture
from lib.vis.errors import error_map, error_sheet
from lib.vis.overlay import colourise, denormalise, legend, overlay, panel, write_picture

PALETTE = np.array([[128, 64, 128], [244, 35, 232], [0, 0, 142]], np.uint8)
TRAIN_IDS = np.array([[0, 1], [2, 255]], np.uint8)
IMAGE = np.array([[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [100, 110, 120]]], np.uint8)


def test_classes_have_their_colours_and_ignored_pixels_are_black():
    expected = [[[128, 64, 128], [244, 35, 232]], [[0, 0, 142], [0, 0, 0]]]
    np.testing.assert_array_equal(colourise(TRAIN_IDS, PALETTE), expected)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_an_overlay_mixes_colour_and_image_but_leaves_ignored_pixels(alpha):
    mixed = overlay(IMAGE, TRAIN_IDS, PALETTE, alpha)
    expected = alpha * colourise(TRAIN_IDS, PALETTE).astype(float) + (1 - alpha) * IMAGE
    expected[1, 1] = IMAGE[1, 1]
    assert mixed.dtype == np.uint8
    np.testing.assert_allclose(mixed, expected, atol=0.5)


def test_a_panel_shows_image_prediction_and_label_apart():
    prediction = np.array([[1, 1], [2, 2]], np.uint8)
    picture = panel(IMAGE, prediction, TRAIN_IDS, PALETTE, gap=3)
    assert picture.shape == (2, 3 * 2 + 2 * 3, 3)
    np.testing.assert_array_equal(picture[:, :2], IMAGE)
    np.testing.assert_array_equal(picture[:, 5:7], overlay(IMAGE, prediction, PALETTE))
    np.testing.assert_array_equal(picture[:, 10:], overlay(IMAGE, TRAIN_IDS, PALETTE))
    assert (picture[:, 2:5] == 255).all() and (picture[:, 7:10] == 255).all()


def test_a_panel_without_label_ends_with_the_prediction():
    np.testing.assert_array_equal(
        panel(IMAGE, TRAIN_IDS, None, PALETTE), panel(IMAGE, TRAIN_IDS, TRAIN_IDS, PALETTE)[:, : 2 * 2 + 8]
    )


def test_a_legend_shows_the_present_classes_and_wraps():
    names = ["road", "sidewalk", "car"]
    wide = legend(names, PALETTE, present=[2, 0], width=400)
    colours = {tuple(colour) for colour in wide.reshape(-1, 3).tolist()}
    assert {(128, 64, 128), (0, 0, 142)} <= colours and (244, 35, 232) not in colours
    narrow = legend(names, PALETTE, present=[2, 0], width=90)
    assert narrow.shape[1] == 90 and len(narrow) == 2 * len(wide)


@pytest.mark.parametrize("color_order", ["bgr", "rgb"])
def test_denormalising_undoes_the_normalisation(color_order):
    mean, std = (102.9801, 115.9465, 122.7717), (1.0, 57.0, 2.5)
    channels = IMAGE[..., ::-1] if color_order == "bgr" else IMAGE
    network_input = torch.tensor((channels - np.array(mean)) / np.array(std)).permute(2, 0, 1).float()
    np.testing.assert_array_equal(denormalise(network_input, mean, std, color_order), IMAGE)


def test_denormalising_saturates_instead_of_wrapping_round():
    network_input = torch.tensor([-1.0, 0.0, 300.0])[:, None, None]
    np.testing.assert_array_equal(denormalise(network_input, (0, 0, 0), (1, 1, 1), "rgb"), [[[0, 0, 255]]])


def test_pictures_are_written_in_rgb_order_and_labels_as_they_are(tmp_path):
    write_picture(tmp_path / "picture.png", IMAGE)
    write_picture(tmp_path / "label.png", TRAIN_IDS)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "picture.png"))[..., ::-1], IMAGE)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "label.png"), cv2.IMREAD_UNCHANGED), TRAIN_IDS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["label.png", "picture.png"]


def test_a_jpeg_of_lower_quality_is_smaller(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    write_picture(tmp_path / "high.jpg", noise)
    write_picture(tmp_path / "low.jpg", noise, quality=30)
    assert cv2.imread(str(tmp_path / "low.jpg")).shape == noise.shape
    assert (tmp_path / "low.jpg").stat().st_size < (tmp_path / "high.jpg").stat().st_size


def test_an_error_map_shows_wrong_pixels_in_red_and_ignored_ones_in_black():
    picture = error_map(IMAGE, np.array([[0, 2], [2, 1]], np.uint8), TRAIN_IDS, num_classes=3)
    assert picture[0, 1].tolist() == [255, 0, 0]  # wrong
    assert picture[1, 1].tolist() == [0, 0, 0]  # ignored, whatever is predicted
    for right in (picture[0, 0], picture[1, 0]):
        assert right[0] == right[1] == right[2] and 0 < right[0] < 60


def test_an_error_sheet_shows_image_label_prediction_and_errors_above_the_legend():
    image = np.full((20, 60, 3), 90, np.uint8)
    label, prediction = np.zeros((20, 60), np.uint8), np.ones((20, 60), np.uint8)
    sheet = error_sheet(image, prediction, label, PALETTE, ["road", "sidewalk", "car"])
    panels = [sheet[:20, left : left + 60] for left in range(0, 4 * 68, 68)]
    expected = [image, overlay(image, label, PALETTE), overlay(image, prediction, PALETTE)]
    for panel_shown, picture in zip(panels, [*expected, error_map(image, prediction, label, 3)], strict=True):
        np.testing.assert_array_equal(panel_shown, picture)
    below = {tuple(colour) for colour in sheet[28:].reshape(-1, 3).tolist()}
    assert {(128, 64, 128), (244, 35, 232)} <= below and (0, 0, 142) not in below


@pytest.mark.parametrize("classes, cell", [(19, 34), (150, 16)])
def test_a_confusion_picture_is_the_darker_the_larger_the_share_of_the_row(classes, cell):
    matrix = np.zeros((classes, classes), np.int64)
    matrix[0, :3] = 700, 200, 100
    matrix[1, 1] = 5  # few pixels, all of them right: as dark as can be
    matrix[3, 4] = 1
    picture = confusion_picture(matrix, [f"class {index}" for index in range(classes)])
    assert picture.dtype == np.uint8 and picture.shape[0] == picture.shape[1]
    cells = picture[-classes * cell :, -classes * cell :]
    # the upper left corner inside the grid, where no number reaches
    shade = cells[2::cell, 2::cell].astype(int).sum(axis=2)
    assert shade[1, 1] < shade[0, 0] < shade[0, 1] < shade[0, 2] < shade[0, 3]
    assert shade[1, 1] == shade[3, 4] and shade[0, 3] == 3 * 255
    assert len({tuple(colour) for colour in cells[2 * cell + 1 : 3 * cell].reshape(-1, 3).tolist()}) == 1  # grey


def test_the_names_of_a_confusion_picture_stand_beside_their_rows_and_above_their_columns():
    names = ["a", *[""] * 4, "a long name"]
    picture = confusion_picture(np.eye(6, dtype=np.int64), names)
    margin = len(picture) - 6 * 34
    beside, above = picture[margin:, :margin], picture[:margin, margin:]
    ink = [(255 - beside[row * 34 : (row + 1) * 34].astype(int)).sum() for row in range(6)]
    assert ink[5] > ink[0] > 0 and not any(ink[1:5])
    ink = [(255 - above[:, column * 34 : (column + 1) * 34].astype(int)).sum() for column in range(6)]
    assert ink[5] > ink[0] > 0 and not any(ink[1:5])


def test_the_names_of_a_confusion_picture_are_never_read_as_formulas():
    assert confusion_picture(np.eye(2, dtype=np.int64), [r"$\frac$", "a_b"]).ndim == 3
