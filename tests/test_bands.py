"""Images of other than three 8-bit bands train, validate and are shown; three 8-bit bands stay what they were."""

from pathlib import Path

import cv2
import damage
import numpy as np
import pytest
import tifffile
import torch
from conftest import FAST, Run

from datasets.seg.augment import Augmentation
from datasets.seg.bands import as_picture
from datasets.seg.classes import find_table
from datasets.seg.dataset import EvalDataset, Pixels, TrainDataset, list_samples
from datasets.seg.files import read_image
from lib.base.errors import UserError
from lib.models import BACKBONES, build_segmentor
from lib.models.backbones import CIFAR_BACKBONES
from lib.resizing import WAYS
from lib.weights.bands import fit_bands, spread_bands
from lib.weights.loading import load_weights, start_from

SIZE = (40, 48)
CLASSES = "id,name,train_id,red,green,blue,weight\n0,field,0,0,200,0,\n1,water,1,0,0,200,\n255,void,,,,,\n"


def write_array(path: Path, pixels: np.ndarray) -> None:
    np.save(path.with_suffix(".npy"), pixels)


def write_tiff(path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(path.with_suffix(".tif"), pixels, photometric="minisblack", planarconfig="contig")


def write_png(path: Path, pixels: np.ndarray) -> None:
    cv2.imwrite(str(path.with_suffix(".png")), pixels[..., ::-1])


def make_data(root: Path, images: list[np.ndarray], write) -> Path:
    """A DATA_DIR of two classes, each split with the same images and labels."""
    for split in ("train", "val"):
        for part in ("image", "label"):
            (root / split / part).mkdir(parents=True)
        for number, pixels in enumerate(images):
            write(root / split / "image" / str(number), pixels)
            label = np.random.default_rng(number).integers(0, 2, SIZE).astype(np.uint8)
            cv2.imwrite(str(root / split / "label" / f"{number}.png"), label)
    (root / "classes.csv").write_text(CLASSES)
    return root


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [damage.scene(rng, *SIZE) for _ in range(count)]


def datasets(root: Path, pixels: Pixels, **options):
    table = find_table("auto", root)
    train = TrainDataset(list_samples(root, "train"), table, pixels, Augmentation((32, 24), **options), seed=5)
    return train, EvalDataset(list_samples(root, "val"), table, pixels)


# From files to the network's input


@pytest.mark.parametrize("bands", [4, 5, 6])
@pytest.mark.parametrize(
    "options",
    [
        {"resize": "once"},
        {"resize": "once", "rotation": 30.0},
        {"resize": "once", "scale": (0.3, 0.5)},
        {"resize": "twice", "short_side": 60},
        {"resize": "mmseg", "category_max_ratio": 0.75},
        {"resize": "mmseg", "rotation": 10.0},
    ],
)
def test_each_band_is_augmented_as_that_of_a_picture_bit_by_bit(tmp_path, bands, options):
    first, second = pictures(3), pictures(3, seed=1)
    mean, std = (120.0, 110.0, 100.0), (60.0, 57.0, 1.0)
    roots = [make_data(tmp_path / name, images, write_png) for name, images in (("a", first), ("b", second))]
    joined = [np.dstack(both)[..., :bands] for both in zip(first, second, strict=True)]
    whole = make_data(tmp_path / "c", joined, write_array)
    train, val = datasets(whole, Pixels("bgr", (mean + mean)[:bands], (std + std)[:bands]), **options)
    apart = [datasets(root, Pixels("rgb", mean, std), **options) for root in roots]
    for key in [(0, 0), (0, 1), (1, 2), (2, 0)]:
        item, parts = train[key], [part[0][key] for part in apart]
        assert torch.equal(item["image"], torch.cat([part["image"] for part in parts])[:bands])
        assert torch.equal(item["label"], parts[0]["label"])
    assert torch.equal(val[1]["image"], torch.cat([part[1][1]["image"] for part in apart])[:bands])


@pytest.mark.parametrize("dtype, scale", [("uint16", 200), ("float32", 1 / 255), ("int16", -3)])
@pytest.mark.parametrize("write", [write_array, write_tiff])
def test_numbers_are_normalised_on_their_own_scale_and_never_brightened(tmp_path, dtype, scale, write):
    images = [(np.dstack([p, p[::-1]]) * np.float64(scale)).astype(dtype) for p in pictures(2)]
    mean, std = np.arange(6) * 10 * scale, (np.arange(6) + 1.0) * abs(scale)
    root = make_data(tmp_path / "data", images, write)
    pixels = Pixels("bgr", tuple(mean), tuple(std))
    train, val = datasets(root, pixels, brightness=200, scale=(1, 1), aspect=(1, 1), flip=0)
    expected = ((images[1] - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(val[1]["image"], expected, rtol=1e-5, atol=1e-4)
    crop = train[0, 1]["image"].numpy()
    windows = np.lib.stride_tricks.sliding_window_view(expected, (24, 32), axis=(1, 2))
    assert np.abs(windows - crop[:, None, None]).max(axis=(0, 3, 4)).min() < 1e-3


def test_three_bands_of_16_bits_come_in_the_order_of_the_network(tmp_path):
    images = [p.astype(np.uint16) * 256 for p in pictures(2)]
    root = make_data(tmp_path / "data", images, write_array)
    for order, expected in (("rgb", images[0]), ("bgr", images[0][..., ::-1])):
        _, val = datasets(root, Pixels(order, (0.0, 1.0, 2.0), (1.0, 1.0, 1.0)))
        assert np.array_equal(val[0]["image"].permute(1, 2, 0), expected - np.float32([0, 1, 2]))


def test_what_is_no_finite_number_is_the_mean(tmp_path):
    image = np.dstack(pictures(2)[:1] * 2).astype(np.float32)[..., :4]
    image[3, 4, 1], image[5, 6, 2], image[7, 8, 0] = np.nan, np.inf, -np.inf
    _, val = datasets(make_data(tmp_path / "data", [image], write_array), Pixels("bgr", (7.0,) * 4, (2.0,) * 4))
    found = val[0]["image"]
    assert found.isfinite().all() and found[1, 3, 4] == found[2, 5, 6] == found[0, 7, 8] == 0
    assert (found == 0).sum() == 3 + (image == 7).sum()


def test_grey_is_one_band_or_three_equal_ones(tmp_path):
    root = make_data(
        tmp_path / "data", [picture[..., 0] for picture in pictures(2)], lambda p, x: write_png(p, x[:, :, None])
    )
    _, one = datasets(root, Pixels("bgr", (9.0,), (2.0,)))
    _, three = datasets(root, Pixels("bgr", (9.0,) * 3, (2.0,) * 3))
    assert one[0]["image"].shape[0] == 1 and torch.equal(one[0]["image"].expand(3, -1, -1), three[0]["image"])


@pytest.mark.parametrize("resize", WAYS)
def test_bands_are_resized_for_validation_as_they_are_and_pictures_as_they_were(resize):
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(1, 4, 20, 30, generator=rng) * 3
    way = WAYS[resize]
    many = next(iter(way(short_side=15, pixels=Pixels("bgr", (0.5,) * 4, (0.1,) * 4)).images(image, [1.0])))
    plain = next(iter(way(short_side=15, pixels=None).images(image, [1.0])))
    assert many.shape[:3] == (1, 4, 15) and torch.equal(many, plain)


# The network and its weights


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "hrnet_w18", "preact_resnet20"])
def test_a_backbone_takes_any_number_of_bands(name):
    build = (BACKBONES | CIFAR_BACKBONES)[name]
    with torch.device("meta"):
        backbone = build(in_channels=5)
        assert [x.shape[1] for x in backbone(torch.zeros(2, 5, 64, 64))] == list(backbone.channels)


def test_spread_weights_follow_the_formula():
    weight = torch.randn(8, 3, 3, 3, dtype=torch.float64)
    for bands in (1, 2, 3, 4, 6, 7):
        spread = spread_bands(weight, bands).numpy()
        assert spread.shape == (8, bands, 3, 3)
        for band in range(bands):
            expected = weight.numpy().sum(1) if bands == 1 else weight.numpy()[:, band % 3] * 3 / bands
            np.testing.assert_allclose(spread[:, band], expected, rtol=1e-15)


def test_repeated_bands_and_grey_give_the_activations_that_they_gave():
    picture, weight = torch.randn(1, 3, 20, 20, dtype=torch.float64), torch.randn(8, 3, 3, 3, dtype=torch.float64)
    convolve = torch.nn.functional.conv2d
    for times in (2, 3):
        found = convolve(picture.repeat(1, times, 1, 1), spread_bands(weight, 3 * times))
        torch.testing.assert_close(found, convolve(picture, weight), rtol=0, atol=1e-13)
    grey = picture[:, :1]
    torch.testing.assert_close(convolve(grey, spread_bands(weight, 1)), convolve(grey.expand(-1, 3, -1, -1), weight))


def test_imagenet_weights_are_spread_and_the_log_says_so(tmp_path):
    source = BACKBONES["resnet18"](stem="plain")
    target = BACKBONES["resnet18"](in_channels=4, stem="plain")
    published = {}
    for name, tensor in source.state_dict().items():
        name = name.replace("stem.0.conv.", "conv1.").replace("stem.0.norm.", "bn1.")
        published[name] = tensor
    torch.save(published, tmp_path / "resnet18.pth")
    network = torch.nn.Module()
    network.backbone = target
    line = start_from(network, tmp_path / "resnet18.pth")
    assert line.endswith("spread from 3 to 4 bands: w'[:, c] = w[:, c mod 3] * 3 / 4") and "0 missing" in line
    first = target.state_dict()["stem.0.conv.weight"]
    assert torch.equal(first, source.state_dict()["stem.0.conv.weight"][:, [0, 1, 2, 0]] * 0.75)
    state = source.state_dict()
    found, line = fit_bands(state, source)
    assert line is None and found is state


def test_a_whole_network_is_spread_over_other_bands_and_only_for_a_new_training(tmp_path):
    def build(bands):
        backbone, head = {"name": "resnet18", "output_stride": 32}, {"name": "fcn"}
        return build_segmentor(num_classes=2, backbone=backbone, head=head, aux=None, in_channels=bands)

    source, target = build(3), build(1)
    torch.save({"format": 1, "model": source.state_dict(), "iteration": 7}, tmp_path / "best.pth")
    line = start_from(target, tmp_path / "best.pth")
    assert "backbone.stem.0.conv.weight spread from 3 to 1 band: the sum over the 3" in line
    name = "backbone.stem.0.conv.weight"
    assert torch.equal(target.state_dict()[name][:, 0], source.state_dict()[name].sum(1))
    assert torch.equal(target.head.classifier.weight, source.head.classifier.weight)
    with pytest.raises(UserError, match=r"best.pth holds another model: .* 1 of another shape .*stem"):
        load_weights(target, tmp_path / "best.pth")


# What is shown


def test_a_picture_of_any_bands_shows_them_between_their_2nd_and_98th_percentile():
    values = np.random.default_rng(0).normal(1e4, 500, (30, 40, 5)).astype(np.float32)
    values[0, 0, 1] = np.nan
    picture = as_picture(values)
    assert picture.shape == (30, 40, 3) and picture.dtype == np.uint8
    for band in range(3):
        low, high = np.nanpercentile(values[..., band].astype(np.float64), (2, 98))
        expected = np.clip((values[..., band] - low) / (high - low) * 255, 0, 255)
        assert np.abs(picture[..., band] - np.nan_to_num(expected)).max() <= 0.51
    for bands in (1, 2):
        grey = as_picture(values[..., :bands])
        assert np.array_equal(grey, np.repeat(picture[..., :1], 3, axis=2))
    assert (as_picture(np.full((4, 4, 1), 7.0)) == 0).all()


@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_8_bit_pictures_are_shown_as_they_are_and_others_by_their_bands(order):
    levels = pictures(1)[0]
    for picture in (levels, levels // 100, np.zeros_like(levels)):
        pixels, out = Pixels(order, (120.3, 110.2, 100.1), (57.0, 58.0, 1.0)), np.empty((3, *SIZE), np.float32)
        pixels.normalise(picture, out)
        assert np.array_equal(pixels.restore(torch.from_numpy(out)), picture)
        assert pixels.are_grey_levels(torch.from_numpy(out))
    shares = levels.astype(np.float32) / 255
    pixels = Pixels(order, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    pixels.normalise(shares, out)
    assert not pixels.are_grey_levels(torch.from_numpy(out))
    assert np.abs(pixels.restore(torch.from_numpy(out)).astype(int) - as_picture(shares)).max() <= 1
    for bands in (1, 2, 4, 8):
        image = torch.randn(bands, *SIZE)
        assert Pixels(order, (0.0,) * bands, (1.0,) * bands).restore(image).shape == (*SIZE, 3)


# Runs


def options(root: Path, bands: int, level: float) -> tuple[str, ...]:
    values = (f"data.mean={[level] * bands}", f"data.std={[level] * bands}")
    small = (
        "train.max_iters=2",
        "checkpoint.interval=100",
        "loss.class_weights=false",
        "val.mode=ss",
        "val.extremes=1",
        "data.crop_size=[32,32]",
    )
    return ("data.dataset=auto", f"data.root={root}", f"data.bands={bands}", *values, *FAST, *small)


RUNS = {
    "four bands of floats in a TIFF": (4, 0.4, write_tiff, lambda p: np.dstack([p, p[::-1, :, :1]]).astype("f4") / 255),
    "one band of 16 bits": (1, 3e4, write_array, lambda p: p[..., 0].astype(np.uint16) * 256),
    "one band in a PNG": (1, 110.0, lambda path, p: write_png(path, p[..., None]), lambda p: p[..., 0]),
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_network_trains_and_validates_on(kind, tmp_path, command, runs):
    bands, level, write, made_of = RUNS[kind]
    root = make_data(tmp_path / "data", [made_of(picture) for picture in pictures(3)], write)
    words = options(root, bands, level)
    done = command("train", "tag=a", *words, "val.interval=2")
    assert done.status == 0 and done.stderr == "", done.stderr
    run = Run(runs("a").path.parents[2] / "auto" / "dnl_r101" / "a")
    rows = run.rows
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row) and rows[-1]["miou"] > 0
    if bands == 1:
        return
    # What its checkpoint is good for, and for what not.
    done = command("val", "tag=a", *words, f"checkpoint={run.checkpoint()}")
    assert done.status == 0, done.stderr
    assert {path.name for path in (run.path / "val" / "label").iterdir()} == {"0.png", "1.png", "2.png"}
    shown = read_image(next((run.path / "val" / "vis").iterdir()))
    assert shown.shape == (*SIZE, 3) and shown.std() > 20
    assert len(list((run.path / "val" / "extremes").iterdir())) == 2
    other = [word for word in options(root, 3, level) if not word.startswith("data.root")]
    done = command("val", "tag=a", f"data.root={root}", *other, f"checkpoint={run.checkpoint()}")
    assert "holds another model" in done.error and "stem" in done.error


# Refused


@pytest.mark.parametrize(
    "words, expected",
    [
        (["data.bands=4"], "data.mean=[102.9801, 115.9465, 122.7717]: must have 4 entries, one for each of data.bands"),
        (["data.bands=2", "data.mean=[1,1]"], "data.std=[1.0, 1.0, 1.0]: must have 2 entries"),
        (["data.bands=0"], "data.bands=0: must be at least 1 and at most 64"),
        (["data.bands=1", "data.mean=[1]", "data.std=[1]", "data.photometric=true"], "data.bands is 1, set false"),
        (["model.backbone.options.in_channels=4"], "in_channels"),
    ],
)
def test_keys_that_do_not_go_together_are_named(command, words, expected, data_root):
    assert expected in command("train", "tag=x", f"data.root={data_root}", "device=cpu", *words).error


def test_an_image_of_other_bands_is_named(tmp_path):
    root = make_data(tmp_path / "data", [np.dstack(pictures(2))], write_array)
    for bands in (3, 4):
        _, val = datasets(root, Pixels("bgr", (0.0,) * bands, (1.0,) * bands))
        with pytest.raises(UserError, match=rf"0.npy has 6 bands, data.bands is {bands}: set data.bands, data.mean"):
            val[0]
    colour = make_data(tmp_path / "colour", pictures(1), write_png)
    with pytest.raises(UserError, match=r"0.png has 3 bands, data.bands is 1"):
        datasets(colour, Pixels("bgr", (0.0,), (1.0,)))[1][0]


def test_colours_of_other_than_8_bits_are_not_distorted(tmp_path):
    root = make_data(tmp_path / "data", [pictures(1)[0].astype(np.uint16)], write_array)
    train, _ = datasets(root, Pixels("bgr", (0.0,) * 3, (1.0,) * 3), photometric=True)
    with pytest.raises(UserError, match=r"distorts 8-bit colours, but .*0.npy is uint16: set data.photometric=false"):
        train[0, 0]
