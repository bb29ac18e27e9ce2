"""The protocols of torchcv's and mmsegmentation's tests, written out step by step in NumPy and OpenCV."""

import cv2
import numpy as np
import pytest
import torch

from datasets.seg.dataset import Pixels
from lib.inference import predictor

BGR = Pixels("bgr", (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0))
RGB = Pixels("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))

with torch.random.fork_rng():
    torch.manual_seed(0)
    LAYERS = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.Tanh(),
        torch.nn.Conv2d(8, 20, 3, padding=2, dilation=2),
        torch.nn.Upsample(scale_factor=2, mode="bilinear"),
    ).requires_grad_(False)


def network(image):
    """Logits that depend on the borders of what is shown: windows, padding and mirroring change them."""
    height, width = image.shape[2:]
    return {"out": LAYERS(image / 100)[:, :, :height, :width]}


def answer(pixels):
    """The network's logits [h, w, K] of normalised pixels [h, w, 3]."""
    return (
        network(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None])["out"][0]
        .numpy()
        .transpose(1, 2, 0)
    )


def normalised(levels, pixels):
    channels = levels if pixels.color_order == "bgr" else levels[..., ::-1]
    return ((channels - np.array(pixels.mean)) / pixels.std).astype(np.float32)


def as_input(levels, pixels):
    return torch.from_numpy(normalised(levels, pixels).transpose(2, 0, 1).copy())[None]


def scenery(height, width):
    """A smooth picture with edges, uint8."""
    rng = np.random.default_rng(height * width)
    rough = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)


def torchcv_windows(pixels, window, ratio):
    """Windows of (width, height), or all at once where either side of the image is below them."""
    (height, width), (across, down) = pixels.shape[:2], window
    if height < down or width < across:
        return answer(pixels)
    total, count = np.zeros((height, width, 20)), np.zeros((height, width, 1))

    def starts(length, side):
        stride = int(side * ratio)
        found = [stride * index for index in range((length - side) // stride + 1)]
        return [*found, length - side] if found[-1] + side < length else found

    for top in starts(height, down):
        for left in starts(width, across):
            region = slice(top, top + down), slice(left, left + across)
            total[region] += answer(pixels[region])
            count[region] += 1
    return (total / count).astype(np.float32)


def torchcv_test(levels, pixels, scales, flip, window, ratio, short, long, multiple):
    """Logits [H, W, K]."""
    height, width = levels.shape[:2]
    if short:
        factor = min(short / min(height, width), long / max(height, width))
        size = round(width * factor), round(height * factor)
        levels = cv2.resize(levels, size, interpolation=cv2.INTER_LINEAR)
    image = torch.from_numpy(normalised(levels, pixels).transpose(2, 0, 1).copy())[None]
    total = np.zeros((height, width, 20), np.float32)
    for mirror in (False, True) if flip else (False,):
        for scale in scales:
            rows, columns = (int(side * scale) for side in levels.shape[:2])
            view = torch.nn.functional.interpolate(image, (rows, columns), mode="bilinear", align_corners=True)
            view = view[0].numpy().transpose(1, 2, 0)[:, :: -1 if mirror else 1]
            view = np.pad(view, ((0, -rows % multiple), (0, -columns % multiple), (0, 0)))
            logits = torchcv_windows(view, window, ratio) if window else answer(view)
            logits = cv2.resize(logits[:rows, :columns], (width, height), interpolation=cv2.INTER_CUBIC)
            total += logits[:, :: -1 if mirror else 1]
    return total


def mmseg_slide(pixels, window, stride):
    """Windows of (height, width), each side clipped to the image."""
    height, width = pixels.shape[:2]
    total, count = np.zeros((height, width, 20)), np.zeros((height, width, 1))
    grid = [max(pixels.shape[i] - window[i] + stride[i] - 1, 0) // stride[i] + 1 for i in (0, 1)]
    for row in range(grid[0]):
        for column in range(grid[1]):
            bottom, right = min(row * stride[0] + window[0], height), min(column * stride[1] + window[1], width)
            region = slice(max(bottom - window[0], 0), bottom), slice(max(right - window[1], 0), right)
            total[region] += answer(pixels[region])
            count[region] += 1
    return (total / count).astype(np.float32)


def mmseg_test(levels, pixels, base, ratios, flip, window, stride, align_corners):
    """Mean probabilities [H, W, K]."""
    height, width = levels.shape[:2]
    found = []
    for ratio in ratios:
        factor = ratio
        if base:
            sides = [int(side * ratio) for side in base]
            factor = min(max(sides) / max(height, width), min(sides) / min(height, width))
        size = int(width * factor + 0.5), int(height * factor + 0.5)
        view = normalised(cv2.resize(levels, size, interpolation=cv2.INTER_LINEAR), pixels)
        for step in (1, -1) if flip else (1,):
            shown = np.ascontiguousarray(view[:, ::step])
            logits = (mmseg_slide(shown, window, stride) if window else answer(shown))[:, ::step]
            logits = torch.from_numpy(logits.transpose(2, 0, 1).copy())[None]
            logits = torch.nn.functional.interpolate(
                logits, (height, width), mode="bilinear", align_corners=align_corners
            )
            found.append(logits.softmax(1)[0].numpy().transpose(1, 2, 0))
    return np.mean(found, axis=0)


@pytest.mark.parametrize(
    ("size", "window", "short", "long", "multiple"),
    [
        ((51, 83), None, 0, 0, 1),
        ((83, 51), (40, 24), 0, 0, 1),
        ((51, 83), (60, 40), 0, 0, 8),  # at 0.75 below the window, but for the padding
        ((51, 83), None, 64, 96, 8),
        ((83, 51), (40, 48), 45, 200, 8),
        ((30, 120), (48, 24), 45, 90, 1),
    ],
)
@pytest.mark.parametrize(("scales", "flip"), [([1.0], False), ([0.75, 1.0, 1.3], True)])
def test_torchcv(size, window, short, long, multiple, scales, flip):
    levels = scenery(*size)
    mode = ("ss" if scales == [1.0] else "ms") + ("crop" if window else "")
    ours = predictor(
        mode,
        resize="torchcv",
        windows="torchcv",
        pixels=BGR,
        window=window or (8, 8),
        stride=0.6,
        batch_size=3,
        short_side=short,
        long_side=long,
        pad_multiple=multiple,
        scales=scales,
        flip=flip,
        interpolation="bicubic",
        align_corners=True,
    )(network, as_input(levels, BGR))
    expected = torchcv_test(levels, BGR, scales, flip, window, 0.6, short, long, multiple)
    np.testing.assert_allclose(ours[0].numpy().transpose(1, 2, 0), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "base", "window", "stride"),
    [
        ((51, 83), None, None, None),
        ((51, 83), (200, 64), None, None),
        ((83, 51), (96, 64), (48, 32), (30, 21)),
        ((30, 120), None, (40, 40), (27, 27)),
        ((51, 83), (75, 99), (56, 40), (31, 26)),
    ],
)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("ratios", "flip"), [([1.0], False), ([0.5, 0.75, 1.25], True), ([0.3, 1.7], False)])
def test_mmsegmentation(size, base, window, stride, align_corners, ratios, flip):
    levels = scenery(*size)
    ours = predictor(
        "mscrop" if window else "ms",
        resize="mmseg",
        windows="mmseg",
        pixels=RGB,
        window=window[::-1] if window else (8, 8),
        stride=stride[::-1] if stride else 0.5,
        batch_size=3,
        short_side=min(base or [0]),
        long_side=max(base or [0]),
        scales=ratios,
        flip=flip,
        combine="softmax",
        align_corners=align_corners,
    )(network, as_input(levels, RGB))
    expected = mmseg_test(levels, RGB, base, ratios, flip, window, stride, align_corners)
    np.testing.assert_allclose(ours[0].numpy().transpose(1, 2, 0), expected, rtol=1e-4, atol=1e-5)
