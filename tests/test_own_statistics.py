"""The figures of a survey against the same in float64, from the arrays or by hand."""

import math

import numpy as np
from own_surveys import entries, facts, gaps, ordinary, photo, scene, survey

from datasets.seg.own.statistics import class_weights, mean_and_std, measure


def test_mean_and_deviation_are_those_of_all_train_pixels_in_float64():
    found = ordinary(train=7, val=3)
    pixels = np.concatenate([photo(at).reshape(-1, 3) for at in range(7)]).astype(np.float64)
    mean, std = mean_and_std(found[:7])
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=0), rtol=1e-12)
    measured = measure(survey(found))
    assert measured["mean"] == mean and measured["std"] == std


def test_mean_and_deviation_leave_out_what_is_not_finite():
    images = [gaps(photo(at, bands=4)) for at in range(3)]
    pixels = np.concatenate([image.reshape(-1, 4) for image in images]).astype(np.float64)
    mean, std = mean_and_std([facts(str(at), image, None) for at, image in enumerate(images)])
    np.testing.assert_allclose(mean, np.nanmean(pixels, axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, np.nanstd(pixels, axis=0), rtol=1e-12)


def test_grey_images_count_in_all_bands_of_those_in_colour():
    images = [photo(1), photo(2), photo(3)[..., :1]]
    pixels = np.concatenate([np.broadcast_to(image, (24, 32, 3)).reshape(-1, 3) for image in images]).astype(float)
    mean, std = mean_and_std([facts(str(at), image, None) for at, image in enumerate(images)])
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=0), rtol=1e-12)


def test_class_weights_are_the_root_of_median_frequency_balancing():
    """By hand: class 0 has 24 of the 32 pixels of two images, 1 has 4 of 32, 2 has 3 of 16 pixels, 3 has none."""
    first, second = np.zeros((4, 4), int), np.zeros((4, 4), int)
    first[0, :2], second[3, :2] = 1, 1
    first[2, 1:4] = 2
    second[0, 0] = 255
    found = [facts("a", photo(1, 4, 4), first), facts("b", photo(2, 4, 4), second)]
    # What is not in train does not count.
    found.append(facts("c", photo(3, 4, 4), np.full((4, 4), 2), "val"))
    frequency = [24 / 32, 4 / 32, 3 / 16]
    expected = [math.sqrt((3 / 16) / part) for part in frequency] + [1.0]
    weights = class_weights(survey(found, entries([0, 1, 2, 3, 255], ignored=[255])))
    np.testing.assert_allclose(weights, expected, rtol=1e-12)


def test_class_weights_stay_within_their_bounds():
    label = scene(0, range(3), 100, 300)
    label[:, :] = 0
    label[0, :3], label[1, :100] = 1, 2
    assert class_weights(survey([facts("a", photo(1, 100, 300), label)]))[:2] == [0.25, 4.0]


def test_the_facts_are_those_that_a_run_reads():
    found = ordinary(train=5, val=2, values=(0, 1, 255, 255))
    found.append(facts("wide", photo(9, 20, 40), scene(0, [1], 20, 40), "test"))
    measured = measure(survey(found, entries([0, 1, 255], ignored=[255], names={0: "sky", 1: "road"})))
    labels = [scene(at, (0, 1, 255, 255)) for at in range(5)]
    assert set(measured) == {
        "format", "bands", "dtype", "mean", "std", "images", "width", "height", "pixels", "ignored_share"
    }  # fmt: skip
    assert (measured["format"], measured["bands"], measured["dtype"]) == (1, 3, "uint8")
    assert measured["images"] == {"train": 5, "val": 2, "test": 1}
    assert (measured["width"], measured["height"]) == ([32, 32, 32], [24, 24, 24])
    assert measured["pixels"] == {
        "sky": sum((x == 0).sum() for x in labels),
        "road": sum((x == 1).sum() for x in labels),
    }
    assert measured["ignored_share"] == 0.5
