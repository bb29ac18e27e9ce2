"""The commands around a training meet what a hostile hand gives them: one line, and the corrected command works."""

import errno
import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from own_layouts import NewDataset, contents, image, make, put

from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.predict import sources
from lib.predict.sources import find_sources


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


@pytest.mark.parametrize("kind", ["closed", "folder"])
def test_a_list_on_a_standard_input_that_gives_none_is_refused(tmp_path, monkeypatch, kind):
    folder = os.open(tmp_path, os.O_RDONLY)
    stream = SimpleNamespace(buffer=SimpleNamespace(read=lambda size: os.read(folder, 8)))
    monkeypatch.setattr(sys, "stdin", None if kind == "closed" else stream)
    with pytest.raises(UserError, match=r"the standard input cannot be read .*: pipe a list of paths into it"):
        find_sources(["-"], tmp_path / "out")
    os.close(folder)


def test_a_line_that_a_list_repeats_is_looked_at_once(tmp_path, monkeypatch):
    put(tmp_path / "a.png", image(0))
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'a.png'}\n" * 1_000_000)
    looked = []
    monkeypatch.setattr(sources, "_of_file", lambda *words, real=sources._of_file: looked.append(1) or real(*words))
    assert len(find_sources([str(tmp_path / "list.txt")], tmp_path / "out")) == len(looked) == 1


@pytest.mark.parametrize("name", ["classes.csv", "facts.json", "report.html", "sources.csv"])
def test_a_file_of_others_with_a_name_that_it_writes_is_kept(new_dataset, tmp_path, name):
    source = make(tmp_path / "raw")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text("mine")
    assert f"holds {name}, which new-dataset did not write" in new_dataset.error(*source, tmp_path / "data")
    assert (tmp_path / "data" / name).read_text() == "mine"
    (tmp_path / "data" / name).unlink()
    assert new_dataset(*source, tmp_path / "data")[::2] == (0, "")


def test_results_are_not_written_among_the_sources(tmp_path):
    put(tmp_path / "images" / "a.png", image(0))
    with pytest.raises(UserError, match=r"--out .* is a folder of sources.*such as .*predicted"):
        find_sources([str(tmp_path / "images")], tmp_path / "images")
    assert len(find_sources([str(tmp_path / "images")], tmp_path / "images" / "predicted")) == 1


def test_a_full_disk_names_the_file(tmp_path):
    def fill(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'curves.png'}'"):
        write_atomically(tmp_path / "curves.png", fill)
    assert not list(tmp_path.iterdir())
