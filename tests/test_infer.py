"""Sliding windows cover each pixel, average where they overlap, and agree with whole-image inference."""

import pytest
import torch

from lib.engine.infer import predict, predictor, sliding_window, whole_image, window_starts
from lib.errors import UserError


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
    """The pointwise network, remembering the shapes of what it was given."""

    def __init__(self):
        self.shapes = []

    def __call__(self, image):
        self.shapes.append(tuple(image.shape))
        return pointwise(image)


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
    for top in starts_in_words(image.shape[2], height, int(height * stride)):
        for left in starts_in_words(image.shape[3], width, int(width * stride)):
            logits = model(image[:, :, top : top + height, left : left + width])["out"]
            right, bottom = image.shape[3] - left - width, image.shape[2] - top - height
            total = total + torch.nn.functional.pad(logits, (left, right, top, bottom))
            count[top : top + height, left : left + width] += 1
    return total / count


def random_image(height, width, batch=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_window_starts_of_the_published_protocol():
    assert window_starts(2048, 769, 512) == [0, 512, 1024, 1279]
    assert window_starts(1024, 769, 512) == [0, 255]


@pytest.mark.parametrize("window", range(1, 8))
@pytest.mark.parametrize("stride", range(1, 8))
def test_windows_start_at_multiples_of_the_stride_and_end_at_the_border(window, stride):
    for length in range(window, 30):
        assert window_starts(length, window, stride) == starts_in_words(length, window, stride)


@pytest.mark.parametrize("size", [(20, 31), (17, 40), (16, 24), (33, 24)])
@pytest.mark.parametrize("stride", [0.3, 0.667, 1.0])
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


@pytest.mark.parametrize(
    "mode, settings, words",
    [
        ("ms", {}, "'ms'.*ss.*sscrop"),
        ("sscrop", {"window": (24, 0)}, "24 x 0"),
        ("sscrop", {"stride": 1.5}, "1.5"),
        ("sscrop", {"stride": 0.0}, "0.0"),
        ("sscrop", {"batch_size": 0}, "0 windows"),
    ],
)
def test_protocols_that_cannot_be_are_named(mode, settings, words):
    with pytest.raises(UserError, match=words):
        predictor(mode, **{"window": (24, 16), **settings})
