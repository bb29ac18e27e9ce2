"""Validation protocols: windows cover each pixel and average where they overlap; scales and flips add up."""

import math

import cv2
import numpy as np
import pytest
import torch

from lib.base.errors import UserError
from lib.inference import predict, predictor, resize_logits, sliding_window, whole_image, window_starts


def pointwise(image):
    """A network without context: windows cannot change what it says."""
    red, green, blue = image.unbind(1)
    return {"out": torch.stack([red - green, 2 * blue, red * green, 1 + blue**2], dim=1)}


def positional(image):
    """A network that answers with the position within its input, so that each window says something else."""
    rows = torch.arange(image.shape[2], dtype=image.dtype)[:, None].expand(image.shape[2:])
    columns = torch.arange(image.shape[3], dtype=image.dtype).expand(image.shape[2:])
    position = torch.stack([rows, columns])
    return {"out": position + image[:, :1]}


class Recorder:
    """The pointwise network, remembering what it was given."""

    def __init__(self):
        self.images = []

    def __call__(self, image):
        self.images.append(image.clone())
        return pointwise(image)

    @property
    def shapes(self):
        return [tuple(image.shape) for image in self.images]

    @property
    def sizes(self):
        return [shape[2:] for shape in self.shapes]


def starts_in_words(length, window, stride):
    starts, start = [], 0
    while start + window <= length:
        starts.append(start)
        start += stride
    if starts[-1] + window < length:
        starts.append(length - window)
    return starts


def averaged_by_loop(model, image, width, height, stride):
    """Sum and count of every window, one at a time, in float64."""
    image = image.double()
    total, count = 0, torch.zeros(image.shape[2:], dtype=torch.float64)
    down, along = (int(height * stride), int(width * stride)) if stride <= 1 else (stride, stride)
    for top in starts_in_words(image.shape[2], height, down):
        for left in starts_in_words(image.shape[3], width, along):
            logits = model(image[:, :, top : top + height, left : left + width])["out"]
            right, bottom = image.shape[3] - left - width, image.shape[2] - top - height
            total = total + torch.nn.functional.pad(logits, (left, right, top, bottom))
            count[top : top + height, left : left + width] += 1
    return total / count


def random_image(height, width, batch=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_window_starts_of_the_published_protocols():
    assert window_starts(2048, 769, 512) == [0, 512, 1024, 1279]
    assert window_starts(1024, 769, 512) == [0, 255]
    # mmsegmentation: 769 x 769, stride 513
    assert window_starts(2049, 769, 513) == [0, 513, 1026, 1280]


@pytest.mark.parametrize("window", range(1, 8))
@pytest.mark.parametrize("stride", range(1, 8))
def test_windows_start_at_multiples_of_the_stride_and_end_at_the_border(window, stride):
    for length in range(window, 30):
        assert window_starts(length, window, stride) == starts_in_words(length, window, stride)


@pytest.mark.parametrize("size", [(20, 31), (17, 40), (16, 24), (33, 24)])
@pytest.mark.parametrize("stride", [0.3, 0.667, 1.0, 5, 11, 16])
def test_overlapping_windows_are_averaged(size, stride):
    image = random_image(*size, batch=2)
    logits = sliding_window(positional, image, window=(24, 16), stride=stride)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, averaged_by_loop(positional, image, 24, 16, stride).float())


def test_a_network_without_context_says_the_same_by_windows_as_whole():
    image = random_image(45, 77, batch=2)
    by_windows = sliding_window(pointwise, image, window=(24, 16), batch_size=3)
    torch.testing.assert_close(by_windows, whole_image(pointwise, image))


@pytest.mark.parametrize("batch_size", [2, 5, 1000])
def test_the_number_of_windows_in_a_batch_changes_no_bit(batch_size):
    image = random_image(45, 77, batch=2)
    one_by_one = sliding_window(positional, image, window=(24, 16), batch_size=1)
    assert torch.equal(sliding_window(positional, image, window=(24, 16), batch_size=batch_size), one_by_one)


def test_no_forward_pass_holds_more_windows_than_the_batch():
    model = Recorder()
    sliding_window(model, random_image(45, 77), window=(24, 16), batch_size=4)
    assert {shape[1:] for shape in model.shapes} == {(3, 16, 24)}
    counts = [shape[0] for shape in model.shapes]
    assert counts[:-1] == [4] * (len(counts) - 1) and 1 <= counts[-1] <= 4
    assert sum(counts) == len(starts_in_words(45, 16, 10)) * len(starts_in_words(77, 24, 16))


@pytest.mark.parametrize("size", [(15, 60), (60, 23)])
def test_an_image_smaller_than_the_window_on_either_side_is_evaluated_whole(size):
    model = Recorder()
    image = random_image(*size)
    logits = sliding_window(model, image, window=(24, 16))
    assert model.shapes == [image.shape]
    assert torch.equal(logits, pointwise(image)["out"])


@pytest.mark.parametrize("size", [(12, 60), (60, 20), (12, 20), (16, 24), (16, 25), (45, 77)])
@pytest.mark.parametrize("stride", [0.667, 7, (9, 5)])
def test_clipped_windows_slide_along_the_other_side_and_average(size, stride):
    image, model = random_image(*size, batch=2), Recorder()
    clipped = (min(size[0], 16), min(size[1], 24))
    logits = sliding_window(positional, image, window=(24, 16), stride=stride, clip=True)
    across, down = stride if isinstance(stride, tuple) else (stride, stride)
    steps = [int(side * step) if step <= 1 else step for side, step in ((16, down), (24, across))]
    total, count = torch.zeros(2, 2, *size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for top in starts_in_words(size[0], clipped[0], steps[0]):
        for left in starts_in_words(size[1], clipped[1], steps[1]):
            for row in range(clipped[0]):
                for column in range(clipped[1]):
                    position = torch.tensor([row, column]) + image[:, :1, top + row, left + column].double()
                    total[:, :, top + row, left + column] += position
                    count[top + row, left + column] += 1
    assert count.min() > 0
    torch.testing.assert_close(logits, (total / count).float())
    sliding_window(model, image, window=(24, 16), stride=stride, clip=True)
    assert set(model.sizes) == {clipped}


def test_strides_of_their_own_along_each_side():
    image = random_image(45, 77)
    model = Recorder()
    logits = sliding_window(model, image, window=(24, 16), stride=(20, 0.5))
    assert len(model.shapes) == len(starts_in_words(45, 16, 8)) * len(starts_in_words(77, 24, 20))
    torch.testing.assert_close(logits, pointwise(image)["out"])


def test_low_precision_logits_are_averaged_in_float32():
    def constant(image):
        return {"out": torch.full((len(image), 2, *image.shape[2:]), 1.7, dtype=torch.bfloat16)}

    logits = sliding_window(constant, random_image(20, 31), window=(9, 7), stride=0.2)
    torch.testing.assert_close(logits, constant(random_image(20, 31))["out"].float())


def test_prediction_is_the_class_of_the_largest_logit():
    logits = torch.zeros(1, 150, 2, 2)
    logits[0, 149, 0, 0] = logits[0, 3, 0, 1] = logits[0, 7, 1, 0] = logits[0, 0, 1, 1] = 1
    assert torch.equal(predict(logits), torch.tensor([[[149, 3], [7, 0]]], dtype=torch.uint8))


def test_modes_choose_between_whole_image_and_sliding_windows():
    image = random_image(45, 77)
    for mode, shapes in [("ss", {(1, 3, 45, 77)}), ("sscrop", {(2, 3, 16, 24), (1, 3, 16, 24)})]:
        model = Recorder()
        logits = predictor(mode, window=(24, 16), stride=0.9, batch_size=2)(model, image)
        assert set(model.shapes) <= shapes
        torch.testing.assert_close(logits, pointwise(image)["out"])


def ramp(height, width):
    """A grey level for every channel that rises by 2 a row and 3 a column, and by 100 from channel to channel."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    level = (2.0 * rows + 3.0 * columns).expand(1, 3, height, width)
    return level + 100 * torch.arange(3.0)[:, None, None]


def linear(image):
    """A network without context that is linear in the grey levels: it says as much of a resized image, resized."""
    red, green, blue = image.unbind(1)
    return {"out": torch.stack([red + green, 3 * blue - red], dim=1)}


@pytest.mark.parametrize("combine, factor", [("sum", 6), ("mean", 1)])
@pytest.mark.parametrize("mode", ["ms", "mscrop"])
def test_on_a_ramp_every_scale_and_flip_says_the_same(mode, combine, factor):
    image = ramp(60, 84)
    infer = predictor(mode, window=(24, 16), scales=(0.5, 1.0, 1.75), flip=True, combine=combine)
    # Beyond the middles of the outermost pixels, resizing repeats them: half a pixel of the smallest scale, and back.
    inside = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(infer(linear, image)[inside], factor * linear(image)["out"][inside])


def test_what_is_said_of_the_mirrored_image_is_mirrored_back():
    infer = predictor("ms", window=(24, 16), scales=(1.0,), flip=True)
    rows, columns = infer(positional, torch.zeros(1, 3, 20, 30))[0]
    # `positional` answers with the column: x from the left in one view, x from the right in the other
    assert torch.equal(columns, torch.full((20, 30), 29.0))
    assert torch.equal(rows, 2 * torch.arange(20.0)[:, None].expand(20, 30))


def by_width(image):
    """A network of two classes that answers with the logarithm of its input's width, and 0."""
    logits = torch.zeros(len(image), 2, *image.shape[2:])
    logits[:, 0] = math.log(image.shape[3])
    return {"out": logits}


@pytest.mark.parametrize("flip", [False, True])
def test_scales_are_combined_as_asked_for(flip):
    image, scales = torch.zeros(1, 3, 10, 20), (0.5, 1.0, 2.0)
    widths = [10, 20, 40]
    logits = [math.log(width) for width in widths]
    probability = np.mean([width / (width + 1) for width in widths])
    expected = {"sum": sum(logits) * (1 + flip), "mean": np.mean(logits), "softmax": probability}
    for combine, value in expected.items():
        infer = predictor("ms", window=(8, 8), scales=scales, flip=flip, combine=combine)
        first, second = infer(by_width, image)[0]
        torch.testing.assert_close(first, torch.full((10, 20), float(value)))
        torch.testing.assert_close(second, torch.full((10, 20), 1 - value if combine == "softmax" else 0.0))


def many_classes(image):
    """A network without context of more classes than are added at once."""
    weights = torch.linspace(-2, 3, 3 * 40).reshape(40, 3)
    return {"out": torch.einsum("kc,bchw->bkhw", weights, image).tanh()}


@pytest.mark.parametrize("size", [(37, 51), (40, 64)])
@pytest.mark.parametrize("interpolation, flag", [("bilinear", cv2.INTER_LINEAR), ("bicubic", cv2.INTER_CUBIC)])
def test_images_and_logits_are_resized_as_opencv_resizes_them(size, interpolation, flag):
    scales = (0.5, 0.75, 1.25, 1.75)
    infer = predictor("ms", window=(8, 8), scales=scales, flip=True, interpolation=interpolation)
    image = random_image(*size)
    expected = 0
    for scale in scales:
        width, height = (int(side * scale + 0.5) for side in size[::-1])
        for flip in (1, -1):
            levels = np.ascontiguousarray(image[0].permute(1, 2, 0).numpy()[:, ::flip])
            levels = cv2.resize(levels, (width, height), interpolation=cv2.INTER_LINEAR)
            logits = many_classes(torch.from_numpy(levels).permute(2, 0, 1)[None])["out"][0]
            resized = cv2.resize(logits.permute(1, 2, 0).numpy(), size[::-1], interpolation=flag)
            expected = expected + resized[:, ::flip].transpose(2, 0, 1)
    np.testing.assert_allclose(infer(many_classes, image)[0].numpy(), expected, atol=2e-4)


@pytest.mark.parametrize("size", [(9, 20), (41, 33), (64, 64)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_logits_are_resized_on_every_device_as_pytorch_resizes_them(size, interpolation):
    logits = torch.randn(2, 5, 24, 30, generator=torch.Generator().manual_seed(0))[..., :21, :25]
    expected = torch.nn.functional.interpolate(logits.double(), size, mode=interpolation)
    torch.testing.assert_close(resize_logits(logits, size, interpolation, False), expected.float())


def test_bilinear_logits_align_corners_where_the_model_does():
    image = random_image(9, 9)
    infer = predictor("ms", window=(8, 8), scales=(0.5,), align_corners=True)
    coarse = pointwise(torch.nn.functional.interpolate(image, (5, 5), mode="bilinear"))["out"]
    logits = infer(pointwise, image)
    # 5 pixels to 9: every second pixel is a coarse one, those between are means
    torch.testing.assert_close(logits[..., ::2, ::2], coarse)
    torch.testing.assert_close(logits[..., 1::2, ::2], (coarse[..., 1:, :] + coarse[..., :-1, :]) / 2)


@pytest.mark.parametrize(
    "size, short, long, expected",
    [
        ((300, 400), 512, 2048, (512, 683)),  # mmsegmentation's 2048 x 512 on ADE20K: height, width
        ((400, 4000), 512, 2048, (205, 2048)),
        ((683, 512), 512, 2048, (683, 512)),
        ((500, 375), 520, 1040, (693, 520)),  # torchcv's
        ((300, 900), 520, 1040, (347, 1040)),
        ((300, 400), 600, 0, (600, 800)),
        ((30, 41), 0, 0, (30, 41)),
    ],
)
def test_images_are_resized_to_the_short_side_within_the_long_one(size, short, long, expected):
    model, image = Recorder(), torch.zeros(1, 3, *size)
    logits = predictor("ss", window=(8, 8), short_side=short, long_side=long)(model, image)
    assert model.sizes == [expected] and logits.shape[2:] == size


def test_scales_are_on_top_of_the_short_side():
    model = Recorder()
    predictor("ms", window=(8, 8), short_side=60, scales=(0.5, 1.5))(model, torch.zeros(1, 3, 40, 80))
    assert model.sizes == [(30, 60), (90, 180)]


def test_padding_is_mean_colour_at_the_right_and_bottom_and_its_logits_are_cut_off():
    model, image = Recorder(), random_image(13, 21)
    logits = predictor("ms", window=(8, 8), pad_multiple=8, scales=(1.0,), flip=True)(model, image)
    for seen, content in zip(model.images, (image, image.flip(-1)), strict=True):
        assert seen.shape == (1, 3, 16, 24)
        assert torch.equal(seen[..., :13, :21], content)
        assert not seen[..., 13:, :].any() and not seen[..., :, 21:].any()
    torch.testing.assert_close(logits, 2 * pointwise(image)["out"])


def test_windows_slide_over_every_scale_that_is_large_enough():
    model = Recorder()
    infer = predictor("mscrop", window=(24, 16), stride=0.5, scales=(0.5, 2.0), batch_size=3)
    infer(model, random_image(20, 40))
    assert model.sizes[0] == (10, 20)  # smaller than the window: whole
    assert set(model.sizes[1:]) == {(16, 24)}
    windows = len(starts_in_words(40, 16, 8)) * len(starts_in_words(80, 24, 12))
    assert sum(shape[0] for shape in model.shapes[1:]) == windows


@pytest.mark.parametrize("batch_size, batches", [(2, [1, 1]), (4, [2])])
def test_an_image_and_its_mirror_image_go_together_where_they_fit_into_the_batch(batch_size, batches):
    model = Recorder()
    # 16 x 24 pixels twice are as many as four windows of 12 x 16
    infer = predictor("ms", window=(12, 16), scales=(1.0,), flip=True, batch_size=batch_size)
    infer(model, random_image(16, 24))
    assert [shape[0] for shape in model.shapes] == batches


def test_single_scale_modes_leave_scales_and_flips_aside():
    for mode in ("ss", "sscrop"):
        model = Recorder()
        predictor(mode, window=(24, 16), scales=(0.5, 2.0), flip=True, combine="softmax")(model, random_image(16, 24))
        assert model.shapes == [(1, 3, 16, 24)]


@pytest.mark.parametrize(
    "mode, settings, words",
    [
        ("crops", {}, "'crops'.*ss, sscrop, ms or mscrop"),
        ("sscrop", {"window": (24, 0)}, "24 x 0"),
        ("sscrop", {"stride": 16.5}, "16.5.*gaps.*16"),
        ("sscrop", {"stride": 0.0}, "0.0"),
        ("sscrop", {"batch_size": 0}, "batch_size 0"),
        ("ss", {"pad_multiple": 0}, "pad_multiple 0"),
        ("ms", {"scales": ()}, "scales"),
        ("ms", {"scales": (1.0, -0.5)}, "-0.5"),
        ("ms", {"combine": "max"}, "'max'.*sum, mean, softmax"),
        ("ms", {"interpolation": "nearest"}, "'nearest'.*bilinear, bicubic"),
        ("ss", {"resize": "nearest"}, "resize 'nearest'.*centres, torchcv, mmseg"),
        ("sscrop", {"windows": "whole"}, "windows 'whole'.*torchcv, mmseg"),
        ("sscrop", {"stride": (25, 16)}, "25.*gaps.*24"),
        ("sscrop", {"stride": (24, 17)}, "17.*gaps.*16"),
    ],
)
def test_protocols_that_cannot_be_are_named(mode, settings, words):
    with pytest.raises(UserError, match=words):
        predictor(mode, **{"window": (24, 16), **settings})
