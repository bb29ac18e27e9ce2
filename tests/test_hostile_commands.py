"""The commands around a training meet what a hostile hand gives them: one line, and the corrected command works."""

import json

import numpy as np
import pytest
from own_layouts import NewDataset, contents, make


@pytest.fixture
def new_dataset(monkeypatch, capfd):
    return NewDataset(monkeypatch, capfd)


@pytest.mark.parametrize("place", ["data", "data/train", "data/train/image"])
def test_a_link_that_leads_to_itself_is_named(new_dataset, tmp_path, place):
    source = make(tmp_path / "raw")
    link = tmp_path / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(link)
    error = new_dataset.error(*source, tmp_path / "data")
    assert str(link) in error and "a link that leads to itself: remove that" in error
    link.unlink()
    assert new_dataset(*source, tmp_path / "data")[::2] == (0, "")


def test_no_path_stands_for_the_working_directory_unless_it_is_named(new_dataset, tmp_path, monkeypatch):
    source = make(tmp_path / "raw")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "argument --dst: it is empty" in new_dataset.error(*source, "")
    assert "argument --images: it is empty" in new_dataset.error("", source[1], "data")
    assert not contents(tmp_path / "here")
    assert new_dataset(*source, ".")[0] == 0


@pytest.mark.parametrize("share", ["", "x", "nan", "-1", "1", "1e9"])
def test_a_share_that_is_none_is_told_the_range(new_dataset, tmp_path, share):
    error = new_dataset.error(*make(tmp_path / "raw"), tmp_path / "data", "--val", share)
    assert f"--val: '{share}' has to be a number, at least 0 and less than 1" in error


def test_areas_that_no_number_of_c_holds_are_passed_over(new_dataset, tmp_path):
    images, file = make(tmp_path / "raw", "coco polygons")
    assert new_dataset(images, file, tmp_path / "whole")[0] == 0
    content = json.loads(file.read_text())
    for at, annotation in enumerate(content["annotations"]):
        annotation["area"] = (10**400, -(10**400), float("nan"), "x")[at % 4]
    file.write_text(json.dumps(content))
    assert new_dataset(images, file, tmp_path / "data")[::2] == (0, "")
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")


def test_labels_of_half_floats_are_read_without_a_word_of_numpys(new_dataset, tmp_path):
    images, labels = make(tmp_path / "raw", "npy")
    assert new_dataset(images, labels, tmp_path / "whole")[0] == 0
    for file in labels.iterdir():
        np.save(file, np.load(file).astype(np.float16))
    assert new_dataset(images, labels, tmp_path / "data")[::2] == (0, "")
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")


def test_lists_that_leave_nothing_to_train_on_are_named(new_dataset, tmp_path):
    source = make(tmp_path / "raw")
    (tmp_path / "val.txt").write_text("\n".join(f"photo_{at}" for at in range(5)))
    error = new_dataset.error(*source, tmp_path / "data", "--val-list", tmp_path / "val.txt")
    assert error.endswith("or give fewer to val and test (--val-list)")
