"""The drawn street scenes: layout, determinism, contents."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.seg.street import draw_scene, write_dataset
from lib.base.errors import UserError

ROOT = Path(__file__).parents[1]
EVALUATED = {7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33}
IGNORED = {1, 4, 9}


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(np.random.default_rng([7, index]), (256, 128)) for index in range(16)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", [(64, 48), (96, 64), (101, 233), (512, 256)])
def test_a_scene_has_the_size_asked_for(size):
    image, label = draw_scene(np.random.default_rng(1), size)
    assert image.shape == (size[1], size[0], 3) and image.dtype == np.uint8
    assert label.shape == (size[1], size[0]) and label.dtype == np.uint8


@pytest.mark.parametrize("size", [(63, 48), (64, 47)])
def test_a_size_too_small_is_refused(size):
    with pytest.raises(UserError, match="64 x 48"):
        draw_scene(np.random.default_rng(1), size)


def test_the_same_state_draws_the_same_scene_and_another_a_different_one():
    first, again, other = (draw_scene(np.random.default_rng(seed), (128, 64)) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert (first[1] != other[1]).mean() > 0.1


def test_all_evaluated_classes_and_only_few_ignored_ids_are_drawn(scenes):
    ids = {int(label_id) for _, label in scenes for label_id in np.unique(label)}
    assert ids >= EVALUATED
    assert ids <= EVALUATED | IGNORED


def test_the_sky_is_above_and_the_road_below(scenes):
    for _, label in scenes:
        rows = np.arange(label.shape[0])[:, None] * np.ones_like(label)
        assert rows[label == 23].mean() < 0.35 * label.shape[0] < 0.55 * label.shape[0] < rows[label == 7].mean()


def test_colour_alone_does_not_tell_the_classes_apart(scenes):
    """The best a look-up from quantised colour to class can do, fitted on the very pixels it is scored on."""
    image = np.stack([image for image, _ in scenes]).reshape(-1, 3)
    label = np.stack([label for _, label in scenes]).ravel()
    votes = np.zeros((16**3, 256))
    np.add.at(votes, ((image // 16).astype(int) @ [256, 16, 1], label), 1)
    hits = np.zeros(256)
    np.add.at(hits, votes.argmax(1), votes.max(1))
    recall = hits[sorted(EVALUATED)] / np.bincount(label, minlength=256)[sorted(EVALUATED)]
    assert recall.mean() < 0.35


def test_a_dataset_has_the_raw_cityscapes_layout_and_no_test_labels(tmp_path):
    write_dataset(tmp_path, {"train": 2, "val": 1, "test": 1}, size=(96, 64), seed=0, workers=1)
    frames = ["train/toytown/toytown_000000", "train/toytown/toytown_000001", "val/toytown/toytown_000000"]
    images = [f"leftImg8bit/{frame}_000019_leftImg8bit.png" for frame in [*frames, "test/toytown/toytown_000000"]]
    labels = [f"gtFine/{frame}_000019_gtFine_labelIds.png" for frame in frames]
    assert sorted(files(tmp_path)) == sorted(images + labels)
    label = cv2.imread(str(tmp_path / labels[0]), cv2.IMREAD_UNCHANGED)
    assert label.shape == (64, 96) and set(np.unique(label).tolist()) <= EVALUATED | IGNORED
    assert cv2.imread(str(tmp_path / images[0]), cv2.IMREAD_UNCHANGED).shape == (64, 96, 3)


def test_a_scene_depends_on_seed_split_and_index_only(tmp_path):
    write_dataset(tmp_path / "a", {"train": 2, "val": 1}, size=(64, 48), seed=5, workers=1)
    write_dataset(tmp_path / "b", {"val": 1, "train": 3}, size=(64, 48), seed=5, workers=2)
    write_dataset(tmp_path / "c", {"train": 1}, size=(64, 48), seed=6, workers=1)
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert a.items() <= b.items()
    assert len(set(b.values())) == len(b)
    assert not set(c.values()) & set(a.values())


def test_the_command_draws_and_answers_mistakes_in_one_line(tmp_path):
    command = [sys.executable, "-m", "datasets.seg.street", "--dst", tmp_path / "raw", "--workers", "1"]
    counts = ["--train", "1", "--val", "1", "--test", "1"]
    done = subprocess.run([*command, *counts, "--size", "64", "48"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and len(files(tmp_path / "raw")) == 5
    small = subprocess.run([*command, *counts, "--size", "32", "32"], cwd=ROOT, capture_output=True, text=True)
    assert small.returncode == 2 and len(small.stderr.splitlines()) == 1 and "64 x 48" in small.stderr
