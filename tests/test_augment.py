"""The geometry of a training sample: equal to resizing everything and cropping, and drawn as the recipe says."""

import cv2
import numpy as np
import pytest

from datasets.seg.augment import Augmentation, Draw, Window, draw, resize_image, resize_label
from lib.base.errors import UserError

HEIGHT, WIDTH = 240, 410


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """The hardest case for a resize: every pixel differs from its neighbours by up to 255."""
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 34, (HEIGHT, WIDTH), dtype=np.uint8)


def windows() -> list[Window]:
    """Corners, whole images, special factors (1, 2, 1/2, large), one pixel, and what the recipe draws."""
    rng = np.random.default_rng(2)
    augmentation = Augmentation(crop_size=(129, 97))
    special = [
        Window((WIDTH, HEIGHT), 0, 0, WIDTH, HEIGHT),
        Window((WIDTH, HEIGHT), 33, 44, 100, 90),
        Window((2 * WIDTH, 2 * HEIGHT), 301, 203, 129, 97),
        Window((WIDTH // 2, HEIGHT // 2), 50, 20, 100, 97),
        Window((5 * WIDTH + 3, 5 * HEIGHT + 1), 5 * WIDTH + 3 - 129, 5 * HEIGHT + 1 - 97, 129, 97),
        Window((37, 21), 5, 3, 17, 11),
        Window((631, 377), 630, 376, 1, 1),
        Window((1, 1), 0, 0, 1, 1),
    ]
    return special + [draw(augmentation, (HEIGHT, WIDTH), rng).window for _ in range(40)]


def cropped(resized: np.ndarray, window: Window) -> np.ndarray:
    return resized[window.top : window.top + window.height, window.left : window.left + window.width]


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resize in float64 from its definition: half-pixel centres, borders repeated, no antialiasing."""
    for axis, resized in ((1, size[0]), (0, size[1])):
        length = image.shape[axis]
        place = np.clip((np.arange(resized) + 0.5) * length / resized - 0.5, 0, length - 1)
        low = np.floor(place).astype(int)
        weight = np.expand_dims(place - low, (1, 2) if axis == 0 else (0, 2))
        high = np.minimum(low + 1, length - 1)
        image = np.take(image, low, axis) * (1 - weight) + np.take(image, high, axis) * weight
    return image


@pytest.mark.parametrize("window", windows(), ids=str)
def test_resized_region_equals_the_region_of_the_resized_image(noise: np.ndarray, window: Window) -> None:
    ours = resize_image(noise, window, (HEIGHT, WIDTH)).astype(int)
    whole = cv2.resize(noise, window.resized, interpolation=cv2.INTER_LINEAR)
    assert np.abs(ours - cropped(whole, window)).max() <= 1


@pytest.mark.parametrize("window", windows()[::5], ids=str)
def test_resize_is_bilinear_with_half_pixel_centres(noise: np.ndarray, window: Window) -> None:
    expected = cropped(bilinear(noise.astype(float), window.resized), window)
    assert np.abs(resize_image(noise, window, (HEIGHT, WIDTH)) - expected).max() <= 1.5


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("window", windows(), ids=str)
def test_label_region_equals_the_region_of_the_nearest_resize(ids: np.ndarray, window: Window, flip: bool) -> None:
    expected = cropped(cv2.resize(ids, window.resized, interpolation=cv2.INTER_NEAREST), window)
    assert np.array_equal(resize_label(ids, window, (HEIGHT, WIDTH), flip), expected[:, ::-1] if flip else expected)


def test_only_the_needed_region_is_resized(noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    large = np.tile(noise, (4, 5, 1))
    worked_on = []
    resize = cv2.resize
    monkeypatch.setattr(cv2, "resize", lambda part, *a, **k: worked_on.append(part.size) or resize(part, *a, **k))
    factor, rng = 1.7, np.random.default_rng(3)
    augmentation = Augmentation(crop_size=(385, 385), scale=(factor, factor))
    for _ in range(20):
        resize_image(large, draw(augmentation, large.shape[:2], rng).window, large.shape[:2])
    assert np.mean(worked_on) < 0.35 * large.size


def many_draws(augmentation: Augmentation, size: tuple[int, int], count: int = 4000) -> list[Draw]:
    rng = np.random.default_rng(4)
    return [draw(augmentation, size, rng) for _ in range(count)]


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    """Compare deciles; 0.04 is five standard errors of a decile of 4000 values."""
    share = (np.quantile(values, np.linspace(0, 1, 11)) - low) / (high - low)
    assert np.abs(share - np.linspace(0, 1, 11)).max() < 0.04


def test_scale_and_aspect_are_uniform_and_width_over_height_changes_by_the_aspect() -> None:
    sizes = np.array([d.window.resized for d in many_draws(Augmentation((100, 100)), (10_000, 20_000))])
    by_width, by_height = sizes[:, 0] / 20_000, sizes[:, 1] / 10_000
    assert_uniform(np.sqrt(by_width * by_height), 0.5, 2.0)
    assert_uniform(by_width / by_height, 0.9, 1.1)


def test_crop_position_is_uniform_and_reaches_both_ends() -> None:
    draws = many_draws(Augmentation((100, 50), scale=(1, 1), aspect=(1, 1)), (70, 300))
    left, top = np.array([(d.window.left, d.window.top) for d in draws]).T
    assert (left.min(), left.max(), top.min(), top.max()) == (0, 200, 0, 20)
    assert_uniform(left, 0, 200)
    assert all((d.window.width, d.window.height, d.offset) == (100, 50, (0, 0)) for d in draws)


def test_small_image_lies_anywhere_inside_the_crop() -> None:
    draws = many_draws(Augmentation((100, 50), scale=(1, 1), aspect=(1, 1)), (30, 80))
    x, y = np.array([d.offset for d in draws]).T
    assert (x.min(), x.max(), y.min(), y.max()) == (0, 20, 0, 20)
    assert {d.window for d in draws} == {Window((80, 30), 0, 0, 80, 30)}


def test_flip_has_its_probability_and_brightness_takes_every_whole_number_in_range() -> None:
    draws = many_draws(Augmentation((10, 10), brightness=10, flip=0.3), (20, 20))
    assert abs(np.mean([d.flip for d in draws]) - 0.3) < 0.03
    shifts, counts = np.unique([d.shift for d in draws], return_counts=True)
    assert shifts.tolist() == list(range(-10, 11))
    assert counts.min() > 0.6 * counts.mean()


@pytest.mark.parametrize("size", [(600, 400), (400, 600)])
def test_short_side_is_brought_to_its_length_before_the_random_scale(size: tuple[int, int]) -> None:
    augmentation = Augmentation((100, 100), scale=(0.5, 0.5), aspect=(1, 1), short_side=520)
    resized = draw(augmentation, size, np.random.default_rng(0)).window.resized
    assert sorted(resized) == [260, 390]
    assert (resized[0] < resized[1]) == (size[1] < size[0])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"scale": (2.0, 0.5)}, "scale"),
        ({"aspect": (0.0, 1.0)}, "aspect"),
        ({"crop_size": (0, 769)}, "crop_size"),
        ({"flip": 1.5}, "flip"),
        ({"brightness": -1}, "brightness"),
    ],
)
def test_impossible_augmentation_is_refused_by_name(options: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        Augmentation(**({"crop_size": (769, 769)} | options))
