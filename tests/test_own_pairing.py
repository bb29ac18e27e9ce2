"""new-dataset: which label belongs to which image, and which images judge."""

import os

import cv2
import numpy as np
import pytest
from own_layouts import NewDataset, image, label, make, prepared, put

from datasets.seg.dataset import list_samples
from datasets.seg.own.affixes import Affix, infer
from datasets.seg.own.facts import Pair, PairFacts
from datasets.seg.own.listing import describe
from datasets.seg.own.split import divide
from lib.base.errors import UserError


@pytest.fixture
def new_dataset(monkeypatch, capfd):
    return NewDataset(monkeypatch, capfd)


def names(data, split):
    return [sample.name for sample in list_samples(data, split)]


@pytest.mark.parametrize(
    "images, labels, expected",
    [
        (["a", "b"], ["a", "b"], ("", "", "", "")),
        (["1", "2", "11", "12"], ["1_mask", "2_mask", "11_mask", "12_mask"], ("", "", "", "_mask")),
        (["img_1", "img_2"], ["mask_1", "mask_2"], ("img_", "", "mask_", "")),
        (["img1", "img2"], ["lab1", "lab2"], ("img", "", "lab", "")),
        (["x_img", "y_img"], ["x_mask", "y_mask"], ("", "_img", "", "_mask")),
        (["x", "yy"], ["x_ids_final", "yy_ids_final"], ("", "", "", "_ids_final")),
        (["a_leftImg8bit", "b_leftImg8bit"], [f"{key}_gtFine_{end}" for key in "ab" for end in ("color", "labelIds")],
         ("", "_leftImg8bit", "", "_gtFine_labelIds")),
        (["a", "b"], ["a_overlay", "b_overlay", "a_x", "b_x"], ("", "", "", "_x")),
    ],
)  # fmt: skip
def test_affixes_are_seen_in_the_names(images, labels, expected):
    before, after, label_before, label_after = expected
    assert infer(images, labels) == (Affix(before, after), Affix(label_before, label_after), len(images))


@pytest.mark.parametrize(
    "folders, expected",
    [
        (("train", "aachen"), ("train", ("aachen",), "")),
        (("trainannot",), ("train", (), "label")),
        (("masks", "validation"), ("val", (), "label")),
        (("images_test",), ("test", (), "image")),
        (("train2017",), ("train", (), "")),
        (("training_station",), ("", ("training_station",), "")),
        (("great_masks",), ("", ("great_masks",), "")),
        (("SegmentationClass",), ("", (), "label")),
    ],
)
def test_folders_say_a_split_a_role_or_neither(folders, expected):
    assert describe(folders) == expected


def test_cityscapes_layout_pairs_by_itself_and_cities_tell_equal_names_apart(new_dataset, tmp_path):
    for split, city, name in (
        ("train", "aachen", "1"),
        ("train", "bonn", "1"),
        ("train", "bonn", "22"),
        ("val", "ulm", "1"),
    ):
        seed = len(split + city + name)
        put(tmp_path / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image(seed))
        for ending in ("labelIds", "color"):
            put(tmp_path / "gtFine" / split / city / f"{name}_gtFine_{ending}.png", label(seed))
    status, out, _ = new_dataset(tmp_path / "leftImg8bit", tmp_path / "gtFine", tmp_path / "data")
    assert status == 0 and "4 more files" in " ".join(out.split())
    assert names(tmp_path / "data", "train") == ["22_leftImg8bit", "aachen_1_leftImg8bit", "bonn_1_leftImg8bit"]
    assert names(tmp_path / "data", "val") == ["1_leftImg8bit"]
    found = prepared(tmp_path / "data")
    assert np.array_equal(found["aachen_1_leftImg8bit"], label(len("trainaachen1")))
    assert np.array_equal(found["bonn_1_leftImg8bit"], label(len("trainbonn1")))


@pytest.mark.parametrize(
    "images, labels",
    [("{}.jpg", "{}_mask.png"), ("{}.jpg", "{}.png"), ("{}.png", "{}-what.png"), ("images/{}.png", "masks/{}.png")],
)
def test_images_and_labels_may_lie_side_by_side(new_dataset, tmp_path, images, labels):
    for seed in range(4):
        put(tmp_path / "raw" / images.format(f"photo{seed}"), image(seed))
        put(tmp_path / "raw" / labels.format(f"photo{seed}"), label(seed))
    assert new_dataset(tmp_path / "raw", tmp_path / "raw", tmp_path / "data")[0] == 0
    found = prepared(tmp_path / "data")
    assert found.keys() == {f"photo{seed}" for seed in range(4)}
    assert all(np.array_equal(found[f"photo{seed}"], label(seed)) for seed in range(4))


def test_labels_may_lie_in_a_folder_inside_the_images(new_dataset, tmp_path):
    for seed in range(3):
        put(tmp_path / "raw" / f"{seed}.png", image(seed))
        put(tmp_path / "raw" / "masks" / f"{seed}.png", label(seed))
    assert new_dataset(tmp_path / "raw", tmp_path / "raw" / "masks", tmp_path / "data")[0] == 0
    assert len(prepared(tmp_path / "data")) == 3


def test_a_pattern_says_what_names_do_not(new_dataset, tmp_path):
    images, labels = make(tmp_path / "raw")
    for seed in range(5):
        put(labels / f"old_photo_{seed}_v1.png", label(seed + 50))
    assert new_dataset(images, labels, tmp_path / "data", "--pattern", "old_{stem}_v1.png")[0] == 0
    assert all(np.array_equal(ids, label(int(name[-1]) + 50)) for name, ids in prepared(tmp_path / "data").items())
    both = "photo_{stem}=old_photo_{stem}_v1"
    assert new_dataset(images, labels, tmp_path / "both", "--pattern", both)[0] == 0
    assert len(prepared(tmp_path / "both")) == 5
    for wrong in ("mask", "{stem}={stem}={stem}", "{stem}{stem}"):
        assert "--pattern" in new_dataset.error(images, labels, tmp_path / "no", "--pattern", wrong)
    assert "by its name" in new_dataset.error(images, labels, tmp_path / "no", "--pattern", "{stem}_nothing")


@pytest.mark.parametrize("delimiter", [",", "\t", " "])
def test_a_list_pairs_and_divides(new_dataset, tmp_path, delimiter):
    images, labels = make(tmp_path / "raw")
    for seed in range(5):
        os.rename(labels / f"photo_{seed}.png", labels / f"{9 - seed}.png")
    lines = [
        delimiter.join([f"photo_{seed}.png", f"{9 - seed}.png", "val" if seed == 3 else "train"]) for seed in range(5)
    ]
    file = tmp_path / "list.csv"
    file.write_text("\n".join([delimiter.join(["image", "label", "split"]), *lines, "# end", ""]))
    assert new_dataset(images, labels, tmp_path / "data", "--list", file)[0] == 0
    assert names(tmp_path / "data", "val") == ["photo_3"]
    assert all(np.array_equal(ids, label(int(name[-1]))) for name, ids in prepared(tmp_path / "data").items())


def test_paths_of_a_list_are_taken_from_its_own_folder(new_dataset, tmp_path):
    make(tmp_path / "raw")
    lines = [f"images/photo_{seed}.png,labels/photo_{seed}.png" for seed in range(5)]
    (tmp_path / "raw" / "list.txt").write_text("\n".join(lines))
    assert new_dataset(None, None, tmp_path / "data", "--list", tmp_path / "raw" / "list.txt")[0] == 0
    assert len(prepared(tmp_path / "data")) == 5


@pytest.mark.parametrize(
    "text, words",
    [
        ("photo_0.png,photo_0.png,train,4", "line 1 has 4 words"),
        ("photo_0.png,photo_0.png,south", "'south' is no split"),
        ("a.png,b.png", "names no image"),
        ("", "names no image"),
        ('photo_0.png,"photo', "names no image"),
    ],
)
def test_a_list_that_is_none_is_one_line(new_dataset, tmp_path, text, words):
    (tmp_path / "list").write_text(text)
    assert words in new_dataset.error(*make(tmp_path / "raw"), tmp_path / "data", "--list", tmp_path / "list")
    assert not (tmp_path / "data").exists()


def test_lists_divide(new_dataset, tmp_path):
    source = make(tmp_path / "raw")
    (tmp_path / "val").write_text("photo_1\nimages/photo_2.png\n")
    (tmp_path / "test").write_text("photo_4.png extra\n")
    words = ["--val-list", tmp_path / "val", "--test-list", tmp_path / "test"]
    assert new_dataset(*source, tmp_path / "data", *words)[0] == 0
    assert [names(tmp_path / "data", split) for split in ("train", "val", "test")] == [
        ["photo_0", "photo_3"], ["photo_1", "photo_2"], ["photo_4"]
    ]  # fmt: skip
    (tmp_path / "train").write_text("photo_0\n")
    status, out, _ = new_dataset(*source, tmp_path / "few", *words, "--train-list", tmp_path / "train")
    assert status == 0 and names(tmp_path / "few", "train") == ["photo_0"] and "1 in none are left out" in out
    assert "--val" in new_dataset.error(*source, tmp_path / "no", *words, "--val", "0.3")
    (tmp_path / "test").write_text("photo_1\n")
    assert "stands in --val-list and in --test-list" in new_dataset.error(*source, tmp_path / "no", *words)
    (tmp_path / "test").write_text("photo_7\n")
    assert "names none of the images" in new_dataset.error(*source, tmp_path / "no", *words)
    (tmp_path / "test").write_text("photo_4\nphoto_7\n")
    status, _, err = new_dataset(*source, tmp_path / "some", *words)
    assert status == 1 and "photo_7 is no image" in err


def test_test_images_may_have_no_labels_and_others_without_are_left_out(new_dataset, tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    for seed in range(4):
        put(images / "train" / f"{seed}.png", image(seed))
        put(images / "test" / f"{seed}.png", image(seed + 10))
        if seed:
            put(labels / "train" / f"{seed}.png", label(seed))
    status, out, err = new_dataset(images, labels, tmp_path / "data", "--val", "0.3")
    assert (status, err) == (0, "") and "without label" in " ".join(out.split())
    assert len([*(tmp_path / "data" / "test" / "image").iterdir()]) == 4 and not (tmp_path / "data/test/label").exists()
    assert sorted(names(tmp_path / "data", "train") + names(tmp_path / "data", "val")) == ["1", "2", "3"]


def facts(name: str, values: list[int], digest: bytes | None = None) -> PairFacts:
    some = np.ones(len(values), np.int64)
    pair = Pair(name, "", None, ())
    zero = np.zeros(3)
    return PairFacts(
        pair, (1, 1), (1, 1), 3, "uint8", digest or name.encode(), zero, zero, np.array(values), some, some
    )


@pytest.mark.parametrize("seed", range(4))
def test_every_class_of_two_images_is_in_both_splits(seed):
    rng = np.random.default_rng(seed)
    shown = [sorted({0, *rng.choice(40, rng.integers(0, 6), replace=False).tolist()}) for _ in range(200)]
    images = [facts(f"image {at}", values) for at, values in enumerate(shown)]
    val = divide(images, 0.2, set(range(40)))
    assert 30 <= len(val) <= 50
    for value in range(40):
        having = [one.pair.name for one in images if value in one.values]
        assert len(having) < 2 or 0 < len(val.intersection(having)) < len(having)
    assert val == divide([images[at] for at in rng.permutation(200)], 0.2, set(range(40)))


def test_images_of_equal_pixels_stay_together():
    images = [facts(str(at), [0], digest=bytes([at % 10])) for at in range(40)]
    val = divide(images, 0.3, {0})
    assert len(val) == 12 and all((str(at) in val) == (str(at % 10) in val) for at in range(40))


@pytest.mark.parametrize("count, share, expected", [(1, 0.5, 0), (2, 0.01, 1), (2, 0.99, 1), (10, 0, 0), (10, 0.3, 3)])
def test_both_splits_have_an_image_where_there_are_two(count, share, expected):
    assert len(divide([facts(str(at), [at % 2]) for at in range(count)], share, {0, 1})) == expected


def test_two_images_of_one_name_are_refused_and_the_others_prepared(new_dataset, tmp_path):
    images, labels = make(tmp_path / "raw")
    cv2.imwrite(str(images / "photo_0.jpg"), image(77))
    status, _, err = new_dataset(images, labels, tmp_path / "data")
    assert status == 1 and "two images named photo_0" in err and len(err.splitlines()) == 1
    assert "photo_0" not in prepared(tmp_path / "data") and len(prepared(tmp_path / "data")) == 4


def test_a_list_of_no_utf8_is_one_line(tmp_path, new_dataset):
    (tmp_path / "list").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in new_dataset.error(*make(tmp_path / "raw"), tmp_path / "data", "--val-list", tmp_path / "list")


def test_affixes_that_leave_nothing_are_none():
    assert Affix("ab", "bc").key("abc") is None and Affix("a", "c").key("abc") == "b"
    with pytest.raises(UserError):
        from datasets.seg.own.affixes import parse_pattern

        parse_pattern("*")
