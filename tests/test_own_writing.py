"""new-dataset: what it writes and refuses; nothing half-written or mixed is ever taken for whole."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from own_layouts import NewDataset, contents, image, label, make, prepared, put

from datasets.seg.classes import find_table
from datasets.seg.dataset import list_samples
from datasets.seg.own import write
from lib.base.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def new_dataset(monkeypatch, capfd):
    return NewDataset(monkeypatch, capfd)


def test_it_writes_the_layout_and_what_training_takes_from_it(new_dataset, tmp_path):
    images, labels = make(tmp_path / "raw")
    before = contents(tmp_path / "raw")
    status, out, err = new_dataset(images, labels, tmp_path / "data")
    assert (status, err) == (0, "") and "Findings" in out and "12 files written" not in out
    assert out.index("Recognised") < out.index("files written")
    found = contents(tmp_path / "data")
    for split in ("train", "val"):
        for sample in list_samples(tmp_path / "data", split):
            assert found[f"{split}/image/{sample.name}.png"] == before[f"images/{sample.name}.png"]
            assert found[f"{split}/label/{sample.name}.png"] == before[f"labels/{sample.name}.png"]
    assert found.keys() - {name for name in found if "/" in name} == {"classes.csv", "facts.json"}
    facts = json.loads(found["facts.json"])
    train = [image(int(sample.name[-1])) for sample in list_samples(tmp_path / "data", "train")]
    assert np.allclose(facts["mean"], np.mean(train, (0, 1, 2)))
    assert np.allclose(facts["std"], np.std(np.float64(train), (0, 1, 2)))
    assert (tmp_path / "data" / "report.html").read_text().startswith("<!doctype html>")
    assert find_table("auto", tmp_path / "data").weights is not None
    assert contents(tmp_path / "raw") == before


@pytest.mark.parametrize("link", [False, True])
def test_a_repeated_run_writes_nothing_and_a_changed_source_one_file(new_dataset, tmp_path, link):
    source = make(tmp_path / "raw")
    words = ["--link"] * link
    new_dataset(*source, tmp_path / "data", *words)
    whole = contents(tmp_path / "data")
    linked = tmp_path / "data" / "train" / "image"
    assert all(path.samefile(source[0] / path.name) == link for path in linked.iterdir())
    assert "0 files written, 10 already there" in new_dataset(*source, tmp_path / "data", *words)[1]
    assert contents(tmp_path / "data") == whole
    os.utime(source[1] / "photo_2.png", (1, 1))
    put(tmp_path / "new.png", label(2)[::-1])
    os.replace(tmp_path / "new.png", source[1] / "photo_2.png")
    assert "1 files written, 9 already there" in new_dataset(*source, tmp_path / "data", *words)[1]
    assert np.array_equal(prepared(tmp_path / "data")["photo_2"], label(2)[::-1])


def test_other_images_for_val_move_and_none_stays_in_both(new_dataset, tmp_path):
    source = make(tmp_path / "raw", "colours", count=8)
    for words in (["--val", "0.25"], ["--val", "0.5"], ["--val-list", tmp_path / "list"], ["--ignore", "class_0"]):
        (tmp_path / "list").write_text("photo_5\n")
        assert new_dataset(*source, tmp_path / "data", *words)[0] == 0
        fresh = tmp_path / f"fresh_{len(list(tmp_path.iterdir()))}"
        assert new_dataset(*source, fresh, *words)[0] == 0
        assert contents(tmp_path / "data") == contents(fresh)
        sides = [{sample.name for sample in list_samples(tmp_path / "data", split)} for split in ("train", "val")]
        assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 8


def test_other_classes_make_labels_anew(new_dataset, tmp_path):
    source = make(tmp_path / "raw", "16 bit")
    new_dataset(*source, tmp_path / "data")
    (tmp_path / "classes.csv").write_text("id,name\n3000,d\n2000,c\n1000,b\n0,a\n5,e\n")
    status, out, _ = new_dataset(*source, tmp_path / "data", "--classes", tmp_path / "classes.csv", "--ignore", "1000")
    assert status == 0 and "5 files written, 5 already there" in out
    assert new_dataset(*source, tmp_path / "fresh", "--classes", tmp_path / "classes.csv", "--ignore", "1000")[0] == 0
    assert contents(tmp_path / "data") == contents(tmp_path / "fresh")


def test_interrupted_anywhere_it_has_no_table_and_goes_on_to_the_same_end(new_dataset, tmp_path, monkeypatch):
    source = make(tmp_path / "raw", "colours")
    classes = tmp_path / "classes.csv"
    new_dataset(*source, tmp_path / "first")
    found = find_table("auto", tmp_path / "first").palette[::-1].tolist()
    classes.write_text("\n".join(["name,r,g,b", *(f"c{at},{r},{g},{b}" for at, (r, g, b) in enumerate(found))]))
    new_dataset(*source, tmp_path / "whole", "--classes", classes, "--val", "0.4")
    writers = {"copy_file": write.copy_file, "_put": write._put, "unlink": Path.unlink}
    stops = 0
    for limit in range(0, 60, 2):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        shutil.copytree(tmp_path / "first", tmp_path / "data")
        left = [limit]

        def counted(function, left=left):
            def call(*words, **options):
                if Path(getattr(words[0], "path", words[0])).name != ".lock":
                    if left[0] == 0:
                        raise KeyboardInterrupt
                    left[0] -= 1
                return function(*words, **options)

            return call

        with monkeypatch.context() as patch:
            for name, function in writers.items():
                patch.setattr(Path if name == "unlink" else write, name, counted(function))
            status = new_dataset(*source, tmp_path / "data", "--classes", classes, "--val", "0.4")[0]
        if status == 0:
            break
        stops += 1
        # Before the first change the data are those of the first run, afterwards there is no table.
        if (tmp_path / "data" / "classes.csv").exists():
            assert contents(tmp_path / "data") == contents(tmp_path / "first")
        else:
            with pytest.raises(UserError, match="new-dataset"):
                find_table("auto", tmp_path / "data")
        assert new_dataset(*source, tmp_path / "data", "--classes", classes, "--val", "0.4")[::2] == (0, "")
        assert contents(tmp_path / "data") == contents(tmp_path / "whole")
    assert stops > 8 and status == 0


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_end(new_dataset, tmp_path):
    source = make(tmp_path / "raw", "colours", count=60)
    new_dataset(*source, tmp_path / "whole")
    words = ["new-dataset", "--images", source[0], "--labels", source[1], "--dst", tmp_path / "data"]
    for tenths in range(4, 20, 2):
        process = subprocess.Popen([sys.executable, ROOT / "main.py", *words], stdout=subprocess.DEVNULL)
        try:
            process.wait(tenths / 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert new_dataset(*source, tmp_path / "data")[0] == 0
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")


@pytest.mark.parametrize("place", ["train/image/mine.png", "val/label/mine.png", "train/image/photo_0.png"])
def test_files_of_others_are_neither_trained_on_nor_overwritten(new_dataset, tmp_path, place):
    put(tmp_path / "data" / place, image(9))
    error = new_dataset.error(*make(tmp_path / "raw"), tmp_path / "data", "--val", "0")
    assert place in error and "new-dataset did not write" in error
    assert contents(tmp_path / "data").keys() == {place}


def test_a_list_of_sources_that_lies_about_others_files_removes_nothing_outside(new_dataset, tmp_path):
    put(tmp_path / "precious.png", image(1))
    (tmp_path / "data").mkdir()
    rows = ["split,name,image,label,image_made,label_made"]
    rows += ["train,../../../precious.png,a,b,c,d", "..,precious.png,a,b,c,d"]
    (tmp_path / "data" / "sources.csv").write_text("\n".join(rows))
    assert new_dataset(*make(tmp_path / "raw"), tmp_path / "data")[0] == 0
    assert (tmp_path / "precious.png").exists()


@pytest.mark.parametrize("place", ["images", "images/inside", "labels/data", "."])
def test_the_source_is_no_place_to_write_to(new_dataset, tmp_path, place):
    images, labels = make(tmp_path / "raw")
    before = contents(tmp_path / "raw")
    if place == ".":  # the layout of a DATA_DIR itself
        images, labels = (shutil.move(tmp_path / "raw", tmp_path / "train"), tmp_path / "train" / "labels")
        os.rename(tmp_path / "train" / "images", tmp_path / "train" / "image")
        assert "--dst" in new_dataset.error(tmp_path / "train" / "image", labels, tmp_path)
        return
    assert "would write into the source" in new_dataset.error(images, labels, tmp_path / "raw" / place)
    assert contents(tmp_path / "raw") == before


@pytest.mark.parametrize(
    "suffix, dtype, bands, target",
    [
        (".bmp", np.uint8, 3, ".png"),
        (".webp", np.uint8, 3, ".png"),
        (".tif", np.uint8, 1, ".png"),
        (".png", np.uint16, 3, ".npy"),
        (".npy", np.float32, 5, ".npy"),
        (".npy", np.uint8, 4, ".npy"),
        (".jpg", np.uint8, 3, ".jpg"),
    ],
)
def test_images_become_what_training_reads(new_dataset, tmp_path, suffix, dtype, bands, target):
    rng = np.random.default_rng(0)
    images, labels = make(tmp_path / "raw")
    shutil.rmtree(images)
    pixels = {at: rng.integers(0, 200, (24, 32, bands)).astype(dtype) for at in range(5)}
    for at, picture in pixels.items():
        put(images / f"photo_{at}{suffix}", picture if bands > 1 or suffix == ".npy" else picture[..., 0])
    assert new_dataset(images, labels, tmp_path / "data", "--val", "0")[0] == 0
    for at, picture in pixels.items():
        file = tmp_path / "data" / "train" / "image" / f"photo_{at}{target}"
        if suffix == ".jpg":
            assert file.read_bytes() == (images / file.name).read_bytes()
        elif target == ".npy":
            found = np.load(file)
            assert found.dtype == dtype and np.array_equal(found, picture)
        elif suffix != ".webp":
            assert np.array_equal(cv2.imread(str(file))[..., ::-1], np.broadcast_to(picture, (24, 32, 3)))
    facts = json.loads((tmp_path / "data" / "facts.json").read_text())
    assert facts["bands"] == bands and facts["dtype"] == np.dtype(dtype).name


def spoil(images: Path, labels: Path, how: str) -> None:
    first, mask = images / "photo_0.png", labels / "photo_0.png"
    if how == "cut image":
        first.write_bytes(first.read_bytes()[:-40])
    elif how == "cut label":
        mask.write_bytes(mask.read_bytes()[:-20])
    elif how == "text":
        mask.write_text("no label")
    elif how == "pipe":
        mask.unlink()
        os.mkfifo(mask)
    elif how == "size":
        put(mask, np.zeros((9, 9), np.uint8))
    elif how == "bands":
        put(labels / "photo_0.npy", np.zeros((24, 32, 5), np.uint8))
        mask.unlink()
    elif how == "halves":
        put(labels / "photo_0.npy", np.full((24, 32), 0.5, np.float32))
        mask.unlink()
    elif how == "large ids":
        put(labels / "photo_0.npy", np.full((24, 32), 70000))
        mask.unlink()
    elif how == "image bands":
        first.unlink()
        put(images / "photo_0.npy", np.zeros((24, 32, 4), np.uint8))


@pytest.mark.parametrize(
    "how, words",
    [
        ("cut image", "photo_0.png is"),
        ("cut label", "photo_0.png is truncated"),
        ("text", "not a readable image"),
        ("pipe", "pipe"),
        ("size", "size mismatch"),
        ("bands", "5 bands"),
        ("halves", "holds 0.5"),
        ("large ids", "70000"),
        ("image bands", "4 bands, but most images have 3"),
    ],
)
def test_bad_pairs_are_a_line_each_and_the_good_are_prepared(new_dataset, tmp_path, how, words):
    source = make(tmp_path / "raw")
    spoil(*source, how)
    status, _, err = new_dataset(*source, tmp_path / "data")
    assert status == 1 and words in err and "photo_0" in err and len(err.splitlines()) == 1
    assert prepared(tmp_path / "data").keys() == {f"photo_{at}" for at in range(1, 5)}
    table = find_table("auto", tmp_path / "data")
    assert len(table) == 4


def test_an_id_in_no_line_of_classes_is_a_bad_pair(new_dataset, tmp_path):
    source = make(tmp_path / "raw")
    put(source[1] / "photo_0.png", np.full((24, 32), 9, np.uint8))
    (tmp_path / "names").write_text("a\nb\nc\nd\n")
    status, _, err = new_dataset(*source, tmp_path / "data", "--classes", tmp_path / "names")
    assert status == 1 and err.startswith("problem: 9 in label") and "photo_0" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--images", "nowhere"], "nowhere does not exist"),
        (["--labels", "nowhere"], "nowhere does not exist"),
        (["--images", "raw/labels.txt"], "is not a folder"),
        (["--labels", "raw/labels.txt"], "neither a folder nor a COCO"),
        (["--images", "empty"], "holds no images"),
        (["--labels", "empty"], "holds no labels"),
        (["--labels", "bad.json"], "is not JSON"),
        (["--labels", "other.json"], "is not COCO's JSON"),
        (["--val", "1"], "--val"),
        (["--workers", "0"], "--workers"),
        (["--ignore", "road"], "--ignore road is none"),
        (["--ignore", "0,1,2,3"], "no class is left"),
        (["--ignore-background"], "--ignore 0"),
        (["--classes", "nowhere"], "--classes"),
        (["--classes", "empty.txt"], "is empty"),
        (["--classes", "twice.txt"], "name a comes twice"),
        (["--classes", "five.txt"], "line 1"),
        (["--classes", "red.txt"], "red '256'"),
        (["--list", "nowhere"], "--list"),
        (["--list", "empty.txt", "--pattern", "{stem}"], "--pattern has no meaning"),
        (["--labels", "good.json", "--pattern", "{stem}"], "--pattern has no meaning"),
    ],
)
def test_each_mistake_is_one_line_and_leaves_nothing(new_dataset, tmp_path, monkeypatch, words, expected):
    make(tmp_path / "raw")
    make(tmp_path / "coco", "coco runs")
    (tmp_path / "empty").mkdir()
    shutil.copy(tmp_path / "coco" / "labels.json", tmp_path / "good.json")
    texts = {"raw/labels.txt": "", "bad.json": "{", "other.json": '{"shapes": []}'}
    texts |= {"empty.txt": "\n", "twice.txt": "a\na\n", "five.txt": "a,1,2,3,4", "red.txt": "a,256,0,0"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    given = {words[at]: words[at + 1] if at + 1 < len(words) else "" for at in range(0, len(words), 2)}
    images, labels = given.pop("--images", "raw/images"), given.pop("--labels", "raw/labels")
    rest = [word for pair in given.items() for word in pair if word]
    assert expected in new_dataset.error(images, labels, "data", *rest)
    assert not (tmp_path / "data").exists()


def test_without_folders_or_list_it_says_what_it_needs(new_dataset, tmp_path):
    assert "--images DIR and --labels DIR" in new_dataset.error(None, None, tmp_path / "data")


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda c: c["annotations"][0].update(category_id=99), "category 99"),
        (lambda c: c["annotations"][0].update(image_id=99), "image 99"),
        (lambda c: c["images"][0].update(height="4"), "images[0]"),
        (lambda c: c["images"][1].update(id=0), "images[1] has no id of its own"),
        (lambda c: c["categories"][0].update(id=-1), "categories[0]"),
        (lambda c: c.update(images={}), "'images' is no list"),
        (lambda c: [a.pop("segmentation") for a in c["annotations"]], "boxes alone"),
        (lambda c: [i.update(file_name="x" + i["file_name"]) for i in c["images"]], "none of the images"),
    ],
)
def test_annotations_that_do_not_fit_are_one_line(new_dataset, tmp_path, change, expected):
    images, file = make(tmp_path / "raw", "coco runs", count=2)
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    assert expected in new_dataset.error(images, file, tmp_path / "data")


def test_more_classes_than_there_can_be_is_said_after_the_diagnosis(new_dataset, tmp_path):
    images, labels = make(tmp_path / "raw", "colours")
    for at in range(5):
        put(labels / f"photo_{at}_mask.png", image(at))
    status, out, err = new_dataset(images, labels, tmp_path / "data")
    assert status == 2 and "254 classes at most" in err and len(err.splitlines()) == 1
    assert "Recognised" in out and "Findings" in out and not (tmp_path / "data").exists()


def test_names_of_categories_may_be_anything(new_dataset, tmp_path):
    images, file = make(tmp_path / "raw", "coco runs")
    content = json.loads(file.read_text())
    for category, name in zip(content["categories"], ['a\nb,"c', "x" * 5000, 'a\\nb,"c'], strict=True):
        category["name"] = name
    file.write_text(json.dumps(content))
    assert new_dataset(images, file, tmp_path / "data")[0] == 0
    names = find_table("auto", tmp_path / "data").names
    assert names == ("background", 'a\\nb,"c (1)', "x" * 200, 'a\\nb,"c (3)')


def test_a_palette_png_without_palette_is_a_bad_pair(new_dataset, tmp_path):
    images, labels = make(tmp_path / "raw", "palette")
    data = (labels / "photo_0.png").read_bytes()
    start = data.index(b"PLTE") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    (labels / "photo_0.png").write_bytes(data[:start] + data[start + 12 + length :])
    status, _, err = new_dataset(images, labels, tmp_path / "data")
    assert status in (0, 1) and len(err.splitlines()) == status and len(prepared(tmp_path / "data")) == 5 - status


def test_damaged_labels_and_annotations_end_in_lines(new_dataset, tmp_path):
    for form in ("palette", "coco counts", "tiff"):
        images, labels = make(tmp_path / form, form, count=3)
        file = labels if labels.is_file() else next(iter(sorted(labels.iterdir())))
        whole = file.read_bytes()
        rng = np.random.default_rng(0)
        for _ in range(12):
            damaged = bytearray(whole)
            for at in rng.integers(0, len(whole), 3):
                damaged[at] = rng.integers(256)
            file.write_bytes(damaged[: rng.integers(len(whole) // 2, len(whole) + 1)])
            status, _, err = new_dataset(images, labels, tmp_path / "data")
            assert status in (0, 1, 2) and "Traceback" not in err
            shutil.rmtree(tmp_path / "data", ignore_errors=True)
