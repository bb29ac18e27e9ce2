"""The one reading of files finds the figures that are computed in the plainest way from their arrays."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from own_surveys import facts, photo, scene

from datasets.seg.own.facts import Pair
from datasets.seg.own.labels import LabelFiles
from datasets.seg.own.survey import read_pair


def rough(seed: int, values: list[int]) -> np.ndarray:
    """A label with single pixels, lines and blocks."""
    random = np.random.default_rng(seed)
    label = np.kron(random.choice(values, (6, 8)), np.ones((4, 4), int))
    label[random.random(label.shape) < 0.1] = values[-1]
    label[7], label[:, 5] = values[0], values[1]
    return label


IMAGES = {
    "colours.png": photo(1),
    "grey.png": photo(2, bands=1),
    "deep.npy": photo(3, bands=5).astype(np.uint16) * 200,
    "float.npy": photo(4, bands=4).astype(np.float32) / 7 + 1000,
    "gaps.npy": np.where(photo(5, bands=2) < 40, np.nan, photo(5, bands=2).astype(np.float32)),
}
LABELS = {
    "ids.png": rough(1, [0, 1, 2, 255]).astype(np.uint8),
    "deep.png": rough(2, [3, 256, 65535]).astype(np.uint16),
    "colours.png": rough(3, [0, 0xFF0080, 0x00FF01]),
    "all one.png": scene(1, [7]).astype(np.uint8),
}


def save(path: Path, array: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, array)
    elif array.max() > 65535:
        cv2.imwrite(str(path), np.dstack([array & 255, array >> 8 & 255, array >> 16]).astype(np.uint8))
    else:
        cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("image", IMAGES)
def test_the_reading_of_files_agrees(image, label, tmp_path):
    pair = Pair("a", "train", tmp_path / f"image {image}", (tmp_path / f"label {label}",))
    save(pair.image, IMAGES[image])
    save(pair.labels[0], LABELS[label])
    read = read_pair(pair, LabelFiles()).facts
    plain = replace(facts("a", IMAGES[image], LABELS[label]), pair=pair)
    for name in ("pair", "size", "label_size", "bands", "dtype", "lossy"):
        assert getattr(read, name) == getattr(plain, name), name
    for name in ("values", "counts", "edge_counts"):
        np.testing.assert_array_equal(getattr(read, name), getattr(plain, name), err_msg=name)
    for name in ("band_sums", "band_squares"):
        np.testing.assert_allclose(getattr(read, name), getattr(plain, name), rtol=1e-12, err_msg=name)
    assert (read.band_counts is None) == (plain.band_counts is None)
    if plain.band_counts is not None:
        np.testing.assert_array_equal(read.band_counts, plain.band_counts)


def test_equal_pixels_have_one_digest_whatever_their_files(tmp_path):
    pairs = [Pair(name, "train", tmp_path / name, ()) for name in ("a.png", "b.bmp", "c.npy", "d.png")]
    for pair in pairs[:3]:
        save(pair.image, photo(1))
    save(pairs[3].image, photo(2))
    digests = [read_pair(pair, None).facts.digest for pair in pairs]
    assert digests[0] == digests[1] == digests[2] != digests[3]
