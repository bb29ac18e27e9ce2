"""Preprocessing: pairs, checks, repeating, interruption. Commands run as a user runs them."""

import os
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from raw_layouts import FRAME, contents, make_camvid, make_cityscapes, preprocess, start, write_pair

from datasets.seg.preprocess import camvid, runner

CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid"


def test_cityscapes_goes_to_the_prepared_layout_and_test_has_no_labels(tmp_path):
    raw, dst = make_cityscapes(tmp_path / "raw data"), tmp_path / "prepared data"
    before = contents(raw)
    status, out, err = preprocess("cityscapes", raw, dst)
    assert (status, err) == (0, [])
    prepared = contents(dst)
    assert len(prepared) == 9
    image, label = (f"train/{kind}/{FRAME}_leftImg8bit.png" for kind in ("image", "label"))
    assert prepared[image] == before[f"leftImg8bit/train/aachen/{FRAME}_leftImg8bit.png"]
    assert prepared[label] == before[f"gtFine/train/aachen/{FRAME}_gtFine_labelIds.png"]
    assert "test/image/berlin_000000_000019_leftImg8bit.png" in prepared
    assert not (dst / "test" / "label").exists()
    last = out.splitlines()[-1]
    assert "train 3 images, 3 labels; val 1 images, 1 labels; test 1 images, 0 labels" in last and str(dst) in last


def test_camvid_takes_png_and_jpg_images_and_labels_for_all_splits(tmp_path):
    raw, dst = make_camvid(tmp_path / "raw"), tmp_path / "dst"
    (raw / "train" / "._train_0000.png").write_bytes(b"left by another system")
    status, out, _ = preprocess("camvid", raw, dst)
    assert status == 0
    assert sorted(path.name for path in (dst / "val/image").iterdir()) == [
        "val_0000.png",
        "val_0001.jpg",
        "val_0002.png",
    ]
    assert {path.suffix for path in dst.glob("*/label/*")} == {".png"}
    assert "test 3 images, 3 labels" in out


@pytest.mark.parametrize("options", [(), ("--link",)])
def test_the_source_is_never_touched(tmp_path, options):
    raw = make_camvid(tmp_path / "raw")
    before = contents(raw)
    for _ in range(2):
        assert preprocess("camvid", raw, tmp_path / "dst", *options)[0] == 0
    assert contents(raw) == before


def test_a_copy_is_a_file_of_its_own_and_a_link_is_not(tmp_path):
    raw = make_camvid(tmp_path / "raw", count=1)
    source, target = raw / "train" / "train_0000.png", tmp_path / "dst" / "train" / "image" / "train_0000.png"
    for options, same in (((), False), (("--link",), True), ((), False)):
        assert preprocess("camvid", raw, tmp_path / "dst", *options)[0] == 0
        assert os.path.samefile(source, target) == same
    assert not list(tmp_path.rglob("*.part"))


def test_linking_to_another_file_system_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    raw = make_camvid(tmp_path / "raw", count=1)
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(sys, "argv", ["camvid", "--src", str(raw), "--dst", str(tmp_path / "dst"), "--link"])
    assert runner.main("camvid", camvid.find_pairs, camvid.LAYOUT) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and "different file systems" in err[0] and "without --link" in err[0]


def test_a_full_disk_ends_in_one_line_and_leaves_no_half_file(tmp_path, monkeypatch, capsys):
    def fail(handle):
        raise OSError(28, "No space left on device")

    raw = make_camvid(tmp_path / "raw", count=1)
    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(sys, "argv", ["camvid", "--src", str(raw), "--dst", str(tmp_path / "dst")])
    assert runner.main("camvid", camvid.find_pairs, camvid.LAYOUT) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and "No space left" in err[0] and str(tmp_path / "dst") in err[0]
    assert contents(tmp_path / "dst") == {}


def spoil(path: Path, how: str) -> None:
    """Damage a raw file of ``make_cityscapes`` in one way."""
    if how == "removed":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif how == "without end":
        path.write_bytes(path.read_bytes()[:-12])
    elif how == "text":
        path.write_text("not an image")
    elif how == "larger":
        cv2.imwrite(str(path), np.zeros((9, 12), np.uint8))
    elif how == "id 34":
        cv2.imwrite(str(path), np.full((8, 12), 34, np.uint8))
    elif how == "colours":
        cv2.imwrite(str(path), np.zeros((8, 12, 3), np.uint8))
    elif how == "16 bit":
        cv2.imwrite(str(path), np.zeros((8, 12), np.uint16))
    elif how == "palette":
        Image.fromarray(np.zeros((8, 12), np.uint8)).convert("P").save(path)


@pytest.mark.parametrize(
    "kind, how, message",
    [
        ("label", "removed", "no label for"),
        ("image", "removed", "no image for"),
        ("image", "cut", "cannot read image"),
        ("image", "without end", "cannot read image"),
        ("image", "text", "cannot read image"),
        ("label", "cut", "cannot read label"),
        ("label", "larger", "is 12 x 8 but label"),
        ("label", "id 34", "label 34 in"),
        ("label", "colours", "single-channel 8-bit"),
        ("label", "16 bit", "single-channel 8-bit"),
        ("label", "palette", "single-channel 8-bit"),
    ],
)
def test_a_bad_pair_is_named_and_left_out_and_the_others_are_written(tmp_path, kind, how, message):
    raw, dst = make_cityscapes(tmp_path / "raw"), tmp_path / "dst"
    paths = {
        "image": raw / "leftImg8bit" / "train" / "aachen" / f"{FRAME}_leftImg8bit.png",
        "label": raw / "gtFine" / "train" / "aachen" / f"{FRAME}_gtFine_labelIds.png",
    }
    spoil(paths[kind], how)
    status, out, err = preprocess("cityscapes", raw, dst)
    assert status == 1
    assert len(err) == 1 and message in err[0] and str(paths[kind]) in err[0]
    assert not list(dst.rglob(f"{FRAME}*"))
    assert "train 2 images, 2 labels; val 1 images, 1 labels; test 1 images, 0 labels" in out.splitlines()[-1]


def test_all_problems_are_reported_at_once(tmp_path):
    raw = make_cityscapes(tmp_path / "raw")
    labels = sorted((raw / "gtFine" / "train").rglob("*labelIds.png"))
    for path, how in zip(labels, ("removed", "id 34", "cut"), strict=True):
        spoil(path, how)
    status, _, err = preprocess("cityscapes", raw, tmp_path / "dst")
    assert status == 1 and len(err) == 3
    assert all(any(str(path) in line for line in err) for path in labels)


def test_an_unreadable_test_image_is_reported_though_it_has_no_label(tmp_path):
    raw = make_cityscapes(tmp_path / "raw")
    image = next((raw / "leftImg8bit" / "test").rglob("*.png"))
    spoil(image, "cut")
    status, _, err = preprocess("cityscapes", raw, tmp_path / "dst")
    assert status == 1 and len(err) == 1 and str(image) in err[0]


def test_a_truncated_jpeg_and_two_images_of_one_name_are_reported(tmp_path):
    raw = make_camvid(tmp_path / "raw")
    spoil(raw / "train" / "train_0001.jpg", "cut")
    write_pair(raw / "val" / "val_0000.jpg", None)
    status, _, err = preprocess("camvid", raw, tmp_path / "dst")
    assert status == 1 and len(err) == 2
    assert any("train_0001.jpg" in line for line in err)
    assert any("val_0000.jpg" in line and "val_0000.png" in line for line in err)


def test_repeating_writes_only_what_changed(tmp_path):
    raw, dst = make_camvid(tmp_path / "raw"), tmp_path / "dst"
    assert "9 pairs written, 0 already there" in preprocess("camvid", raw, dst)[1]
    before = {path: path.stat().st_ctime_ns for path in dst.rglob("*.*")}
    write_pair(raw / "train" / "train_0000.png", None, size=(12, 8))
    os.utime(raw / "train" / "train_0000.png", (1, 1))
    (dst / "val" / "label" / "val_0001.png").unlink()
    assert "2 pairs written, 7 already there" in preprocess("camvid", raw, dst)[1]
    after = {path: path.stat().st_ctime_ns for path in dst.rglob("*.*")}
    assert before.keys() == after.keys()
    assert sum(before[path] == after[path] for path in before) == 14


def test_files_of_no_raw_pair_are_warned_about_and_kept(tmp_path):
    raw, dst = make_camvid(tmp_path / "raw"), tmp_path / "dst"
    preprocess("camvid", raw, dst)
    stray = dst / "train" / "image" / "stray.png"
    stray.write_bytes(b"somebody's")
    status, _, err = preprocess("camvid", raw, dst)
    assert status == 0 and stray.exists()
    assert len(err) == 1 and err[0].startswith("warning") and str(stray) in err[0]


@pytest.mark.parametrize("ending, status", [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_run_that_is_ended_anywhere_can_be_repeated(tmp_path, ending, status):
    raw = tmp_path / "raw"
    for index in range(80):
        write_pair(raw / "train" / f"{index:03d}.png", raw / "trainannot" / f"{index:03d}.png", size=(500, 400))
    dst = tmp_path / "dst"
    process = start("camvid", raw, dst, "--workers", "1")
    while process.poll() is None and len(list(dst.glob("train/image/*.png"))) < 5:
        time.sleep(0.002)
    process.send_signal(ending)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert 5 <= len(list(dst.glob("train/image/*.png"))) < 80
    if ending == signal.SIGINT:
        assert len(err.splitlines()) == 1 and not list(dst.rglob("*.part"))
    for image in dst.glob("train/image/*.png"):
        assert image.read_bytes() == (raw / "train" / image.name).read_bytes()
        assert (dst / "train" / "label" / image.name).exists(), "an image appears only after its label"
    (dst / "train" / "image" / ".000.png.abc.part").write_bytes(b"half a file")
    code, out, err = preprocess("camvid", raw, dst)
    assert (code, err) == (0, []) and "train 80 images, 80 labels" in out and " 0 already there" not in out
    for kind, folder in (("image", "train"), ("label", "trainannot")):
        assert contents(dst / "train" / kind) == contents(raw / folder)


@pytest.mark.parametrize(
    "src, dst, words",
    [
        ("missing", "dst", "is not a folder"),
        ("file", "dst", "is not a folder"),
        ("empty", "dst", "nothing to prepare"),
        ("raw", "raw", "outside"),
        ("raw", "raw/prepared", "outside"),
        ("raw", "link", "outside"),
        ("raw", "file", "cannot write"),
        ("raw", "file/dst", "cannot write"),
    ],
)
def test_a_wrong_folder_is_answered_in_one_line(tmp_path, src, dst, words):
    raw = make_camvid(tmp_path / "raw", count=1)
    (tmp_path / "file").write_text("a file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(raw)
    before = contents(raw)
    status, out, err = preprocess("camvid", tmp_path / src, tmp_path / dst)
    assert (status, out) == (2, "")
    assert len(err) == 1 and words in err[0] and str(tmp_path) in err[0]
    assert contents(raw) == before


def test_nothing_found_names_the_expected_layout(tmp_path):
    (tmp_path / "raw" / "images").mkdir(parents=True)
    status, _, err = preprocess("cityscapes", tmp_path / "raw", tmp_path / "dst")
    assert status == 2 and "leftImg8bit/{train,val,test}/<city>" in err[0] and "gtFine" in err[0]


@pytest.mark.skipif(not CAMVID.is_dir(), reason="the CamVid images are not beside the repository")
def test_the_real_camvid_is_prepared_whole(tmp_path):
    status, out, err = preprocess("camvid", CAMVID, tmp_path)
    assert (status, err) == (0, [])
    counts = "train 367 images, 367 labels; val 101 images, 101 labels; test 233 images, 233 labels"
    assert counts in out.splitlines()[-1]
