"""Samples: what is listed, what an item holds, and how bad files are refused."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datasets.seg.augment import Augmentation, draw
from datasets.seg.classes import IGNORE, load_table
from datasets.seg.dataset import EvalDataset, Pixels, Sample, TrainDataset, list_samples
from datasets.seg.files import read_image
from datasets.seg.png import Png
from lib.base.errors import UserError

TABLE = load_table("cityscapes")
PIXELS = Pixels("bgr", mean=(102.9801, 115.9465, 122.7717), std=(1.0, 2.0, 57.375))
SIZE = (60, 90)
LABEL_OF_ROAD, TRAIN_ID_OF_ROAD = 7, 0


def write_sample(root: Path, name: str, split: str = "train", suffix: str = ".png") -> Sample:
    """Write a random image and a random label with legal ids."""
    rng = np.random.default_rng(sum(name.encode()))
    image, label = root / split / "image" / f"{name}{suffix}", root / split / "label" / f"{name}.png"
    for path, shape, ids in ((image, (*SIZE, 3), 256), (label, SIZE, 34)):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, ids, shape, dtype=np.uint8))
    return Sample(name, image, label)


def train_dataset(samples: list[Sample], seed: int = 0, **options) -> TrainDataset:
    return TrainDataset(samples, TABLE, PIXELS, Augmentation(**({"crop_size": (64, 48)} | options)), seed)


def decoded(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    return cv2.imread(str(sample.image)), cv2.imread(str(sample.label), cv2.IMREAD_UNCHANGED)


def expected_train_ids(label: np.ndarray) -> np.ndarray:
    """Cityscapes' train ids, from the dataset's own documentation."""
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    result = np.full(label.shape, 255)
    for train_id, label_id in enumerate(ids):
        result[label == label_id] = train_id
    return result


def normalised(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] -> [3, H, W], in float64."""
    return ((image - np.array(PIXELS.mean)) / np.array(PIXELS.std)).transpose(2, 0, 1)


# Listing


def test_samples_are_pairs_sorted_by_name_whatever_their_format(tmp_path: Path) -> None:
    written = [
        write_sample(tmp_path, name, suffix=suffix) for name, suffix in (("b", ".jpg"), ("c", ".png"), ("a", ".png"))
    ]
    (tmp_path / "train" / "image" / "Thumbs.db").touch()
    assert list_samples(tmp_path, "train") == sorted(written, key=lambda sample: sample.name)


def test_labels_are_not_needed_where_they_are_not_asked_for(tmp_path: Path) -> None:
    sample = write_sample(tmp_path, "a", split="test")
    sample.label.unlink()
    assert list_samples(tmp_path, "test", labelled=False) == [Sample("a", sample.image, None)]


def remove_label(root: Path) -> None:
    (root / "train" / "label" / "a.png").unlink()


def remove_image(root: Path) -> None:
    (root / "train" / "image" / "a.png").unlink()


def remove_all_labels(root: Path) -> None:
    for path in (root / "train" / "label").iterdir():
        path.unlink()


def add_second_image(root: Path) -> None:
    (root / "train" / "image" / "a.jpg").touch()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_label, r"image/a.png has no label in .*/label.*prepare"),
        (remove_image, r"label/a.png has no image in .*/image.*prepare"),
        (remove_all_labels, r"no train labels: .*/train/label.*prepare"),
        (add_second_image, r"a.jpg and a.png share one name"),
    ],
)
def test_images_and_labels_that_do_not_pair_up_are_refused(tmp_path: Path, damage, message: str) -> None:
    for name in ("a", "b"):
        write_sample(tmp_path, name)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        list_samples(tmp_path, "train")


def test_missing_or_empty_folders_are_named_with_the_command_that_fills_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is not a folder.*datasets.seg.preprocess"):
        list_samples(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match=r"is empty.*datasets.seg.preprocess"):
        list_samples(tmp_path, "train")
    write_sample(tmp_path, "a", split="train")
    with pytest.raises(UserError, match=r"no val images: .*/val/image"):
        list_samples(tmp_path, "val")


# Items


def test_untouched_training_item_is_the_normalised_image_and_its_train_ids(tmp_path: Path) -> None:
    sample = write_sample(tmp_path, "a")
    still = {"crop_size": SIZE[::-1], "scale": (1, 1), "aspect": (1, 1), "brightness": 0}
    image, label = decoded(sample)
    for flip, order in ((0.0, 1), (1.0, -1)):
        item = train_dataset([sample], flip=flip, **still)[(0, 0)]
        np.testing.assert_allclose(item["image"], normalised(image)[..., ::order], rtol=1e-6, atol=1e-6)
        assert np.array_equal(item["label"], expected_train_ids(label)[:, ::order])


@pytest.mark.parametrize("crop_size", [(64, 48), (128, 40), (40, 128), (300, 300)])
def test_training_item_equals_the_recipe_applied_to_the_whole_image_step_by_step(tmp_path: Path, crop_size) -> None:
    sample = write_sample(tmp_path, "a")
    dataset = train_dataset([sample], crop_size=crop_size, seed=5)
    image, label = decoded(sample)
    for epoch in range(12):
        rng = np.random.default_rng(np.random.SeedSequence(5, spawn_key=(epoch, 0)))
        chosen = draw(dataset.augmentation, SIZE, rng)
        window, (x, y) = chosen.window, chosen.offset
        large = cv2.resize(image, window.resized)[window.top :, window.left :][: window.height, : window.width]
        expected = np.full((*crop_size[::-1], 3), PIXELS.mean)
        expected[y : y + window.height, x : x + window.width] = np.clip(large.astype(float) + chosen.shift, 0, 255)
        expected_label = np.full(crop_size[::-1], IGNORE)
        nearest = cv2.resize(label, window.resized, interpolation=cv2.INTER_NEAREST)
        nearest = nearest[window.top :, window.left :][: window.height, : window.width]
        expected_label[y : y + window.height, x : x + window.width] = expected_train_ids(nearest)
        if chosen.flip:
            expected, expected_label = expected[:, ::-1], expected_label[:, ::-1]

        item = dataset[(epoch, 0)]
        levels = np.abs(item["image"].numpy() - normalised(expected)) * np.array(PIXELS.std)[:, None, None]
        assert levels.max() <= 1.001
        assert np.array_equal(item["label"], expected_label)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_training_item_of_partly_decoded_files_is_that_of_the_whole_ones(tmp_path, suffix: str, monkeypatch) -> None:
    sample = write_sample(tmp_path, "a", suffix=suffix)
    dataset = train_dataset([sample], crop_size=(40, 30))
    image, label = decoded(sample)
    decode, asked = Png.decode, []
    monkeypatch.setattr(Png, "decode", lambda png, flags, rows: asked.append(rows) or decode(png, flags, rows))
    for epoch in range(30):
        chosen = draw(
            dataset.augmentation, SIZE, np.random.default_rng(np.random.SeedSequence(0, spawn_key=(epoch, 0)))
        )
        item, expected = dataset[(epoch, 0)], dataset.augment(sample, image, label, SIZE, chosen)
        assert torch.equal(item["image"], expected["image"])
        assert torch.equal(item["label"], expected["label"])
        assert item["meta"]["size"] == SIZE
    assert np.mean(asked) < 0.85 * SIZE[0]


def test_padding_is_zero_in_the_image_and_ignored_in_the_label(tmp_path: Path) -> None:
    sample = write_sample(tmp_path, "a")
    cv2.imwrite(str(sample.image), np.full((*SIZE, 3), 200, np.uint8))
    cv2.imwrite(str(sample.label), np.full(SIZE, LABEL_OF_ROAD, np.uint8))
    item = train_dataset([sample], crop_size=(200, 200), scale=(1, 1), aspect=(1, 1))[(0, 0)]
    inside = item["label"] == TRAIN_ID_OF_ROAD
    assert int(inside.sum()) == SIZE[0] * SIZE[1]
    assert (item["label"][~inside] == IGNORE).all()
    assert (item["image"][:, ~inside] == 0).all()
    assert (item["image"][:, inside] != 0).all()


def test_item_is_contiguous_and_of_the_contracted_types(tmp_path: Path) -> None:
    sample = write_sample(tmp_path, "a")
    for item in (train_dataset([sample])[(0, 0)], EvalDataset([sample], TABLE, PIXELS)[0]):
        assert (item["image"].dtype, item["label"].dtype) == (torch.float32, torch.int64)
        assert item["image"].is_contiguous() and item["label"].is_contiguous()
        assert item["image"].shape[1:] == item["label"].shape
        expected = {"name": "a", "image": str(sample.image), "label": str(sample.label), "size": SIZE}
        assert item["meta"] == expected


def test_randomness_derives_from_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    samples = [write_sample(tmp_path, "a")] * 2
    dataset = train_dataset(samples, seed=1)
    first = dataset[(3, 1)]["image"]
    dataset[(0, 0)]
    assert torch.equal(dataset[(3, 1)]["image"], first)
    for other in (dataset[(4, 1)], dataset[(3, 0)], train_dataset(samples, seed=2)[(3, 1)]):
        assert not torch.equal(other["image"], first)


@pytest.mark.parametrize("shift", [-10, 0, 7])
def test_brightness_saturates_and_rgb_means_are_in_rgb_order(shift: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    image[0] = [[0, 3, 255]]
    out = np.empty((3, 7, 5), np.float32)
    Pixels("rgb", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)).normalise(image, out, shift)
    shifted = np.clip(image.astype(float) + shift, 0, 255)
    for channel, (blue_green_red, mean, std) in enumerate(
        [(2, 123.675, 58.395), (1, 116.28, 57.12), (0, 103.53, 57.375)]
    ):
        np.testing.assert_allclose(out[channel], (shifted[..., blue_green_red] - mean) / std, rtol=1e-5, atol=1e-6)


def test_unknown_colour_order_is_refused() -> None:
    with pytest.raises(UserError, match="'gbr' is unknown: choose bgr or rgb"):
        Pixels("gbr", (0, 0, 0), (1, 1, 1))


def test_evaluation_item_is_the_whole_image_as_it_is(tmp_path: Path) -> None:
    sample = write_sample(tmp_path, "a", suffix=".jpg")
    image, label = decoded(sample)
    item = EvalDataset([sample], TABLE, PIXELS)[0]
    np.testing.assert_allclose(item["image"], normalised(image), rtol=1e-6, atol=1e-6)
    assert np.array_equal(item["label"], expected_train_ids(label))
    unlabelled = EvalDataset([Sample("a", sample.image, None)], TABLE, PIXELS)[0]
    assert "label" not in unlabelled and unlabelled["meta"]["label"] is None


def test_orientation_tag_of_a_camera_does_not_turn_the_image_away_from_its_label(tmp_path: Path) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    jpeg = cv2.imencode(".jpg", np.zeros((*SIZE, 3), np.uint8))[1].tobytes()
    path = tmp_path / "turned.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    assert cv2.imread(str(path)).shape[:2] == SIZE[::-1]
    assert read_image(path).shape[:2] == SIZE


# Bad files


def cut_in_half(sample: Sample) -> None:
    content = sample.image.read_bytes()
    sample.image.write_bytes(content[: len(content) // 2])


def cut_label_tail(sample: Sample) -> None:
    sample.label.write_bytes(sample.label.read_bytes()[:-6])


def change_last_pixels(sample: Sample) -> None:
    """What a crop at the top never decodes."""
    content = bytearray(sample.label.read_bytes())
    content[-20] ^= 1
    sample.label.write_bytes(content)


def write_text(sample: Sample) -> None:
    sample.image.write_text("not an image")


def write_nothing(sample: Sample) -> None:
    sample.image.write_bytes(b"")


def remove(sample: Sample) -> None:
    sample.image.unlink()


def shrink_label(sample: Sample) -> None:
    cv2.imwrite(str(sample.label), np.zeros((SIZE[0], SIZE[1] - 1), np.uint8))


def colour_label(sample: Sample) -> None:
    cv2.imwrite(str(sample.label), np.zeros((*SIZE, 3), np.uint8))


def deep_label(sample: Sample) -> None:
    cv2.imwrite(str(sample.label), np.zeros(SIZE, np.uint16))


def unknown_label(sample: Sample) -> None:
    cv2.imwrite(str(sample.label), np.full(SIZE, 34, np.uint8))


DAMAGES = [
    (cut_in_half, "image is truncated"),
    (cut_label_tail, "label is truncated"),
    (change_last_pixels, "label is damaged"),
    (write_text, "image is not a readable PNG or JPEG"),
    (write_nothing, "image is truncated"),
    (remove, "image cannot be read: No such file"),
    (shrink_label, "image is 90 x 60 but its label .* is 89 x 60"),
    (colour_label, "label is not a label: .*one channel"),
    (deep_label, "label is not a label: .*8-bit"),
    (unknown_label, "label 34 in label is not a cityscapes label id \\(0..33\\)"),
]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_bad_file_is_refused_by_name_in_training_and_evaluation(tmp_path, suffix: str, damage, message: str) -> None:
    sample = write_sample(tmp_path, "a", suffix=suffix)
    damage(sample)
    for dataset, key in ((train_dataset([sample]), (0, 0)), (EvalDataset([sample], TABLE, PIXELS), 0)):
        with pytest.raises(UserError) as caught:
            dataset[key]
        said = str(caught.value)
        assert "\n" not in said
        said = said.replace(str(sample.image), "image").replace(str(sample.label), "label")
        assert re.search(message, said), said


def test_truncation_is_seen_behind_a_whole_thumbnail(tmp_path: Path) -> None:
    thumbnail = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    jpeg = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8))[1].tobytes()
    whole = jpeg[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + jpeg[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(whole)
    assert read_image(path).shape == (*SIZE, 3)
    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="truncated"):
        read_image(path)
