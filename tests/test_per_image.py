"""Counts of each image survive the disk, and files of strangers end in one line."""

from contextlib import suppress

import numpy as np
import pytest

from lib.base.errors import UserError
from lib.scores.per_image import FILE, ImageCounts


class TestCountsOfImages:
    @pytest.fixture
    def counts(self):
        rng = np.random.default_rng(0)
        labelled, predicted = rng.integers(0, 100, (2, 4, 6))
        rows = np.stack([np.minimum(labelled, predicted) // 2, predicted, labelled], axis=1)
        counts_of = dict(zip(["straße", "b", "c", "a"], rows, strict=True))
        return ImageCounts.of(counts_of, [f"c {k}" for k in range(6)])

    def test_they_come_back_as_they_were(self, counts, tmp_path):
        counts.save(tmp_path / FILE)
        found = ImageCounts.load(tmp_path / FILE)
        assert found.names == ["a", "b", "c", "straße"] and found.classes == [f"c {k}" for k in range(6)]
        for name in ("intersection", "predicted", "labelled"):
            np.testing.assert_array_equal(getattr(found, name), getattr(counts, name))
            assert getattr(found, name).dtype == np.int64
        assert [path.name for path in tmp_path.iterdir()] == [FILE]

    @pytest.mark.parametrize(
        "change, words",
        [
            ({"names": np.array(["a", "a", "c", "d"])}, "names repeat"),
            ({"names": np.array([1, 2, 3, 4])}, "names is no list of words"),
            ({"names": np.array(["a"] * 4, object)}, "names is no list of words"),
            ({"intersection": np.zeros((4, 6))}, "intersection is no table of whole numbers"),
            ({"intersection": np.zeros((3, 6), np.int64)}, "as many rows"),
            ({"intersection": np.full((4, 6), 1 << 39)}, "larger than what it is of"),
            ({"predicted": np.full((4, 6), -1)}, "count no pixels"),
            ({"labelled": np.full((4, 6), 1 << 62)}, "count no pixels"),
            ({"labelled": None}, "it has no labelled"),
        ],
    )
    def test_forged_counts_end_in_one_line(self, counts, tmp_path, change, words):
        fields = ("names", "classes", "intersection", "predicted", "labelled")
        arrays = {name: np.asarray(getattr(counts, name)) for name in fields} | change
        np.savez(tmp_path / FILE, **{name: array for name, array in arrays.items() if array is not None})
        self.refused(tmp_path / FILE, words)

    def test_damage_anywhere_ends_in_one_line(self, counts, tmp_path):
        counts.save(tmp_path / FILE)
        whole = (tmp_path / FILE).read_bytes()
        rng = np.random.default_rng(0)
        for _ in range(150):
            damaged = bytearray(whole)
            for place in rng.integers(len(whole), size=3):
                damaged[place] ^= 1 << rng.integers(8)
            (tmp_path / FILE).write_bytes(damaged[: rng.integers(1, len(whole))] if rng.random() < 0.3 else damaged)
            with suppress(UserError):
                ImageCounts.load(tmp_path / FILE)

    def test_a_file_that_is_none_or_of_another_kind_is_named(self, tmp_path):
        self.refused(tmp_path / FILE, "does not exist")
        (tmp_path / FILE).write_bytes(b"\x80\x04.")
        self.refused(tmp_path / FILE, "no counts of images")
        np.save(tmp_path / "x.npy", np.zeros((3, 4)))
        self.refused(tmp_path / "x.npy", "no counts of images")

    def refused(self, path, words):
        with pytest.raises(UserError) as error:
            ImageCounts.load(path)
        assert str(path) in str(error.value) and words in str(error.value)
