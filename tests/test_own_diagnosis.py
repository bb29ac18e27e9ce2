"""Each finding has data that provoke it, and data beside these that do not."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from own_surveys import entries, facts, gaps, ordinary, photo, scene, survey, to_split

from datasets.seg.own.diagnosis import FEW_IMAGES, FEW_VALIDATION_IMAGES, diagnose
from datasets.seg.own.facts import Entry


def with_labels(change, lossy=False, values=(0, 1, 2), size=(48, 64)):
    """Ordinary pairs whose labels were changed."""
    splits = ["train"] * 8 + ["val"] * 4
    return [
        facts(f"{at:03}", photo(at, *size), change(scene(at, values, *size)), split, lossy)
        for at, split in enumerate(splits)
    ]


def with_images(change, every=1):
    """Ordinary pairs of which each ``every``-th image was changed."""
    splits = ["train"] * 30 + ["val"] * 10
    return [
        facts(f"{at:03}", photo(at) if at % every else change(photo(at)), scene(at, (0, 1, 2)), split)
        for at, split in enumerate(splits)
    ]


def resized(label, how):
    """The mask at four fifths of its size, as ids or colours."""
    colours = label.max() > 255
    bands = np.dstack([label >> 16 & 255, label >> 8 & 255, label & 255] if colours else [label]).astype(np.uint8)
    bands = cv2.resize(bands, None, fx=0.8, fy=0.8, interpolation=how).astype(np.int64)
    return bands[..., 0] << 16 | bands[..., 1] << 8 | bands[..., 2] if colours else bands


def circles(label, at=(20, 30)):
    """Rounder edges than those of blocks: every one of interpolation's values occurs on them."""
    drawn = np.ascontiguousarray(label.astype(np.int32))
    cv2.circle(drawn, at, 12, int(label[0, 0]), -1)
    cv2.circle(drawn, (45, 25), 9, int(label[0, -1]), -1)
    return drawn.astype(np.int64)


def some_classes_each(how):
    """Three of eight classes in each label, resized."""
    values = [[(3 * at + step) % 8 for step in (0, 2, 5)] for at in range(30)]
    labels = [resized(circles(scene(at, values[at], 48, 64)), how) for at in range(30)]
    return [facts(f"{at:03}", photo(at, 38, 51), label) for at, label in enumerate(labels)]


def jpeg(label):
    _, encoded = cv2.imencode(".jpg", label.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED).astype(np.int64)


def moved(found, number, **changes):
    """The survey's pairs, those before ``number`` changed."""
    return [replace(one, **changes) if at < number else one for at, one in enumerate(found)]


def copies(split):
    """The first train image once more, in ``split``."""
    found = ordinary()
    again = facts("again", photo(0), scene(3, (0, 1, 2)), split)
    return survey([*found, again])


def lone(images=0, labels=0):
    return survey(
        ordinary(),
        images_alone=[Path(f"images/alone{n}.png") for n in range(images)],
        labels_alone=[Path(f"labels/alone{n}.png") for n in range(labels)],
    )


def one_split_class(*splits):
    """Class 3 occurs in these splits alone, in three images each."""
    found = ordinary()
    for split in splits:
        found += [facts(f"{split}{n}", photo(900 + n + 50 * len(split)), scene(n, (0, 3)), split) for n in range(3)]
    return survey(found)


def rare_class(pixels, images=4):
    """Class 3 has so many of the million pixels that each of these images has beside 40 ordinary ones."""
    found = ordinary()
    for n in range(images):
        one = facts(f"large{n}", photo(700 + n), scene(n, (0, 1, 2, 3)))
        found.append(replace(one, counts=np.array([500_000, 300_000, 200_000 - pixels, pixels])))
    return survey([*found, facts("val3", photo(800), scene(0, (0, 1, 2, 3)), "val")])


def binary(table):
    return survey(ordinary(values=(0, 255)), table)


RED, GREEN, BLUE = 0xFF0000, 0x00C800, 0x0000FF
BINARY = [Entry(0, 0, "background", (0, 0, 0)), Entry(255, 1, "foreground", (255, 0, 0))]

CASES = {
    "unread": lambda: (
        survey(ordinary(), problems=["images/a.png is truncated: copy it again"]),
        survey(ordinary()),
        "1 file could not be used: images/a.png is truncated",
        True,
    ),
    "no pairs": lambda: (
        survey([facts("a", photo(1), None)], entries([0, 1])),
        survey(ordinary()),
        "no image has a label",
        True,
    ),
    "other sizes": lambda: (
        survey(moved(ordinary(), 2, label_size=(12, 16))),
        survey(ordinary()),
        "2 masks of another size than their image: 000.png is 32 x 24, its mask 16 x 12",
        True,
    ),
    "turned": lambda: (
        survey(moved(ordinary(), 1, label_size=(32, 24))),
        survey(moved(ordinary(), 1, size=(32, 24), label_size=(32, 24))),
        "width and height exchanged: 000.png is 32 x 24, its mask 24 x 32",
        True,
    ),
    "lossy": lambda: (
        survey(with_labels(lambda label: jpeg(100 * label), lossy=True)),
        survey(with_labels(lambda label: 100 * label)),
        "12 masks are stored with loss (JPEG): near edges they are not what was drawn, and have values",
        True,
    ),
    "lossy, thresholded": lambda: (
        survey(with_labels(lambda label: label, lossy=True)),
        survey(ordinary()),
        "12 masks are stored with loss",
        False,
    ),
    "interpolated ids": lambda: (
        survey(with_labels(lambda label: resized(circles(60 * label), cv2.INTER_LINEAR))),
        survey(with_labels(lambda label: resized(circles(60 * label), cv2.INTER_NEAREST))),
        "hardly occur and lie along edges alone",
        True,
    ),
    "interpolated colours": lambda: (
        survey(
            with_labels(lambda label: resized(circles(label), cv2.INTER_CUBIC), values=(RED, GREEN, BLUE)), colours=True
        ),
        survey(
            with_labels(lambda label: resized(circles(label), cv2.INTER_NEAREST), values=(RED, GREEN, BLUE)),
            colours=True,
        ),
        "colours hardly occur and lie along edges alone (#",
        True,
    ),
    "interpolated ids without gaps": lambda: (
        survey(some_classes_each(cv2.INTER_LINEAR)),
        survey(some_classes_each(cv2.INTER_NEAREST)),
        "classes that are areas elsewhere are mere lines in 30 labels",
        False,
    ),
    "unknown values": lambda: (
        survey(ordinary(), entries([0, 1])),
        survey(ordinary(), entries([0, 1, 2])),
        "1 value in labels that the table of classes does not have: 2 (3",
        True,
    ),
    "binary": lambda: (
        binary(BINARY),
        survey(ordinary(values=(0, 1))),
        "binary (background and object): 0 is taken as 0 'background', 255 as 1 'foreground'",
        False,
    ),
    "binary, one ignored": lambda: (
        binary(entries([0, 255], ignored=[255])),
        binary(BINARY),
        "looks binary (background and object), but 255 is ignored: a single class is left",
        True,
    ),
    "mostly 255": lambda: (
        survey(ordinary(values=(0, 1, 255, 255, 255))),
        survey(ordinary(values=(0, 1, 1, 1, 255))),
        "255 in 56.2% of all pixels",
        True,
    ),
    "one class": lambda: (
        survey(ordinary(values=(4, 4))),
        survey(ordinary(values=(4, 5))),
        "all labels show one class alone, 'class_4'",
        True,
    ),
    "mostly labels of one class": lambda: (
        survey([*ordinary(), *(facts(f"x{n}", photo(500 + n), scene(n, [0])) for n in range(50))]),
        survey([*ordinary(), *(facts(f"x{n}", photo(500 + n), scene(n, [0])) for n in range(30))]),
        "55.6% of the labels show one class alone, mostly 'class_0' (50 labels)",
        False,
    ),
    "labels of nothing": lambda: (
        survey([*ordinary(), facts("x", photo(500), scene(0, [255]))]),
        survey([*ordinary(), facts("x", photo(500), scene(0, [255, 0]))]),
        "1 label without a pixel of a class",
        False,
    ),
    "copies across splits": lambda: (copies("val"), survey(ordinary()), "1 image is in more than one split", True),
    "copies within a split": lambda: (copies("train"), copies("val"), "1 image comes more than once in a split", False),
    "not finite": lambda: (
        survey(with_images(gaps)),
        survey(with_images(lambda image: image.astype(np.float32))),
        "40 images with values that are nan or infinite, or marked as without data (up to 16.7% of a band)",
        False,
    ),
    "bands": lambda: (
        survey(with_images(lambda image: np.dstack([image, image[..., :1]]), every=8)),
        survey(with_images(lambda image: np.dstack([image, image[..., :1]]))),
        "images differ in their number of bands: 3 bands in 35, 4 bands in 5",
        True,
    ),
    "kinds of numbers": lambda: (
        survey(with_images(lambda image: image.astype(np.uint16) * 257, every=8)),
        survey(with_images(lambda image: image.astype(np.uint16) * 257)),
        "images differ in their kind of numbers: uint8 in 35, uint16 in 5",
        True,
    ),
    "grey among colours": lambda: (
        survey(with_images(lambda image: image[..., :1], every=8)),
        survey(with_images(lambda image: image[..., :1])),
        "images differ in their number of bands: 3 bands in 35, 1 band in 5",
        False,
    ),
    "images alone": lambda: (
        lone(images=2),
        lone(),
        "2 images without label, beside 40 pairs: they",
        False,
    ),
    "labels alone": lambda: (
        lone(labels=1),
        lone(images=1),
        "1 label without image, beside 40 pairs: it",
        False,
    ),
    "most alone": lambda: (lone(images=41), lone(images=39), "41 images without label", True),
    "constant images": lambda: (
        survey(with_images(lambda image: np.full_like(image, 7), every=20)),
        survey(with_images(lambda image: np.where(image > 99, 7, 8).astype(np.uint8), every=20)),
        "2 images of a single colour",
        False,
    ),
    "black images": lambda: (
        survey(with_images(lambda image: image // 128, every=20)),
        survey(with_images(lambda image: image // 25, every=20)),
        "2 images nearly black",
        False,
    ),
    "constant band": lambda: (
        survey(with_images(lambda image: np.dstack([image, np.full_like(image[..., 0], 255)]))),
        survey(with_images(lambda image: np.dstack([image, image[..., 0]]))),
        "band 4 of 4 is 255 everywhere",
        False,
    ),
    "gaps": lambda: (
        survey(ordinary(values=(0, 1, 2, 5, 9))),
        survey(ordinary(values=(1, 2, 3, 255))),
        "the ids have gaps: 0..2, 5, 9 occur, 3..4, 6..8 do not",
        False,
    ),
    "gaps that a table explains": lambda: (
        survey(ordinary(values=(0, 1, 5))),
        survey(ordinary(values=(0, 1, 5)), entries([0, 1, 5], names={0: "sky", 1: "road", 5: "car"})),
        "the ids have gaps: 0..1, 5 occur, 2..4 do not",
        False,
    ),
    "spread ids": lambda: (
        survey(ordinary(values=(0, 40, 80))),
        survey(ordinary(values=(0, 40, 81))),
        "all ids are multiples of 40 (0, 40, 80)",
        False,
    ),
    "never": lambda: (
        survey(ordinary(), entries([0, 1, 2, 7], names={7: "ship"})),
        survey(ordinary(), entries([0, 1, 2, 7], ignored=[7])),
        "1 class of the table in no label: ship",
        False,
    ),
    "only in val": lambda: (
        one_split_class("val"),
        one_split_class("val", "train"),
        "1 class in val but not in train: class_3; what is not in train cannot be learned",
        False,
    ),
    "only in train": lambda: (
        one_split_class("train"),
        one_split_class("val", "train"),
        "1 class in train but not in val: class_3; what is not in val gets no score",
        False,
    ),
    "only in test": lambda: (
        one_split_class("test"),
        one_split_class("test", "train", "val"),
        "1 class in test but not in train: class_3",
        False,
    ),
    "rare, pixels": lambda: (
        rare_class(99),
        rare_class(110),
        "1 class that hardly occurs, in fewer than 0.01% of the train pixels: class_3 (0.0098%, 4 images)",
        False,
    ),
    "rare, images": lambda: (
        rare_class(2000, images=2),
        rare_class(2000, images=3),
        "1 class that hardly occurs, in fewer than 3 train images: class_3 (0.20%, 2 images)",
        False,
    ),
    "ignored": lambda: (
        survey(ordinary(values=(0, 1, 255, 255))),
        survey(ordinary(values=(0, 1, 0, 255))),
        "50.0% of all pixels are ignored",
        False,
    ),
    "few images": lambda: (
        survey(ordinary(train=FEW_IMAGES - 1)),
        survey(ordinary(train=FEW_IMAGES)),
        "very few images: 19 to train on",
        False,
    ),
    "no image to train on": lambda: (
        survey(ordinary(train=0)),
        survey(ordinary(train=FEW_IMAGES)),
        "very few images: 0 to train on",
        True,
    ),
    "no validation": lambda: (survey(ordinary(val=0)), survey(ordinary()), "no image to validate on", False),
    "few to validate": lambda: (
        survey(ordinary(val=FEW_VALIDATION_IMAGES - 1)),
        survey(ordinary(val=FEW_VALIDATION_IMAGES)),
        "only 7 images to validate on",
        False,
    ),
    "mixed sizes": lambda: (
        survey([*ordinary(), facts("large", photo(77, 24, 129), scene(0, (0, 1, 2), 24, 129))]),
        survey([*ordinary(), facts("large", photo(77, 24, 128), scene(0, (0, 1, 2), 24, 128))]),
        "images of very different sizes: the longer side has 32 to 129 pixels (median 32)",
        False,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_finding_is_made_where_it_belongs_and_not_beside(case):
    provoking, beside, said, severe = CASES[case]()
    found = [finding for finding in diagnose(provoking) if said in finding.what]
    assert len(found) == 1 and found[0].severe == severe, [finding.what for finding in diagnose(provoking)]
    assert found[0].remedy and not found[0].remedy.endswith(".")
    assert not [finding for finding in diagnose(beside) if said in finding.what]


def test_ordinary_data_give_no_finding():
    assert diagnose(survey(ordinary())) == []
    assert diagnose(survey(ordinary(values=(0, 1, 2, 255)))) == []
    assert diagnose(survey(with_images(lambda image: image.astype(np.float32)))) == []


def test_severe_findings_come_first():
    found = diagnose(survey(ordinary(train=5, val=0), problems=["images/a.png is truncated"]))
    assert [finding.severe for finding in found] == [True, False, False]


def test_files_concerned_are_named():
    (found,) = diagnose(copies("val"))
    assert found.paths == [Path("images/000.png"), Path("images/again.png")]
    (found,) = diagnose(survey(moved(ordinary(), 2, label_size=(12, 16))))
    assert found.paths == [Path("labels/000.png"), Path("labels/001.png")]


def test_values_that_interpolation_made_are_told_once_and_not_as_rare_classes():
    found = diagnose(survey(with_labels(lambda label: resized(circles(60 * label), cv2.INTER_LINEAR))))
    assert len([finding for finding in found if "hardly occur and lie along edges" in finding.what]) == 1
    assert not [finding for finding in found if "that hardly occur" in finding.what or "but not in" in finding.what]


def test_where_no_table_could_be_made_the_values_are_still_looked_at():
    """That is before they are divided, too."""
    masks = [to_split(one, "") for one in with_labels(lambda label: jpeg(100 * label), lossy=True)]
    found = diagnose(survey(masks, table=[]))
    assert len(found) == 1 and found[0].severe and "stored with loss" in found[0].what


def test_pairs_that_were_refused_are_told_once():
    found = ordinary()
    found[3] = to_split(replace(found[3], label_size=(9, 9)), "")
    lines = ["size mismatch: image images/003.png is 32 x 24 but label labels/003.png is 9 x 9", "b.png is truncated"]
    said = [finding.what for finding in diagnose(survey(found, problems=lines))]
    assert said == [
        "1 file could not be used: b.png is truncated",
        "1 mask of another size than its image: 003.png is 32 x 24, its mask 9 x 9",
    ]
