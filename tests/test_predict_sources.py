"""What the words of ``main.py predict`` name: images, folders, zips, patterns and lists."""

import io
import sys
import zipfile

import cv2
import numpy as np
import pytest

from lib.predict.sources import find_sources


def label(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


class TestSources:
    def test_a_folder_keeps_its_sub_folders(self, pictures, tmp_path):
        (pictures / ".hidden.png").write_bytes(b"")
        (pictures / "notes.md").write_bytes(b"")
        found = find_sources([str(pictures)], tmp_path / "out")
        assert [str(source.name) for source in found] == ["a", "b", "c", "d", "sub/a"]
        # What an earlier prediction left there is no image to predict.
        found = find_sources([str(pictures)], pictures / "sub")
        assert [str(source.name) for source in found] == ["a", "b", "c", "d"]

    def test_patterns_lists_and_standard_input(self, pictures, tmp_path, monkeypatch):
        name = lambda *words: [str(source.name) for source in find_sources(list(map(str, words)), tmp_path)]  # noqa: E731
        out = tmp_path.parent
        assert [str(s.name) for s in find_sources([f"{pictures}/**/a.png"], out / "out")] == ["a", "sub/a"]
        (tmp_path / "list.txt").write_text(f"{pictures}/a.png\n\n  {pictures}/b.png\n{pictures}/a.png\n")
        assert name(tmp_path / "list.txt") == ["a", "b"]
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{pictures}/c.png\n".encode())))
        assert name("-", "camera:0") == ["c", "camera_0"]

    def test_images_in_a_zip_are_found_as_where_it_is_unpacked(self, predict, pictures, tmp_path):
        archive = tmp_path / "data.zip"
        with zipfile.ZipFile(archive, "w") as content:
            for path in sorted(pictures.rglob("*.png")):
                content.write(path, f"data/val/image/{path.relative_to(pictures)}")
        names = lambda word: [str(source.name) for source in find_sources([str(word)], tmp_path / "out")]  # noqa: E731
        assert names(archive / "val" / "image") == ["a", "b", "c", "d", "sub/a"]
        assert names(archive)[-1] == "val/image/sub/a" and names(archive / "val" / "image" / "b.png") == ["b"]
        assert "val/none holds no image" in predict(archive / "val" / "none").error
        assert predict(archive / "val" / "image" / "sub").status == 0
        assert predict(pictures / "sub", out=tmp_path / "unpacked").status == 0
        assert np.array_equal(*(label(tmp_path / folder / "label" / "a.png") for folder in ("out", "unpacked")))
        with zipfile.ZipFile(archive, "a") as content:
            content.writestr("../../a.png", b"hidden: no name there begins with a dot")
        assert [name for name in names(archive) if "val/image" not in name] == []
        with zipfile.ZipFile(archive, "a") as content:
            content.writestr("/tmp/a.png", b"")
        assert "which leads out of it: pack it again" in predict(archive).error

    def test_a_name_with_brackets_is_a_name(self, tmp_path):
        (tmp_path / "[1].png").write_bytes(b"")
        assert [str(source.name) for source in find_sources([str(tmp_path / "[1].png")], tmp_path / "out")] == ["[1]"]

    @pytest.mark.parametrize(
        "words, expected",
        [
            (["nowhere.png"], "there is no file or folder"),
            (["*.gif"], "no file matches"),
            (["empty"], "empty holds no image"),
            (["pictures/a.png", "pictures/sub/a.png"], "would both be written as a: give a folder above both"),
            (["other.md"], "is no image (.png, "),
            (["list.txt"], "in list.txt: there is no file or folder gone.png"),
            (["binary.txt"], "is no list of paths: byte 1 is not UTF-8"),
            (["lists.txt"], "list.txt is a list within lists.txt"),
            (["nothing.txt"], "there is nothing to predict"),
        ],
    )
    def test_what_names_nothing_ends_in_one_line(self, pictures, predict, tmp_path, monkeypatch, words, expected):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        (tmp_path / "other.md").write_text("x")
        (tmp_path / "list.txt").write_text("gone.png\n")
        (tmp_path / "lists.txt").write_text("list.txt\n")
        (tmp_path / "binary.txt").write_bytes(b"a\xff\xfe")
        (tmp_path / "nothing.txt").write_text("\n")
        assert expected in predict(*words).error
        assert not (tmp_path / "out").exists()

    def test_without_a_source_the_command_says_what_it_needs(self, predict):
        assert "predict needs a network and a source" in predict().error
