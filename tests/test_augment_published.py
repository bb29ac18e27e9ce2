"""Samples as published code makes them: bit for bit what its steps, in plain OpenCV, make of the same choices."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datasets.seg.augment import REDRAWS, Augmentation, Draw, draw
from datasets.seg.classes import IGNORE, load_table
from datasets.seg.dataset import Pixels, Sample, TrainDataset
from datasets.seg.photometric import Distortion, draw_distortion
from datasets.seg.png import Png
from lib.base.errors import UserError

MEAN = np.array([102.9801, 115.9465, 122.7717])
PIXELS = Pixels("bgr", mean=tuple(MEAN), std=(1.0, 1.0, 1.0))
TABLE = load_table("ade20k")
ADE20K = Path(__file__).parents[2] / "shared" / "data" / "ade20k_sample"

# (height, width): landscape, portrait, odd, square, smaller than the short side, elongated
SIZES = [(60, 90), (97, 61), (75, 113), (80, 80), (31, 24), (40, 171), (203, 33)]
TORCHCV = {"crop_size": (56, 52), "short_side": 52, "resize": "twice"}
MMSEG = {
    "crop_size": (56, 48),
    "short_side": 48,
    "long_side": 120,
    "aspect": (1, 1),
    "brightness": 0,
    "resize": "mmseg",
}


def noise(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The hardest case: every pixel differs from its neighbours."""
    rng = np.random.default_rng(size)
    return rng.integers(0, 256, (*size, 3), dtype=np.uint8), rng.integers(0, 151, size, dtype=np.uint8)


def write(folder: Path, image: np.ndarray, label: np.ndarray, suffix: str = ".png") -> Sample:
    sample = Sample("a", folder / f"image{suffix}", folder / "label.png")
    cv2.imwrite(str(sample.image), image)
    cv2.imwrite(str(sample.label), label)
    return sample


def dataset_of(*samples: Sample, pixels: Pixels = PIXELS, **options) -> TrainDataset:
    return TrainDataset(list(samples), TABLE, pixels, Augmentation(**options), seed=3)


def choices(dataset: TrainDataset, key: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, Draw]:
    """The random factor, the aspect and everything else that a sample was drawn with; the first two come first."""
    seeds = np.random.SeedSequence(dataset.seed, spawn_key=key)
    rng = np.random.default_rng(seeds)
    scale, aspect = rng.uniform(*dataset.augmentation.scale), rng.uniform(*dataset.augmentation.aspect)
    return scale, aspect, draw(dataset.augmentation, size, np.random.default_rng(seeds))


def ade20k_train_ids(label: np.ndarray) -> np.ndarray:
    """0 is ignored, the others move down by one."""
    return np.where(label == 0, IGNORE, label.astype(int) - 1)


def normalised(image: np.ndarray, pixels: Pixels = PIXELS) -> np.ndarray:
    """[H, W, 3], BGR -> float32 [3, H, W] from float64."""
    image = image[..., ::-1] if pixels.color_order == "rgb" else image
    return ((image.astype(float) - pixels.mean) / pixels.std).astype(np.float32).transpose(2, 0, 1)


def padded(image: np.ndarray, label: np.ndarray, crop_size, left: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    """A normalised image [3, h, w] and its train ids [h, w] inside the crop."""
    (width, height), (h, w) = crop_size, label.shape
    border = (top, height - h - top, left, width - w - left, cv2.BORDER_CONSTANT)
    planes = [cv2.copyMakeBorder(plane, *border, value=0) for plane in image]
    return np.stack(planes), cv2.copyMakeBorder(label.astype(np.int32), *border, value=IGNORE)


def cropped(array: np.ndarray, crop_size: tuple[int, int], left: int, top: int) -> np.ndarray:
    return array[top : top + crop_size[1], left : left + crop_size[0]]


def torchcv(image, label, options: Augmentation, scale: float, aspect: float, chosen: Draw):
    """The published steps for ADE20K and PASCAL: flip, resize, random resize, crop, brightness; the batch's pad."""
    if chosen.flip:
        image, label = cv2.flip(image, 1), cv2.flip(label, 1)

    height, width = image.shape[:2]
    if options.short_side:
        ratio = options.short_side / min(width, height)
        if options.long_side:
            ratio = min(ratio, options.long_side / max(width, height))
        size = (round(width * ratio), round(height * ratio))
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)

    height, width = image.shape[:2]
    size = (int(width * (math.sqrt(aspect) * scale)), int(height * (math.sqrt(1.0 / aspect) * scale)))
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)

    image = cropped(image, options.crop_size, chosen.window.left, chosen.window.top)
    label = cropped(label, options.crop_size, chosen.window.left, chosen.window.top)

    image = np.clip(np.around(image.astype(np.float32) + chosen.shift), 0, 255).astype(np.uint8)
    return padded(normalised(image), ade20k_train_ids(label), options.crop_size, *chosen.offset)


def mmseg(image, label, options: Augmentation, scale: float, chosen: Draw, pixels: Pixels, base=None):
    """mmsegmentation's: random resize within the scaled base size, crop, flip, colours; then the pad of the batch."""
    height, width = image.shape[:2]
    base = base or (options.long_side, options.short_side)
    edges = [int(side * scale) for side in base]
    factor = min(max(edges) / max(height, width), min(edges) / min(height, width))
    size = (int(width * factor + 0.5), int(height * factor + 0.5))
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)

    image = cropped(image, options.crop_size, chosen.window.left, chosen.window.top)
    label = cropped(label, options.crop_size, chosen.window.left, chosen.window.top)
    if chosen.flip:
        image, label = np.flip(image, 1), np.flip(label, 1)
    if chosen.distortion:
        image = mmseg_colours(image, chosen.distortion)
    return padded(normalised(image, pixels), ade20k_train_ids(label), options.crop_size, 0, 0)


def mmseg_colours(image: np.ndarray, distortion: Distortion) -> np.ndarray:
    """mmsegmentation's photometric distortion, each step rounding down; hue 180 is a step that moves it by nothing."""

    def converted(levels: np.ndarray, alpha: float = 1, beta: float = 0) -> np.ndarray:
        return np.clip(levels.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

    image = converted(image, beta=distortion.brightness)
    if not distortion.contrast_is_last:
        image = converted(image, alpha=distortion.contrast)
    if distortion.saturation != 1:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        image[..., 1] = converted(image[..., 1], alpha=distortion.saturation)
        image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
    if distortion.hue:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        image[..., 0] = (image[..., 0].astype(int) + distortion.hue % 180) % 180
        image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
    return converted(image, alpha=distortion.contrast) if distortion.contrast_is_last else image


def assert_equal(item: dict, expected: tuple[np.ndarray, np.ndarray]) -> None:
    assert item["image"].dtype == torch.float32 and item["image"].shape == expected[0].shape
    assert np.array_equal(item["label"], expected[1])
    assert np.array_equal(item["image"], expected[0])


def assert_torchcv(dataset: TrainDataset, index: int, image, label, epochs: int) -> list[Draw]:
    drawn = []
    for epoch in range(epochs):
        scale, aspect, chosen = choices(dataset, (epoch, index), image.shape[:2])
        expected = torchcv(image, label, dataset.augmentation, scale, aspect, chosen)
        assert_equal(dataset[(epoch, index)], expected)
        drawn.append(chosen)
    return drawn


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"crop_size": (140, 20)}, {"long_side": 70}, {"short_side": 0}], ids=["ade20k", "wide", "long", "0"]
)
def test_twice_is_torchcvs_ade20k_and_pascal_training_bit_for_bit(tmp_path: Path, size, options: dict) -> None:
    image, label = noise(size)
    dataset = dataset_of(write(tmp_path, image, label), **TORCHCV | options)
    drawn = assert_torchcv(dataset, 0, image, label, epochs=40)
    assert {chosen.flip for chosen in drawn} == {False, True}


@pytest.mark.parametrize("resized_by", [(1.0, 1.0), (0.5, 0.5), (2.0, 2.0), (0.995, 1.005)], ids=str)
def test_twice_is_torchcvs_where_opencv_takes_another_way(tmp_path: Path, resized_by) -> None:
    """It copies what keeps its size and averages where the factor is exactly one half."""
    image, label = noise((104, 156))
    dataset = dataset_of(write(tmp_path, image, label), **TORCHCV | {"scale": resized_by, "aspect": (1, 1)})
    assert_torchcv(dataset, 0, image, label, epochs=30)
    options = {"short_side": 103, "scale": resized_by, "aspect": (0.995, 1.005)}
    assert_torchcv(dataset_of(dataset.samples[0], **TORCHCV | options), 0, image, label, epochs=60)


@pytest.mark.skipif(not ADE20K.is_dir(), reason="the sample of ADE20K is not here")
def test_twice_is_torchcvs_on_photographs_with_the_recipes_numbers() -> None:
    samples = [
        Sample(image.stem, image, ADE20K / "annotations" / "validation" / f"{image.stem}.png")
        for image in sorted((ADE20K / "images" / "validation").iterdir())
    ]
    dataset = dataset_of(*samples, crop_size=(520, 520), short_side=520, resize="twice")
    for index, sample in enumerate(samples):
        image, label = cv2.imread(str(sample.image)), cv2.imread(str(sample.label), cv2.IMREAD_UNCHANGED)
        drawn = assert_torchcv(dataset, index, image, label, epochs=8)
        assert any(max(chosen.offset) > 0 for chosen in drawn) or index
    assert len(samples) == 3


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_mmseg_is_mmsegmentations_training_bit_for_bit(tmp_path: Path, size) -> None:
    image, label = noise(size)
    pixels = Pixels("rgb", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    sample = write(tmp_path, image, label)
    own = {"short_side": 0, "long_side": 0}
    for options, base in (({}, None), (own, size[::-1]), ({"photometric": True} | own, size[::-1])):
        dataset = dataset_of(sample, pixels=pixels, **MMSEG | options)
        for epoch in range(40):
            scale, _, chosen = choices(dataset, (epoch, 0), size)
            expected = mmseg(image, label, dataset.augmentation, scale, chosen, pixels, base)
            assert_equal(dataset[(epoch, 0)], expected)


def test_mmsegs_hue_moves_by_17_upwards_and_by_0_is_a_step_too() -> None:
    rng = np.random.default_rng(0)
    hues = [draw_distortion(rng, as_published=True).hue for _ in range(4000)]
    assert set(hues) == {*range(-18, 18), 180}
    assert abs(np.mean(np.array(hues) != 0) - 0.5) < 0.04


def test_mmseg_rounds_as_mmcv_does_not_to_the_nearest_size(tmp_path: Path) -> None:
    """int(1024 * 0.7513) = 769; 2048 * 769 / 1024 = 1538, though 2048 * 0.7513 is 1538.7."""
    for resize, expected in (("mmseg", (1538, 769)), ("once", (1539, 769)), ("twice", (1538, 769))):
        options = Augmentation((769, 769), scale=(0.7513, 0.7513), aspect=(1, 1), resize=resize)
        assert draw(options, (1024, 2048), np.random.default_rng(0)).window.resized == expected


def test_a_small_image_is_padded_at_the_right_and_the_bottom_by_mmseg_and_anywhere_by_twice(tmp_path: Path) -> None:
    sample = write(tmp_path, np.full((20, 30, 3), 200, np.uint8), np.full((20, 30), 7, np.uint8))
    still = {"crop_size": (80, 70), "scale": (1, 1), "aspect": (1, 1), "brightness": 0}
    for resize, corners in (("mmseg", {(0, 0)}), ("twice", None)):
        dataset, found = dataset_of(sample, resize=resize, **still), set()
        for epoch in range(60):
            inside = np.argwhere(dataset[(epoch, 0)]["label"].numpy() == 6)
            (top, left), (bottom, right) = inside.min(0), inside.max(0)
            assert (bottom - top, right - left, len(inside)) == (19, 29, 600)
            found.add((int(left), int(top)))
        if corners:
            assert found == corners
        else:
            assert len(found) > 50 and min(x for x, _ in found) < 5 and max(x for x, _ in found) > 45


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("options", [TORCHCV, MMSEG], ids=["twice", "mmseg"])
def test_only_what_the_crop_needs_is_decoded_and_resized(tmp_path, suffix: str, options: dict, monkeypatch) -> None:
    image, label = noise((120, 180))
    sample = write(tmp_path, image, label, suffix)
    image = cv2.imread(str(sample.image))
    dataset = dataset_of(sample, **options | {"crop_size": (24, 20)})
    decode, rows, resize, shares = Png.decode, [], cv2.resize, []
    monkeypatch.setattr(Png, "decode", lambda png, flags, count: rows.append(count) or decode(png, flags, count))
    for epoch in range(30):
        chosen = choices(dataset, (epoch, 0), (120, 180))[2]
        with monkeypatch.context() as patch:
            patch.setattr(cv2, "resize", lambda part, *a, **k: shares.append(part.size) or resize(part, *a, **k))
            item = dataset[(epoch, 0)]
        expected = dataset.augment(sample, image, label, (120, 180), chosen)
        assert torch.equal(item["image"], expected["image"]) and torch.equal(item["label"], expected["label"])
    assert np.mean(rows) < 0.85 * 120
    whole = image.size if options is MMSEG else (image.size + 52 * 78 * 3) / 2
    assert np.mean(shares) < 0.7 * whole


@pytest.mark.parametrize("resize", ["twice", "mmseg"])
def test_image_and_label_turn_alike(tmp_path: Path, resize: str) -> None:
    label = np.full((60, 90), 1, np.uint8)
    label[:40, 20:50] = 2
    image = np.where(label == 2, 255, 0).astype(np.uint8)[..., None].repeat(3, -1)
    sample = write(tmp_path, image, label)
    dataset = dataset_of(sample, crop_size=(64, 48), short_side=52, rotation=45.0, resize=resize)
    for epoch in range(10):
        item = dataset[(epoch, 0)]
        level = item["image"][0] + PIXELS.mean[0]
        counts = item["label"] != IGNORE
        assert ((level > 128) == (item["label"] == 1))[counts].float().mean() > 0.95
        assert (item["image"][:, ~counts] == 0).all()


@pytest.mark.parametrize("resize", ["twice", "mmseg"])
def test_a_crop_in_which_one_class_prevails_is_drawn_again(tmp_path: Path, resize: str) -> None:
    label = np.full((60, 200), 1, np.uint8)
    label[:, 120:] = 2
    sample = write(tmp_path, noise(label.shape)[0], label)
    still = {"crop_size": (60, 40), "scale": (1, 1), "aspect": (1, 1), "resize": resize}
    free, bound = dataset_of(sample, **still), dataset_of(sample, category_max_ratio=0.75, **still)

    def prevails(dataset: TrainDataset) -> float:
        counts = [np.bincount(dataset[(epoch, 0)]["label"].ravel(), minlength=2) for epoch in range(60)]
        return np.mean([count.max() > 0.75 * count.sum() for count in counts])

    assert prevails(free) > 0.6 and prevails(bound) < 0.2


@pytest.mark.parametrize(("resize", "again"), [("once", False), ("twice", False), ("mmseg", True)])
def test_a_class_with_just_the_largest_share_is_too_much_for_mmseg_alone(tmp_path, resize: str, again: bool) -> None:
    label = np.full((40, 80), 1, np.uint8)
    label[30:] = 2
    sample = write(tmp_path, noise(label.shape)[0], label)
    dataset = dataset_of(
        sample,
        crop_size=(40, 40),
        scale=(1, 1),
        aspect=(1, 1),
        category_max_ratio=0.75,
        photometric=False,
        resize=resize,
    )
    looked = []
    crop_label = dataset._crop_label
    dataset._crop_label = lambda *arguments: looked.append(arguments) or crop_label(*arguments)
    dataset[(0, 0)]
    assert len(looked) == (REDRAWS + 1 if again else 2)


def test_the_choices_are_the_same_whatever_the_way_of_resizing() -> None:
    for seed in range(20):
        once, twice, mmseg = (
            draw(Augmentation((64, 48), rotation=10.0, resize=resize), (60, 90), np.random.default_rng(seed))
            for resize in ("once", "twice", "mmseg")
        )
        for other in (twice, mmseg):
            assert np.abs(np.subtract(once.window.resized, other.window.resized)).max() <= 2
            if other.window.resized == once.window.resized:
                assert (other.shift, other.flip, other.angle) == (once.shift, once.flip, once.angle)
                assert other.window == once.window


def test_choices_of_once_are_those_of_earlier_releases() -> None:
    """Recorded before there was another way."""
    options = Augmentation((64, 48), short_side=52, rotation=10.0)
    drawn = [draw(options, (61, 97), np.random.default_rng(seed)) for seed in range(3)]
    assert [(d.window.resized, d.window.left, d.window.top, d.offset, d.shift, d.flip) for d in drawn] == [
        ((118, 77), 16, 1, (0, 0), -9, False),
        ((109, 63), 1, 2, (0, 0), 7, True),
        ((72, 47), 3, 0, (0, 0), -1, False),
    ]


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(UserError, match="resize 'thrice' is unknown: choose one of once, twice, mmseg"):
        Augmentation((64, 48), resize="thrice")
