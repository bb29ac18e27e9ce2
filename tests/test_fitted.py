"""What was measured of one's own data becomes the defaults of its runs."""

import json
import math
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import FAST, Run

from datasets.seg.fitted import fit, parse_facts
from lib.base.errors import UserError
from lib.keys import get
from lib.recipes import to_yaml
from lib.tasks import load, load_config

ROOT = Path(__file__).parents[1]
CUSTOM = ROOT / "configs" / "seg" / "custom" / "dnl_r101.yaml"
CITYSCAPES = ROOT / "configs" / "seg" / "cityscapes" / "fcn_r101.yaml"
MMSEG = ROOT / "configs" / "seg" / "ade20k" / "mmseg_dnl_r50_512x512_80k.yaml"
CLASSES = "id,name,train_id,red,green,blue,weight\n7,ground,0,0,0,0,0.5\n200,cell,1,255,0,0,2\n255,void,,,,,\n"
FACTS = {
    "format": 1,
    "bands": 3,
    "dtype": "uint8",
    "mean": [80.5, 90.25, 100.0],
    "std": [40.0, 41.0, 0.0],
    "images": {"train": 1000, "val": 100, "test": 0},
    "width": [300, 481, 1300],
    "height": [200, 360.5, 900],
    "pixels": {"ground": 10, "cell": 5},
    "ignored_share": 0.25,
}


@pytest.fixture
def data(tmp_path):
    """DATA_DIR with a class table, and with such facts: data(**others)."""

    def make(**others):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / "classes.csv").write_text(CLASSES)
        (tmp_path / "mine" / "facts.json").write_text(json.dumps(FACTS | others))
        return tmp_path / "mine"

    return make


def of(root, *words, recipe=CUSTOM):
    return load_config(recipe, [f"data.root={root}", "data.dataset=auto", *words])


class TestRules:
    def test_mean_and_deviation_come_in_the_recipes_order(self, data):
        config = of(data())
        assert config.data.color_order == "bgr"
        assert (config.data.mean, config.data.std) == ([100.0, 90.25, 80.5], [1.0, 41.0, 40.0])
        config = of(data(), recipe=MMSEG)
        assert config.data.color_order == "rgb"
        assert (config.data.mean, config.data.std) == ([80.5, 90.25, 100.0], [40.0, 41.0, 1.0])

    @pytest.mark.parametrize(
        "width, height, words, crop",
        [
            ((300, 481, 1300), (200, 360.5, 900), (), [488, 368]),
            ((300, 480, 1300), (200, 360, 900), (), [480, 360]),
            ((30, 513, 1300), (20, 2000, 9000), (), [512, 512]),
            ((1, 1, 1), (1, 1, 1), (), [8, 8]),
            # images are resized first: to 520 on the shorter side, then bounded by the longer
            ((100, 100, 100), (50, 50, 50), ("data.short_side=260",), [512, 264]),
            ((100, 100, 100), (50, 50, 50), ("data.short_side=260", "data.long_side=300"), [304, 152]),
        ],
    )
    def test_no_side_of_a_crop_is_larger_than_the_median_images(self, data, width, height, words, crop):
        assert of(data(width=width, height=height), *words).data.crop_size == crop

    @pytest.mark.parametrize(
        "images, words, iterations",
        [
            (1000, (), 15_000),
            (1000, ("train.batch_size=16",), 7_500),
            (1000, ("data.include_val=true",), 16_500),
            (2975, (), 44_600),
            (5, (), 2_000),
            (1_000_000, (), 150_000),
        ],
    )
    def test_a_run_has_about_120_passes_within_bounds(self, data, images, words, iterations):
        config = of(data(images={"train": images, "val": 100, "test": 0}), *words)
        assert config.train.max_iters == iterations
        assert (config.val.interval, config.checkpoint.interval) == (iterations // 10, iterations // 20)

    def test_there_is_no_validation_without_images_for_it(self, data):
        assert of(data(images={"train": 1000, "val": 0, "test": 0})).val.interval == 0

    def test_hard_pixels_are_the_same_part_of_any_crop(self, data):
        root = data(width=[2048] * 3, height=[1024] * 3)
        assert of(root, recipe=CITYSCAPES).data.crop_size == [769, 769]
        assert of(root, recipe=CITYSCAPES).loss.ohem_min_kept == 100_000
        kept = of(root).loss.ohem_min_kept
        assert math.isclose(kept / (512 * 512), 100_000 / 769**2, rel_tol=1e-4)

    @pytest.mark.parametrize(
        "width, height, words, mode",
        [
            ((96, 96, 96), (72, 72, 72), (), "ss"),
            ((480, 481, 488), (72, 72, 72), (), "ss"),
            ((480, 481, 489), (72, 72, 72), (), "sscrop"),
            ((480, 481, 489), (72, 72, 72), ("val.window=[500,72]",), "ss"),
            ((480, 480, 480), (360, 360, 360), ("data.crop_size=[480,359]",), "sscrop"),
            ((90, 90, 90), (90, 90, 90), ("val.short_side=97",), "sscrop"),
        ],
    )
    def test_windows_where_an_image_is_larger_than_the_crop(self, data, width, height, words, mode):
        assert of(data(width=width, height=height), *words).val.mode == mode

    def test_weights_count_where_the_table_has_some(self, data):
        root = data()
        assert of(root).loss.class_weights is True
        (root / "classes.csv").write_text(CLASSES.replace("0.5", "").replace(",2\n", ",\n"))
        assert load_config(CITYSCAPES, []).loss.class_weights is True
        assert of(root, recipe=CITYSCAPES).loss.class_weights is False

    def test_grey_images_are_read_as_colour_ones(self, data):
        config = of(data(bands=1, mean=[7.0], std=[2.0]))
        assert (config.data.mean, config.data.std) == ([7.0] * 3, [2.0] * 3)

    @pytest.mark.parametrize(
        "bands, dtype, order, expected",
        [
            (4, "float32", "bgr", (4, [1, 2, 3, 4], False)),
            (3, "uint16", "bgr", (3, [3, 2, 1], False)),
            (3, "uint16", "rgb", (3, [1, 2, 3], False)),
            (1, "uint16", "bgr", (1, [1], False)),
            (1, "uint8", "bgr", (3, [1, 1, 1], None)),
            (3, "uint8", "rgb", (3, [1, 2, 3], None)),
        ],
    )
    def test_bands_come_in_the_files_order_and_colours_are_distorted_of_pictures_alone(
        self, bands, dtype, order, expected
    ):
        numbers = [1, 2, 3, 4][:bands]
        facts = parse_facts(FACTS | {"bands": bands, "dtype": dtype, "mean": numbers, "std": numbers}, "facts.json")
        config = load_config(CUSTOM, [f"data.color_order={order}"])
        known = {"data.bands", "data.mean", "data.std", "data.photometric"}
        found = fit(facts, False, lambda name: get(config, name), (), known)
        assert (found["data.bands"], found["data.mean"], found.get("data.photometric")) == expected
        assert found["data.std"] == found["data.mean"]


class TestOrder:
    def test_files_are_below_and_the_command_line_is_above(self, data):
        root = data()
        assert load_config(CITYSCAPES, []).train.max_iters == 40_000
        assert of(root, recipe=CITYSCAPES).train.max_iters == 15_000
        words = ("train.max_iters=50", "data.mean=[1,2,3]", "val.mode=ms", "data.crop_size=[64,48]")
        config = of(root, *words)
        assert (config.train.max_iters, config.data.mean, config.val.mode) == (50, [1, 2, 3], "ms")
        assert config.data.crop_size == [64, 48]
        # what follows from a value follows from the one that counts, and a trial does not validate all the time
        assert (config.val.interval, config.checkpoint.interval) == (100, 50)
        assert config.loss.ohem_min_kept == round(100_000 * 64 * 48 / 769**2)
        assert of(root, "data={mean: [1, 2, 3]}").data.mean == [1, 2, 3]
        config = of(root, "train.max_iters=6000")
        assert (config.val.interval, config.checkpoint.interval) == (600, 300)

    def test_one_key_turns_it_off(self, data):
        without = of(data(), "data.fitted=false")
        shutil.rmtree(without.data.root)
        assert without == of(without.data.root, "data.fitted=false")
        assert without.data.crop_size == [512, 512] and without.train.max_iters == 40_000

    def test_it_is_for_ones_own_data_alone(self, data):
        config = load_config(CITYSCAPES, [f"data.root={data()}"])
        assert config.data.crop_size == [769, 769] and config.data.fitted

    def test_explain_names_the_file(self, data, command):
        root = data()
        words = ("data.mean", "train.lr", "train.max_iters", "train.max_iters=9", f"data.root={root}")
        out = command("explain", *words, config=CUSTOM).stdout
        blocks = {block.split()[0]: block for block in out.split("\n\n")}
        mean, rate, iterations = (blocks[word] for word in words[:3])
        assert f"set by {root / 'facts.json'}" in mean
        assert "set by train.max_iters=9" in iterations
        assert "custom/dnl_r101.yaml" in rate

    def test_a_printed_configuration_is_not_fitted_again(self, data, tmp_path):
        root = data()
        printed = to_yaml(of(root))
        (tmp_path / "again.yaml").write_text(printed)
        data(mean=[1.0, 2.0, 3.0], images={"train": 5, "val": 1, "test": 1})
        assert to_yaml(load_config(tmp_path / "again.yaml", [])) == printed
        (root / "facts.json").unlink()
        (tmp_path / "again.yaml").write_text(to_yaml(of(root)))
        data()
        assert load_config(tmp_path / "again.yaml", []).data.crop_size == [512, 512]

    def test_it_is_found_in_a_zip(self, data, tmp_path):
        root = data()
        with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
            for file in root.iterdir():
                archive.write(file, f"mine/{file.name}")
        recipe = load(CUSTOM, [f"data.root={tmp_path / 'mine.zip'}"])
        assert recipe.config.data.crop_size == [488, 368]
        assert recipe.sources("data.crop_size") == [f"{tmp_path / 'mine.zip'}!mine/facts.json"]

    def test_a_wrong_word_is_told_before_anything_follows_from_it(self, data):
        for word in ("data.crop_size=[5]", "train.batch_size=0", "val.window=[1]", "data.crop_size=[0,0]"):
            with pytest.raises(UserError, match=word.split("=")[0]):
                of(data(), word)


@pytest.mark.parametrize(
    "content, why",
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"1" * 5000, "is not JSON"),
        (b"[]", "no measurements"),
        ({"format": 2}, "another format"),
        ({"format": True}, "another format"),
        ({"bands": 0}, "how many bands"),
        ({"bands": 1e99}, "how many bands"),
        ({"bands": 2}, "no mean of 2 numbers"),
        ({"mean": None}, "no mean of 3 numbers"),
        ({"mean": [1, 2]}, "no mean of 3 numbers"),
        ({"mean": [1, 2, "x"]}, "mean that is no finite number"),
        ({"mean": [1, 2, math.nan]}, "mean that is no finite number"),
        ({"std": [1, 2, math.inf]}, "std that is no finite number"),
        ({"std": [1, 2, 10**400]}, "std that is no finite number"),
        ({"std": [1, 2, -3]}, "std below 0"),
        ({"mean": [1, 2, 1e29]}, "data.mean"),
        ({"dtype": 8}, "dtype"),
        ({"images": 7}, "how many images"),
        ({"images": {"train": 7}}, "how many images"),
        ({"images": {"train": 0, "val": 0, "test": 0}}, "no training image"),
        ({"images": {"train": 10**12, "val": 0, "test": 0}}, "how many images"),
        ({"width": [3, 2, 1]}, "has a width"),
        ({"width": [0, 0, 0]}, "has a width"),
        ({"height": [1, 2]}, "no height of 3 numbers"),
        ({"height": [1, 2, 1e12]}, "has a height"),
        (b" " * (5 << 20), "bytes"),
    ],
)
def test_damaged_measurements_are_refused_in_one_line(data, content, why):
    root = data()
    if isinstance(content, bytes):
        (root / "facts.json").write_bytes(content)
    else:
        data(**content)
    with pytest.raises(UserError, match=why) as error:
        of(root)
    line = str(error.value)
    assert str(root / "facts.json") in line and "\n" not in line
    assert "new-dataset" in line and "data.fitted=false" in line
    assert of(root, "data.fitted=false").data.crop_size == [512, 512]


def test_measurements_without_their_class_table_are_refused(data):
    root = data()
    (root / "classes.csv").unlink()
    with pytest.raises(UserError, match=r"classes\.csv"):
        of(root)


class TestRuns:
    @pytest.fixture
    def drawn(self, data):
        """The same with images and labels: drawn(**facts)."""
        root, rng = data(), np.random.default_rng(0)
        for split, count in (("train", 4), ("val", 2)):
            for kind in ("image", "label"):
                (root / split / kind).mkdir(parents=True)
            for index in range(count):
                label = rng.choice([7, 200, 255], (6, 8)).astype(np.uint8).repeat(12, 0).repeat(12, 1)
                image = (rng.integers(128, size=(72, 96, 3)) + label[..., None] // 3).astype(np.uint8)
                assert cv2.imwrite(str(root / split / "label" / f"{index}.png"), label)
                assert cv2.imwrite(str(root / split / "image" / f"{index}.png"), image)
        return data

    @pytest.fixture
    def go(self, command, tmp_path, monkeypatch):
        """One mode of the custom recipe; go(mode, tag, root, *words) gives the run."""
        monkeypatch.setenv("RUNS_DIR", str(tmp_path / "runs"))
        quick = [word for word in FAST if not word.startswith(("data.crop_size", "loss.ohem"))]
        quick += ["model.backbone.name=mobilenet_v2", "model.head.options.width=32", "model.aux.options.width=32"]

        def call(mode, tag, root, *words):
            outcome = command(mode, f"tag={tag}", f"data.root={root}", *quick, "val.pictures=0", *words, config=CUSTOM)
            assert outcome.status == 0, outcome.stderr
            return Run(tmp_path / "runs" / "seg" / "auto" / "dnl_r101" / tag)

        yield call
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)

    def test_resuming_takes_no_notice_of_new_measurements(self, drawn, go):
        root = drawn(width=[96] * 3, height=[72] * 3, images={"train": 4, "val": 2, "test": 0})
        words = ("train.max_iters=4", "val.interval=4", "checkpoint.interval=2", "checkpoint.keep=2")
        run = go("train", "one", root, *words)
        recorded, whole, half = load_config(run.path / "config.yaml", []), run.figures, run.checkpoint("iter_2")
        assert len(whole) == 5 and recorded.data.crop_size == [96, 72]
        assert f"fitted to {root / 'facts.json'}: " in (run.path / "log.txt").read_text()
        assert recorded.data.fitted_to == str(root / "facts.json") and not recorded.data.fitted
        drawn(mean=[1.0, 2.0, 3.0], width=[40] * 3, height=[40] * 3)
        assert go("resume", "one", root, f"checkpoint={half}").figures == whole
        # nor does validation, even of what is damaged: the run has what it needs
        drawn(format=9)
        go("val", "one", root)

        # and a checkpoint stands for its run, whatever the data at hand look like
        drawn(mean=[1.0, 2.0, 3.0], width=[40] * 3, height=[40] * 3)
        other = go("val", "other", root, f"checkpoint={run.checkpoint()}")
        scores = [json.loads((path / "val/metrics.json").read_text()) for path in (run.path, other.path)]
        assert scores[0]["iou"] == scores[1]["iou"] and scores[0]["protocol"] == scores[1]["protocol"]
