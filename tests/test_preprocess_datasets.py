"""Preprocessing of each dataset from a raw layout written by the official libraries: every pixel comes out."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_layouts import (
    CONTEXT_CATEGORIES,
    change_json,
    contents,
    make_cityscapes,
    make_context_json,
    make_context_mat,
    make_sbd,
    make_voc,
    preprocess,
    segment,
    write_pair,
    write_sbd,
)

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "ade20k_sample"


def labels_in(folder: Path) -> dict[str, np.ndarray]:
    """The prepared labels by name; fails if one is not a single-channel 8-bit PNG."""
    labels = {}
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("PNG", "L")
            labels[path.stem] = np.asarray(image)
    return labels


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def select(labels: dict[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    return {name: labels[name] for name in names}


# Cityscapes


def test_coarse_cityscapes_trains_on_train_extra_and_validates_on_fine_labels(tmp_path):
    raw, dst = make_cityscapes(tmp_path / "raw"), tmp_path / "dst"
    stem = "augsburg_000000_000001"
    label = raw / "gtCoarse/train_extra/augsburg" / f"{stem}_gtCoarse_labelIds.png"
    write_pair(raw / "leftImg8bit/train_extra/augsburg" / f"{stem}_leftImg8bit.png", label, top_id=33)
    write_pair(raw / "gtCoarse/val/frankfurt/frankfurt_000000_000294_gtCoarse_labelIds.png", None)
    status, out, err = preprocess("cityscapes", raw, dst, "--annotations", "coarse")
    assert (status, err) == (0, [])
    assert "train 1 images, 1 labels; val 1 images, 1 labels; test 1 images, 0 labels" in out
    assert (dst / "train/label" / f"{stem}_leftImg8bit.png").read_bytes() == label.read_bytes()
    fine = raw / "gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png"
    assert (dst / "val/label/frankfurt_000000_000294_leftImg8bit.png").read_bytes() == fine.read_bytes()


# ADE20K


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the ADE20K images are not beside the repository")
def test_real_ade20k_pairs_and_unlabelled_test_images_are_prepared(tmp_path):
    raw, dst = tmp_path / "raw", tmp_path / "dst"
    for kind in ("images", "annotations"):
        (raw / kind).mkdir(parents=True)
        (raw / kind / "validation").symlink_to(SAMPLE / kind / "validation")
    write_pair(raw / "images/training/ADE_train_1.jpg", raw / "annotations/training/ADE_train_1.png", top_id=95)
    write_pair(raw / "images/testing/ADE_test_1.jpg", None)
    status, out, err = preprocess("ade20k", raw, dst)
    assert (status, err) == (0, [])
    assert "train 1 images, 1 labels; val 3 images, 3 labels; test 1 images, 0 labels" in out
    for kind, source in (("image", "images"), ("label", "annotations")):
        assert contents(dst / "val" / kind) == contents(SAMPLE / source / "validation")


def test_ade20k_knows_ids_up_to_150(tmp_path):
    raw = tmp_path / "raw"
    for name, top in (("good", 150), ("bad", 151)):
        image, label = raw / "images/training" / f"{name}.jpg", raw / "annotations/training" / f"{name}.png"
        write_pair(image, label, size=(20, 10), top_id=top)
    status, _, err = preprocess("ade20k", raw, tmp_path / "dst")
    assert status == 1 and len(err) == 1
    assert "label 151 in" in err[0] and "bad.png is not a ade20k label id (0..150)" in err[0]


# PASCAL VOC


def test_voc_palettes_become_indices_void_included(tmp_path):
    raw, dst = tmp_path / "raw", tmp_path / "dst"
    labels = make_voc(raw)
    assert 255 in labels["a"]
    status, out, err = preprocess("pascal_voc", raw, dst)
    assert (status, err) == (0, [])
    assert "train 3 images, 3 labels; val 1 images, 1 labels; test 1 images, 0 labels" in out
    assert_same(labels_in(dst / "train/label"), select(labels, "a", "b", "c"))
    assert_same(labels_in(dst / "val/label"), select(labels, "v"))
    assert (dst / "train/image/a.jpg").read_bytes() == (raw / "JPEGImages/a.jpg").read_bytes()


def test_a_small_palette_with_less_than_a_byte_a_pixel_is_read(tmp_path):
    raw, dst = tmp_path / "raw", tmp_path / "dst"
    labels = make_voc(raw)
    labels["a"] = np.resize(np.array([0, 1, 2], np.uint8), (8, 12))
    image = Image.fromarray(labels["a"], "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    path = raw / "SegmentationClass/a.png"
    image.save(path, bits=2)
    assert path.read_bytes()[24] == 2
    assert preprocess("pascal_voc", raw, dst)[0] == 0
    np.testing.assert_array_equal(labels_in(dst / "train/label")["a"], labels["a"])


@pytest.mark.parametrize("sbd", ["sbd", "sbd/dataset"])
def test_sbd_augments_train_without_images_of_val_and_vocs_own_labels_win(tmp_path, sbd):
    raw, dst = tmp_path / "raw", tmp_path / "dst"
    voc, boundaries = make_voc(raw), make_sbd(tmp_path / "sbd")
    write_pair(raw / "JPEGImages/s.jpg", None)
    status, out, err = preprocess("pascal_voc", raw, dst, "--sbd", str(tmp_path / sbd))
    assert (status, err) == (0, [])
    assert "train 5 images, 5 labels; val 1 images, 1 labels" in out
    expected = select(voc, "a", "b", "c") | select(boundaries, "s", "only_sbd")
    assert_same(labels_in(dst / "train/label"), expected)
    assert_same(labels_in(dst / "val/label"), select(voc, "v"))
    for name, source in (("s", raw / "JPEGImages"), ("only_sbd", tmp_path / "sbd/dataset/img")):
        assert (dst / "train/image" / f"{name}.jpg").read_bytes() == (source / f"{name}.jpg").read_bytes()


# PASCAL Context


@pytest.mark.parametrize("make", [make_context_json, make_context_mat])
def test_context_labels_of_either_release_are_the_59_classes_and_background(tmp_path, make):
    raw, dst = tmp_path / "raw", tmp_path / "dst"
    labels = make(raw)
    status, out, err = preprocess("pascal_context", raw, dst)
    assert (status, err) == (0, [])
    tests = 1 if make is make_context_json else 0
    assert f"train 2 images, 2 labels; val 1 images, 1 labels; test {tests} images, 0 labels" in out
    assert_same(labels_in(dst / "train/label") | labels_in(dst / "val/label"), labels)


def test_later_segments_lie_over_earlier_ones(tmp_path):
    raw, dst = tmp_path / "raw", tmp_path / "dst"
    labels = make_context_json(raw)
    whole, left = np.ones((12, 16), bool), np.arange(16) < np.full((12, 1), 5)
    food, wood = CONTEXT_CATEGORIES[27][0], CONTEXT_CATEGORIES[58][0]
    over = [segment(2008000002, food, whole), segment(2008000002, wood, left)]
    change_json(raw, lambda detail: detail["annos_segmentation"].extend(over))
    assert preprocess("pascal_context", raw, dst)[0] == 0
    found = labels_in(dst / "train/label")
    np.testing.assert_array_equal(found["2008_000002"], np.where(left, 59, 28))
    np.testing.assert_array_equal(found["2008_000003"], labels["2008_000003"])


def test_the_release_to_read_can_be_chosen_where_both_are_there(tmp_path):
    raw = tmp_path / "raw"
    make_context_mat(raw)
    make_context_json(raw)
    for labels, tests in (((), 1), (("--labels", "mat"), 0), (("--labels", "json"), 1)):
        status, out, _ = preprocess("pascal_context", raw, tmp_path / "-".join(("dst", *labels)), *labels)
        assert status == 0 and f"test {tests} images" in out


# What all of them share, with labels that are converted


def test_repeating_converts_only_what_changed(tmp_path):
    raw, dst = tmp_path / "raw", tmp_path / "dst"
    make_voc(raw)
    make_sbd(tmp_path / "sbd")
    command = ("pascal_voc", raw, dst, "--sbd", str(tmp_path / "sbd"))
    assert "7 pairs written, 0 already there" in preprocess(*command)[1]
    assert "0 pairs written, 7 already there" in preprocess(*command)[1]
    label = np.full((8, 12), 20, np.uint8)
    write_sbd(tmp_path / "sbd/dataset/cls/s.mat", label)
    assert "1 pairs written, 6 already there" in preprocess(*command)[1]
    np.testing.assert_array_equal(labels_in(dst / "train/label")["s"], label)


def test_links_are_for_images_alone_where_labels_are_converted(tmp_path):
    raw, dst = tmp_path / "raw", tmp_path / "dst"
    labels = make_voc(raw)
    before = contents(raw)
    for written in (4 + 1, 0):
        assert f"{written} pairs written" in preprocess("pascal_voc", raw, dst, "--link")[1]
    assert os.path.samefile(raw / "JPEGImages/a.jpg", dst / "train/image/a.jpg")
    assert not os.path.samefile(raw / "SegmentationClass/a.png", dst / "train/label/a.png")
    np.testing.assert_array_equal(labels_in(dst / "train/label")["a"], labels["a"])
    assert contents(raw) == before


def test_nothing_is_written_into_the_second_raw_folder(tmp_path):
    make_voc(tmp_path / "raw")
    make_sbd(tmp_path / "sbd")
    before = contents(tmp_path / "sbd")
    status, out, err = preprocess(
        "pascal_voc", tmp_path / "raw", tmp_path / "sbd" / "x", "--sbd", str(tmp_path / "sbd")
    )
    assert (status, out, len(err)) == (2, "", 1) and "outside" in err[0]
    assert contents(tmp_path / "sbd") == before
