"""What is wrong with a raw download of labels that need converting is said in one line."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from raw_layouts import (
    change_json,
    make_context_json,
    make_context_mat,
    make_sbd,
    make_voc,
    preprocess,
    segment,
    write_lists,
    write_pair,
    write_sbd,
)
from scipy.io import savemat


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def set_segment(raw: Path, **values: object) -> None:
    """Change the first annotation of PASCAL in Detail, or its mask."""

    def change(detail: dict) -> None:
        annotation = detail["annos_segmentation"][0]
        for key, value in values.items():
            (annotation if key in annotation else annotation["segmentation"])[key] = value

    change_json(raw, change)


def shorten_runs(raw: Path) -> None:
    """Leave out the last run of a mask that begins and ends with zeros."""
    runs = segment(0, 0, np.arange(192).reshape(12, 16) == 17)["segmentation"]["counts"]
    set_segment(raw, counts=runs[:-2])


def lengthen_runs(raw: Path) -> None:
    """Give a mask the runs of one that is a row higher."""
    set_segment(raw, counts=segment(0, 0, np.ones((13, 16)))["segmentation"]["counts"])


def drop_annotations(raw: Path) -> None:
    change_json(raw, lambda detail: detail.update(annos_segmentation=detail["annos_segmentation"][59:]))


FIRST = "JPEGImages/2008_000002.jpg"
PROBLEMS = {
    "voc, no label": ("pascal_voc", lambda raw: (raw / "SegmentationClass/a.png").unlink(), "no label for .*a.jpg"),
    "voc, no image": ("pascal_voc", lambda raw: (raw / "JPEGImages/a.jpg").unlink(), "no image for .*Class/a.png"),
    "voc, cut label": ("pascal_voc", lambda raw: cut(raw / "SegmentationClass/a.png"), "cannot read label .*a.png"),
    "voc, cut image": ("pascal_voc", lambda raw: cut(raw / "JPEGImages/a.jpg"), "cannot read image .*a.jpg"),
    "voc, colours": (
        "pascal_voc",
        lambda raw: cv2.imwrite(str(raw / "SegmentationClass/a.png"), np.zeros((8, 12, 3), np.uint8)),
        "Class/a.png: not a palette PNG: label ids are expected",
    ),
    "voc, id 21": (
        "pascal_voc",
        lambda raw: cv2.imwrite(str(raw / "SegmentationClass/a.png"), np.full((8, 12), 21, np.uint8)),
        r"label 21 in .*a.png is not a pascal_voc label id \(0..20, 255\)",
    ),
    "voc, size": (
        "pascal_voc",
        lambda raw: cv2.imwrite(str(raw / "SegmentationClass/a.png"), np.zeros((9, 12), np.uint8)),
        "a.jpg is 12 x 8 but label .*a.png is 12 x 9",
    ),
    "sbd, no label": ("sbd", lambda raw: (raw / "cls/s.mat").unlink(), "no label for .*s.jpg: expected .*cls/s.mat"),
    "sbd, cut label": ("sbd", lambda raw: cut(raw / "cls/s.mat"), "s.mat: not a MATLAB file that holds GTcls.Seg"),
    "sbd, text": ("sbd", lambda raw: (raw / "cls/s.mat").write_text("text"), "s.mat: not a MATLAB file that holds"),
    "sbd, other variable": (
        "sbd",
        lambda raw: savemat(raw / "cls/s.mat", {"GTcls": np.zeros((8, 12), np.uint8)}),
        "s.mat: not a MATLAB file that holds GTcls.Segmentation",
    ),
    "sbd, id 21": (
        "sbd",
        lambda raw: write_sbd(raw / "cls/s.mat", np.full((8, 12), 21, np.uint8)),
        "label 21 in .*s.mat is not a pascal_voc label id",
    ),
    "sbd, id 300": (
        "sbd",
        lambda raw: write_sbd(raw / "cls/s.mat", np.full((8, 12), 300, np.uint16)),
        "s.mat: its label ids reach from 300 to 300",
    ),
    "sbd, fractions": (
        "sbd",
        lambda raw: write_sbd(raw / "cls/s.mat", np.full((8, 12), 0.5)),
        "s.mat: GTcls.Segmentation is not a matrix of label ids",
    ),
    "json, no image": ("json", lambda raw: (raw / FIRST).unlink(), "no image for .*json: expected .*2008_000002.jpg"),
    "json, category": (
        "json",
        lambda raw: set_segment(raw, category_id=3),
        "json: category 3 in 2008_000002.jpg is not",
    ),
    "json, no segments": ("json", drop_annotations, "json: it has no annotations for 2008_000002.jpg"),
    "json, mask size": ("json", lambda raw: set_segment(raw, size=[16, 12]), r"2008_000002.jpg has .* \[16, 12\]"),
    "json, too few runs": ("json", shorten_runs, "json: a segment in 2008_000002.jpg has runs that do not fill"),
    "json, too many runs": (
        "json",
        lengthen_runs,
        "json: a segment in 2008_000002.jpg has runs that do not fill",
    ),
    "json, no runs": (
        "json",
        lambda raw: set_segment(raw, counts=""),
        "json: a segment in 2008_000002.jpg has runs",
    ),
    "json, runs as numbers": ("json", lambda raw: set_segment(raw, counts=[5, 5]), "2008_000002.jpg is not in COCO's"),
    "json, image size": (
        "json",
        lambda raw: write_pair(raw / FIRST, None, size=(15, 12)),
        "2008_000002.jpg is 15 x 12 but label .*json is 16 x 12",
    ),
    "mat, no label": ("mat", lambda raw: (raw / "trainval/2008_000002.mat").unlink(), "no label for .*000002.jpg"),
    "mat, cut label": ("mat", lambda raw: cut(raw / "trainval/2008_000002.mat"), "000002.mat: not a MATLAB file"),
    "mat, category 460": (
        "mat",
        lambda raw: savemat(raw / "trainval/2008_000002.mat", {"LabelMap": np.full((12, 16), 460.0)}),
        r"000002.mat: category 460 is not one of labels.txt \(1..459\)",
    ),
    "mat, text in it": (
        "mat",
        lambda raw: savemat(raw / "trainval/2008_000002.mat", {"LabelMap": "no label"}),
        "000002.mat: LabelMap is not a matrix of label ids",
    ),
}


def make_raw(kind: str, folder: Path) -> tuple[list, Path]:
    """A raw layout; returns the arguments of ``preprocess`` and the folder to spoil."""
    raw = folder / "raw"
    if kind in ("pascal_voc", "sbd"):
        make_voc(raw)
        make_sbd(folder / "sbd")
        options = ["--sbd", str(folder / "sbd")] if kind == "sbd" else []
        return ["pascal_voc", raw, folder / "dst", *options], folder / "sbd/dataset" if kind == "sbd" else raw
    (make_context_json if kind == "json" else make_context_mat)(raw)
    return ["pascal_context", raw, folder / "dst"], raw


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_bad_pair_is_one_line_and_left_out_and_the_others_are_written(tmp_path, name):
    kind, spoil, message = PROBLEMS[name]
    command, raw = make_raw(kind, tmp_path)
    spoil(raw)
    status, out, err = preprocess(*command)
    assert status == 1 and len(err) == 1, err
    assert err[0].startswith("problem: ") and re.search(message, err[0]), err[0]
    assert "1 problems" in out and " 0 pairs written" not in out
    bad = {"pascal_voc": "a", "sbd": "s"}.get(kind, "2008_000002")
    assert not list((tmp_path / "dst").rglob(f"{bad}.*"))
    assert list((tmp_path / "dst/val/label").glob("*.png"))


MISTAKES = {
    "voc, no list": (
        "pascal_voc",
        lambda raw: (raw / "ImageSets/Segmentation/val.txt").unlink(),
        "val.txt: No such file",
    ),
    "voc, empty lists": ("pascal_voc", lambda raw: empty_lists(raw), "nothing to prepare in .*expected JPEGImages"),
    "sbd, no list": ("sbd", lambda raw: (raw / "val.txt").unlink(), "dataset/val.txt: No such file.*cls/"),
    "json, none": (
        "json",
        lambda raw: (raw / "trainval_merged.json").unlink(),
        "merged.json: No such file.*JPEGImages",
    ),
    "json, cut": ("json", lambda raw: cut(raw / "trainval_merged.json"), "merged.json is not PASCAL in Detail's"),
    "json, other": ("json", lambda raw: (raw / "trainval_merged.json").write_text("[]"), "is not PASCAL in Detail's"),
    "json, phase": ("json", lambda raw: change_json(raw, set_phase), "is not PASCAL in Detail's"),
    "json, no size": ("json", lambda raw: change_json(raw, drop_height), "is not PASCAL in Detail's .*'height'"),
    "mat, no names": ("mat", lambda raw: (raw / "labels.txt").unlink(), "labels.txt: No such file.*trainval/"),
    "mat, no numbers": ("mat", lambda raw: (raw / "labels.txt").write_text("aeroplane\n"), "lines such as '2: aeropl"),
    "mat, a name missing": ("mat", lambda raw: (raw / "labels.txt").write_text("2: aeroplane\n"), "no category 'bag'"),
    "mat, no list": ("mat", lambda raw: (raw / "ImageSets/Main/train.txt").unlink(), "Main/train.txt: No such file"),
}


def empty_lists(raw: Path) -> None:
    write_lists(raw / "ImageSets/Segmentation", train=[], val=[], test=[])


def set_phase(detail: dict) -> None:
    detail["images"][0]["phase"] = "training"


def drop_height(detail: dict) -> None:
    del detail["images"][0]["height"]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_download_that_cannot_be_used_is_answered_in_one_line(tmp_path, name):
    kind, spoil, message = MISTAKES[name]
    command, raw = make_raw(kind, tmp_path)
    spoil(raw)
    status, out, err = preprocess(*command)
    assert (status, out) == (2, "") and len(err) == 1, err
    assert err[0].startswith("error: ") and re.search(message, err[0]), err[0]


def test_sbd_must_be_a_folder(tmp_path):
    make_voc(tmp_path / "raw")
    status, _, err = preprocess("pascal_voc", tmp_path / "raw", tmp_path / "dst", "--sbd", str(tmp_path / "nowhere"))
    assert status == 2 and len(err) == 1 and "--sbd" in err[0] and "nowhere is not a folder" in err[0]
