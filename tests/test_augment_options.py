"""Options of a training sample beyond the DNL recipes': rotation, colours, classes that may not fill a crop."""

import colorsys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datasets.seg.augment import REDRAWS, Augmentation, Window, draw, turn_image, turn_label
from datasets.seg.classes import IGNORE, load_table
from datasets.seg.dataset import Pixels, Sample, TrainDataset
from datasets.seg.photometric import Distortion, draw_distortion
from datasets.seg.png import Png
from lib.base.errors import UserError

PIXELS = Pixels("bgr", mean=(102.9801, 115.9465, 122.7717), std=(1.0, 2.0, 57.375))
ROAD, BUILDING = 7, 11
STILL = {"scale": (1, 1), "aspect": (1, 1), "brightness": 0, "flip": 0.0}


def sample_of(folder: Path, image: np.ndarray, label: np.ndarray) -> Sample:
    sample = Sample("a", folder / "image.png", folder / "label.png")
    cv2.imwrite(str(sample.image), image)
    cv2.imwrite(str(sample.label), label)
    return sample


def dataset_of(sample: Sample, **options) -> TrainDataset:
    return TrainDataset([sample], load_table("cityscapes"), PIXELS, Augmentation(**options), seed=0)


def noise(shape: tuple[int, ...], high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, shape, dtype=np.uint8)


def turned(image: np.ndarray, window: Window, angle: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In float64: the turned, resized part, bilinearly and by the nearest pixel, and which pixels are from outside.

    The point (x, y) of the resized frame, edges at whole numbers, shows what lay at the same point before the frame was
    turned counterclockwise, y pointing down, about its middle.
    """
    height, width = image.shape[:2]
    x, y = np.meshgrid(np.arange(window.width) + window.left + 0.5, np.arange(window.height) + window.top + 0.5)
    x, y = x - window.resized[0] / 2, y - window.resized[1] / 2
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    x, y = cos * x - sin * y + window.resized[0] / 2, sin * x + cos * y + window.resized[1] / 2
    x, y = x * width / window.resized[0], y * height / window.resized[1]
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    nearest = image[np.clip(y.astype(int), 0, height - 1), np.clip(x.astype(int), 0, width - 1)]
    x, y = np.clip(x - 0.5, 0, width - 1), np.clip(y - 0.5, 0, height - 1)
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    right, down = (x - left)[..., None], (y - top)[..., None]
    pixels = image.reshape(height, width, -1).astype(float)
    upper = pixels[top, left] * (1 - right) + pixels[top, left + 1] * right
    lower = pixels[top + 1, left] * (1 - right) + pixels[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down, nearest, outside


@pytest.mark.parametrize("angle", [-88.7, -7.3, 0.4, 33.0, 171.9])
@pytest.mark.parametrize(
    "window", [Window((90, 60), 0, 0, 90, 60), Window((131, 77), 40, 5, 64, 48), Window((50, 45), 10, 9, 33, 31)]
)
def test_rotation_is_about_the_centre_of_the_resized_image(angle: float, window: Window) -> None:
    image = cv2.GaussianBlur(noise((60, 90, 3)), (0, 0), 2)
    expected, _, outside = turned(image, window, angle)
    error = np.abs(turn_image(image, window, (60, 90), angle) - expected)[~outside]
    assert error.max() <= 3 and error.mean() < 0.6

    label = noise((60, 90), 34)
    _, nearest, outside = turned(label, window, angle)
    found = turn_label(label, window, (60, 90), angle, outside=99)
    # What lies on the border between two pixels may go to either.
    assert np.mean(found != np.where(outside, 99, nearest)) < 0.03


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_what_turns_in_from_outside_is_the_mean_colour_and_ignored(tmp_path: Path, flip: float) -> None:
    sample = sample_of(tmp_path, np.full((60, 90, 3), 200, np.uint8), np.full((60, 90), ROAD, np.uint8))
    options = STILL | {"flip": flip, "brightness": 10, "photometric": True}
    dataset = dataset_of(sample, crop_size=(100, 80), rotation=30.0, **options)
    for epoch in range(6):
        item = dataset[(epoch, 0)]
        inside = item["label"] == 0
        assert (item["label"][~inside] == IGNORE).all()
        assert (item["image"][:, ~inside] == 0).all() and (item["image"][:, inside] != 0).any(0).all()
        assert 0.55 * 5400 < inside.sum() < 5450
        corners = inside[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert not corners.any()


def test_image_and_label_turn_alike(tmp_path: Path) -> None:
    label = np.full((60, 90), BUILDING, np.uint8)
    label[:, 20:50] = ROAD
    image = np.where(label == ROAD, 255, 0).astype(np.uint8)[..., None].repeat(3, -1)
    dataset = dataset_of(sample_of(tmp_path, image, label), crop_size=(64, 48), rotation=45.0)
    for epoch in range(10):
        item = dataset[(epoch, 0)]
        level = item["image"][0] + PIXELS.mean[0]
        counts = item["label"] != IGNORE
        assert ((level > 128) == (item["label"] == 0))[counts].float().mean() > 0.95


def test_angles_are_uniform_and_none_is_drawn_unless_asked_for() -> None:
    rng = np.random.default_rng(0)
    angles = np.array([draw(Augmentation((10, 10), rotation=20.0), (20, 20), rng).angle for _ in range(2000)])
    assert -20 <= angles.min() < -19.5 and 19.5 < angles.max() <= 20
    assert np.abs(np.quantile(angles, [0.25, 0.5, 0.75]) - [-10, 0, 10]).max() < 1.5
    assert draw(Augmentation((10, 10)), (20, 20), rng).angle == 0


def test_new_options_leave_the_other_choices_as_they_were() -> None:
    plain = Augmentation((64, 48))
    more = Augmentation((64, 48), rotation=10.0, photometric=True, category_max_ratio=0.5)
    for seed in range(20):
        ours, theirs = (draw(options, (60, 90), np.random.default_rng(seed)) for options in (plain, more))
        assert (ours.window, ours.offset, ours.shift, ours.flip) == (
            theirs.window,
            theirs.offset,
            theirs.shift,
            theirs.flip,
        )


@pytest.mark.parametrize("size, resized", [((400, 600), (780, 520)), ((300, 900), (1040, 347))])
def test_the_long_side_bounds_the_short_sides_factor(size: tuple[int, int], resized: tuple[int, int]) -> None:
    augmentation = Augmentation((100, 100), scale=(1, 1), aspect=(1, 1), short_side=520, long_side=1040)
    assert draw(augmentation, size, np.random.default_rng(0)).window.resized == resized


# Colours


def saturated(levels: np.ndarray) -> np.ndarray:
    return np.clip(levels, 0, 255)


def distorted(image: np.ndarray, distortion: Distortion) -> np.ndarray:
    """The four steps in float64, pixel by pixel, with the standard library's HSV."""
    image = saturated(image + distortion.brightness)
    if not distortion.contrast_is_last:
        image = saturated(image * distortion.contrast)
    result = np.empty_like(image)
    for place in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(image[place][::-1] / 255))
        saturation = min(1.0, saturation * distortion.saturation)
        result[place] = np.array(colorsys.hsv_to_rgb((hue + distortion.hue / 180) % 1, saturation, value))[::-1] * 255
    return saturated(result * distortion.contrast) if distortion.contrast_is_last else result


@pytest.mark.parametrize(
    "distortion",
    [
        Distortion(),
        Distortion(brightness=-31.4),
        Distortion(contrast=1.47),
        Distortion(saturation=0.6),
        Distortion(saturation=1.4),
        Distortion(hue=-18),
        Distortion(25.0, 1.3, 0.7, 12, contrast_is_last=False),
        Distortion(25.0, 1.3, 1.4, -7, contrast_is_last=True),
    ],
    ids=str,
)
def test_colours_are_distorted_by_the_four_steps_in_their_order(distortion: Distortion) -> None:
    image = noise((20, 30, 3))
    before = image.copy()
    error = np.abs(distortion.apply(image) - distorted(image.astype(float), distortion))
    # HSV has 180 hues and 256 saturations.
    has_hsv = distortion.saturation != 1 or distortion.hue
    assert error.max() <= (9 if has_hsv else 1.5) and error.mean() < (2 if has_hsv else 0.6)
    assert np.array_equal(image, before)


def test_every_step_happens_half_of_the_time_and_within_its_range() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_distortion(rng) for _ in range(4000)]
    for name, neutral, low, high in (
        ("brightness", 0, -32, 32),
        ("contrast", 1, 0.5, 1.5),
        ("saturation", 1, 0.5, 1.5),
        ("hue", 0, -18, 18),
    ):
        values = np.array([getattr(one, name) for one in drawn])
        steps = values[values != neutral]
        # One hue in 37 is no change either.
        assert abs(len(steps) / len(values) - 0.5) < 0.04, name
        assert low <= steps.min() < low + 0.1 * (high - low) and high - 0.1 * (high - low) < steps.max() <= high, name
    assert abs(np.mean([one.contrast_is_last for one in drawn]) - 0.5) < 0.04


def test_a_sample_shows_the_distorted_colours(tmp_path: Path) -> None:
    image = noise((48, 64, 3))
    sample = sample_of(tmp_path, image, np.full((48, 64), ROAD, np.uint8))
    dataset = dataset_of(sample, crop_size=(64, 48), photometric=True, **STILL)
    differs = 0
    for epoch in range(10):
        rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(epoch, 0)))
        distortion = draw(dataset.augmentation, (48, 64), rng).distortion
        expected = (distortion.apply(image) - np.array(PIXELS.mean)) / np.array(PIXELS.std)
        np.testing.assert_allclose(dataset[(epoch, 0)]["image"], expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-5)
        differs += not np.array_equal(distortion.apply(image), image)
    assert differs >= 7


# Classes


def streaky(folder: Path) -> Sample:
    """Road everywhere, but for a strip of buildings at the right and one of ignored pixels at the left."""
    label = np.full((60, 200), ROAD, np.uint8)
    label[:, 150:] = BUILDING
    label[:, :50] = 0
    return sample_of(folder, noise((60, 200, 3)), label)


def share_of_one_class(label: torch.Tensor) -> float:
    counts = np.bincount(label.numpy().ravel(), minlength=256)[:IGNORE]
    return counts.max() / max(1, counts.sum())


@pytest.mark.parametrize("rotation", [0.0, 5.0])
def test_crops_with_one_prevailing_class_become_rare(tmp_path: Path, rotation: float) -> None:
    sample = streaky(tmp_path)
    options = {"crop_size": (60, 40), "rotation": rotation} | STILL
    free = dataset_of(sample, **options)
    bound = dataset_of(sample, category_max_ratio=0.75, **options)
    shares, bound_shares = (
        np.array([share_of_one_class(dataset[(epoch, 0)]["label"]) for epoch in range(60)]) for dataset in (free, bound)
    )
    assert np.mean(shares > 0.75) > 0.6
    # About three of ten positions will do, and there are eleven tries.
    assert np.mean(bound_shares > 0.75) < 0.1
    kept = shares <= 0.75
    assert np.array_equal(shares[kept], bound_shares[kept]), "a crop that will do is not drawn again"


def test_the_last_crop_is_taken_where_none_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = sample_of(tmp_path, noise((60, 90, 3)), np.full((60, 90), ROAD, np.uint8))
    dataset = dataset_of(sample, crop_size=(40, 30), category_max_ratio=0.75)
    looked = []
    crop_label = TrainDataset._crop_label
    monkeypatch.setattr(
        TrainDataset, "_crop_label", lambda *arguments: looked.append(arguments[-1]) or crop_label(*arguments)
    )
    item = dataset[(0, 0)]
    assert item["label"].shape == (30, 40)
    assert len(looked) == REDRAWS + 1 and looked[-1].window != looked[0].window
    assert {(chosen.window.resized, chosen.shift, chosen.flip) for chosen in looked} == {
        (looked[0].window.resized, looked[0].shift, looked[0].flip)
    }


def test_crops_are_compared_on_the_label_without_decoding_the_image(tmp_path: Path, monkeypatch) -> None:
    decode, decoded = Png.decode, []
    monkeypatch.setattr(Png, "decode", lambda png, *how: decoded.append(png.channels) or decode(png, *how))
    sample = sample_of(tmp_path, noise((60, 90, 3)), np.full((60, 90), ROAD, np.uint8))
    dataset_of(sample, crop_size=(40, 30), category_max_ratio=0.75)[(0, 0)]
    assert sorted(decoded) == [1, 3]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rotation": -1.0}, "rotation"),
        ({"category_max_ratio": 0.0}, "category_max_ratio"),
        ({"long_side": -1}, "long"),
    ],
)
def test_impossible_augmentation_is_refused_by_name(options: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        Augmentation(crop_size=(64, 48), **options)
