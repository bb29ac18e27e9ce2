"""The sizes at which a network sees an image, and its pixels there, against written-out arithmetic and OpenCV."""

from itertools import product

import cv2
import numpy as np
import pytest
import torch

from datasets.seg.dataset import Pixels
from lib.inference import predictor
from lib.resizing import WAYS

BGR = Pixels("bgr", (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0))
RGB = Pixels("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def random_levels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def normalised(levels, pixels):
    """[1, 3, H, W], worked out in float64."""
    channels = levels if pixels.color_order == "bgr" else levels[..., ::-1]
    return torch.from_numpy((channels - np.array(pixels.mean)) / pixels.std).permute(2, 0, 1)[None].float()


def images(way, image, scales, **settings):
    return list(WAYS[way](**settings).images(image, scales))


def aligned_corners(plane, height, width):
    """Bilinear interpolation of a plane with the corners' centres on one another, pixel by pixel in float64."""
    resized = np.empty((height, width))
    for row, column in product(range(height), range(width)):
        y = row * (plane.shape[0] - 1) / (height - 1) if height > 1 else 0.0
        x = column * (plane.shape[1] - 1) / (width - 1) if width > 1 else 0.0
        top, left = min(int(y), plane.shape[0] - 2), min(int(x), plane.shape[1] - 2)
        down, along = y - top, x - left
        upper = (1 - along) * plane[top, left] + along * plane[top, left + 1]
        lower = (1 - along) * plane[top + 1, left] + along * plane[top + 1, left + 1]
        resized[row, column] = (1 - down) * upper + down * lower
    return resized


class TestSizes:
    """(height, width); what differs from way to way is worked out beside the case."""

    @pytest.mark.parametrize(
        ("size", "scale", "expected"),
        [
            ((67, 101), 0.75, {"centres": (50, 76), "torchcv": (50, 75), "mmseg": (50, 76)}),  # 50.25, 75.75
            ((67, 101), 1.25, {"centres": (84, 126), "torchcv": (83, 126), "mmseg": (84, 126)}),  # 83.75, 126.25
            ((1024, 2048), 0.76, {"centres": (778, 1556), "torchcv": (778, 1556), "mmseg": (778, 1556)}),
            ((3, 2), 0.1, dict.fromkeys(("centres", "torchcv", "mmseg"), (1, 1))),
        ],
    )
    def test_without_a_short_side_scales_are_of_the_image(self, size, scale, expected):
        assert {way: WAYS[way]().size(size, scale) for way in WAYS} == expected

    @pytest.mark.parametrize(
        ("size", "short", "long", "scale", "expected"),
        [
            # 91 x 77 / 61 = 114.87; halves: 57.43, 38.5; of 115 x 77: 57.5, 38.5; from 38: 38 / 61 x 91 = 56.7
            ((91, 61), 77, 154, 0.5, {"centres": (57, 39), "torchcv": (57, 38), "mmseg": (57, 38)}),
            # the long side decides: 41 x 112 / 151 = 30.41, 30 there; times 1.75: 53.2, 52.5; 41 x 196 / 151 = 53.2
            ((41, 151), 56, 112, 1.75, {"centres": (53, 196), "torchcv": (52, 196), "mmseg": (53, 196)}),
            # 0.5 x 513 = 256.5 is 256 for mmseg, and 256 / 300 x 400 = 341.3
            ((300, 400), 513, 2048, 0.5, {"centres": (257, 342), "torchcv": (256, 342), "mmseg": (256, 341)}),
            # mmsegmentation's Cityscapes in windows of 769
            ((1024, 2048), 1025, 2049, 1.0, {"centres": (1025, 2049), "torchcv": (1024, 2049), "mmseg": (1025, 2049)}),
            ((1024, 2048), 1025, 2049, 0.75, {"centres": (768, 1537), "torchcv": (768, 1536), "mmseg": (768, 1536)}),
            ((300, 400), 512, 0, 1.5, {"centres": (768, 1024), "torchcv": (768, 1024), "mmseg": (768, 1024)}),
            ((30, 40), 4, 8, 0.1, dict.fromkeys(("centres", "torchcv", "mmseg"), (1, 1))),
        ],
    )
    def test_scales_come_on_top_of_the_short_side(self, size, short, long, scale, expected):
        sizes = {way: WAYS[way](short_side=short, long_side=long).size(size, scale) for way in WAYS}
        assert sizes == expected

    @pytest.mark.parametrize("way", WAYS)
    def test_images_have_them(self, way):
        resizing = WAYS[way](short_side=33, long_side=60, pixels=RGB)
        scales = (0.3, 1.0, 1.9)
        seen = resizing.images(normalised(random_levels(29, 47), RGB), scales)
        assert [tuple(image.shape) for image in seen] == [(1, 3, *resizing.size((29, 47), scale)) for scale in scales]


@pytest.mark.parametrize("pixels", [BGR, RGB], ids=["bgr", "rgb"])
def test_every_grey_level_is_found_again(pixels):
    levels = np.stack([np.roll(np.arange(256, dtype=np.uint8), 7 * channel) for channel in range(3)], -1)[None]
    out = np.empty((3, 1, 256), np.float32)
    pixels.normalise(levels, out)
    assert np.array_equal(pixels.restore(torch.from_numpy(out)), levels)


@pytest.mark.parametrize("size", [(20, 31), (31, 20)])
@pytest.mark.parametrize("scale", [0.06, 0.5, 0.75, 1.25, 1.75])
def test_torchcv_aligns_the_corners_of_the_normalised_image(size, scale):
    image = normalised(random_levels(*size), BGR)
    (seen,) = images("torchcv", image, [scale], pixels=BGR)
    height, width = (int(side * scale) for side in size)
    expected = np.stack([aligned_corners(plane, height, width) for plane in image[0].double().numpy()])
    np.testing.assert_allclose(seen[0].numpy(), expected, atol=1e-3)  # of grey levels up to 255


def test_torchcv_resizes_grey_levels_first_and_rounds_them():
    levels = random_levels(40, 70)
    seen = images("torchcv", normalised(levels, BGR), [1.0, 0.75], short_side=28, long_side=45, pixels=BGR)
    fitted = cv2.resize(levels, (45, 26), interpolation=cv2.INTER_LINEAR)  # 45 / 70 x 40 = 25.7
    assert np.array_equal(BGR.restore(seen[0][0]), fitted)
    torch.testing.assert_close(seen[0], normalised(fitted, BGR))
    expected = np.stack([aligned_corners(plane, 19, 33) for plane in normalised(fitted, BGR)[0].double().numpy()])
    np.testing.assert_allclose(seen[1][0].numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("pixels", [BGR, RGB], ids=["bgr", "rgb"])
def test_mmseg_resizes_the_grey_levels_for_every_scale(pixels):
    levels, sizes = random_levels(40, 70), [(14, 25), (29, 50), (43, 75)]
    seen = images("mmseg", normalised(levels, pixels), [0.5, 1.0, 1.5], short_side=30, long_side=50, pixels=pixels)
    for image, (height, width) in zip(seen, sizes, strict=True):
        expected = cv2.resize(levels, (width, height), interpolation=cv2.INTER_LINEAR)
        torch.testing.assert_close(image, normalised(expected, pixels))


@pytest.mark.parametrize("way", WAYS)
def test_without_pixels_nothing_is_rounded(way):
    levels = random_levels(40, 70)
    (seen,) = images(way, normalised(levels, RGB), [1.0], short_side=23)
    expected = normalised(cv2.resize(levels.astype(np.float32), (40, 23), interpolation=cv2.INTER_LINEAR), RGB)
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-4)
    if way != "centres":
        (rounded,) = images(way, normalised(levels, RGB), [1.0], short_side=23, pixels=RGB)
        assert 0.001 < (rounded - seen).abs().max() < 1.1 / min(RGB.std)


@pytest.mark.parametrize("way", ["torchcv", "mmseg"])
def test_an_image_of_the_size_it_is_to_have_is_not_touched(way):
    image = torch.randn(1, 3, 20, 30)  # no grey levels at all: rounding would show
    (seen,) = images(way, image, [1.0], pixels=BGR)
    assert torch.equal(seen, image)


@pytest.mark.parametrize("way", WAYS)
def test_memory_format_and_batch_stay(way):
    levels = [random_levels(20, 30, seed) for seed in range(2)]
    image = torch.cat([normalised(one, BGR) for one in levels]).contiguous(memory_format=torch.channels_last)
    together = images(way, image, [0.5, 1.5], short_side=25, pixels=BGR)
    apart = [images(way, image[i : i + 1].contiguous(), [0.5, 1.5], short_side=25, pixels=BGR) for i in range(2)]
    for seen, *parts in zip(together, *apart, strict=True):
        assert seen.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(seen, torch.cat(parts))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["ss", "ms", "sscrop", "mscrop"])
def test_answers_have_the_images_own_size(way, mode):
    sizes = []

    def network(image):
        sizes.append(tuple(image.shape[-2:]))
        return {"out": image}

    settings = {"short_side": 33, "long_side": 40, "scales": (0.5, 1.0), "flip": True, "pad_multiple": 8}
    infer = predictor(mode, window=(16, 16), resize=way, windows="mmseg", pixels=BGR, batch_size=9, **settings)
    assert infer(network, normalised(random_levels(29, 47), BGR)).shape == (1, 3, 29, 47)
    assert set(sizes) <= {(16, 16)} if mode.endswith("crop") else sizes[-1] == (32, 40)
