"""Every recipe is validated and tested as published: scales, windows, and how images and logits are resized."""

import re
from functools import cache

import pytest

from lib.inference import window_starts
from lib.tasks import make_task
from tests.test_recipes import DATASETS, MMSEG, ON_OTHER_BACKBONES, RECIPES, SPEC, load, numbers, published

pytestmark = pytest.mark.skipif(not SPEC.is_dir(), reason="the published facts are not here")

TORCHCV = [*RECIPES, *ON_OTHER_BACKBONES]
OWN = ["camvid/dnl_r101", "camvid/fcn_r101", "custom/dnl_r101", "custom/fcn_r101", "cityscapes/demo"]


@cache
def protocols():
    """What the facts say of protocols, without line breaks."""
    return " ".join((SPEC / "protocols.md").read_text().split())


@cache
def script_of(recipe):
    """What the published script of a recipe's network has otherwise than the dataset's common test: {name: value}."""
    text = (SPEC / "published_scripts.md").read_text()
    found = {}
    for line in text.splitlines():
        # other crops and blocks are of scripts that have no recipe
        if f" {recipe}: " in line and "crop [" not in line:
            for name, pattern in (
                ("mode", r"test mode (\w+) vs"),
                ("scales", r"test mscrop scales (\[.*?\]) vs"),
                ("window", r"window (\[.*?\]) vs"),
            ):
                value = re.search(pattern, line)
                if value:
                    found[name] = value[1] if name == "mode" else numbers(value[1])
    unused = re.search(r"NLln -> (\w+) \(same network; test (\w+)\)", text)
    if recipe == f"cityscapes/{unused[1]}":
        found["mode"] = unused[2]
    return found


@pytest.mark.parametrize("recipe", [recipe for recipe in TORCHCV if recipe.startswith("cityscapes/")])
def test_cityscapes_is_tested_as_its_script_says(recipe):
    val, protocol, own = load(recipe).val, published("validation", "Cityscapes"), script_of(recipe)
    assert "sliding window" in protocol and own.get("mode", "sscrop") in ("ss", "sscrop", "mscrop")
    # several scales are for when they are asked for
    assert val.mode == own.get("mode", "sscrop").replace("ms", "ss")
    words = re.search(
        r"Scales: Cityscapes ([\d.]+) \(some files ([\d.]+)\), (.*?), windows of (\d+) \(GC: (\d+)\)", protocols()
    )
    first, _, others, side, side_of_gc = words.groups()
    assert val.scales == own.get("scales", numbers(f"{first} {others}"))
    common = [float(side_of_gc if recipe.endswith("/gc_r101") else side)] * 2
    assert (val.window or load(recipe).data.crop_size) == own.get("window", common)
    assert [float(side)] * 2 + [val.stride] == numbers(protocol)
    assert (val.short_side, val.pad_multiple, val.flip, val.combine) == (0, 1, True, "sum")


def test_some_files_scale_by_0_76():
    assert re.search(r"some files ([\d.]+)", protocols())[1] == "0.76"
    assert [recipe for recipe in TORCHCV if 0.76 in load(recipe).val.scales] == ["cityscapes/fcn_r101"]


@pytest.mark.parametrize("recipe", [recipe for recipe in TORCHCV if not recipe.startswith("cityscapes/")])
def test_the_other_datasets_are_brought_to_their_sides_and_tested_whole(recipe):
    val, protocol = load(recipe).val, published("validation", DATASETS[recipe.split("/")[0]][0])
    assert val.mode == "ss" and script_of(recipe).get("mode", "ms") == "ms"
    assert [val.short_side, val.long_side, val.pad_multiple, *val.scales] == numbers(protocol)
    assert "with flip, logits summed" in protocol and val.flip and val.combine == "sum"


@pytest.mark.parametrize("recipe", TORCHCV)
def test_torchcv_aligns_corners_and_brings_logits_back_by_cubic_interpolation(recipe):
    val = load(recipe).val
    assert "resized bilinearly with **align_corners=True** to `int(side * scale)` (rounded down)" in protocols()
    assert "cubic interpolation (OpenCV's INTER_CUBIC), on every dataset, Cityscapes included" in protocols()
    assert (val.resize, val.windows, val.interpolation) == ("torchcv", "torchcv", "bicubic")


@pytest.mark.parametrize("recipe", [*MMSEG, "cityscapes/snl_r50"])
def test_mmsegmentation_resizes_grey_levels_from_its_base_scale_and_clips_windows(recipe):
    val = load(recipe).val
    assert "0.x scales relative to the configured base size" in protocols()
    assert "Sliding windows are clipped per side" in protocols()
    assert (val.resize, val.windows) == ("mmseg", "mmseg")
    assert (val.combine, val.flip, val.interpolation) == ("softmax", True, "bilinear")
    assert val.scales == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert val.pad_multiple == 1


BASES = {"ade20k": (2048, 512), "769x769": (2049, 1025), "512x1024": (2048, 1024), "snl": (2048, 1024)}


@pytest.mark.parametrize("recipe", [*MMSEG, "cityscapes/snl_r50"])
def test_the_sizes_of_mmsegmentations_tests_are_those_of_its_base_scales(recipe):
    predictor = make_task(load(recipe, "val.mode=ms")).predictor
    base = next(base for name, base in BASES.items() if name in recipe)
    image = (683, 512) if "ade20k" in recipe else (1024, 2048)
    for ratio in predictor.scales:
        long, short = (int(side * ratio) for side in base)
        factor = min(long / max(image), short / min(image))
        assert predictor.scaled_size(image, ratio) == tuple(int(side * factor + 0.5) for side in image)


def test_windows_of_769_meet_images_that_are_too_low_for_them():
    predictor = make_task(load("cityscapes/mmseg_dnl_r50_769x769_40k")).predictor
    assert "At scales 0.5 and 0.75 the 769 recipes' multi-scale tests on Cityscapes meet this case" in protocols()
    low = {ratio: predictor.scaled_size((1024, 2048), ratio) for ratio in (0.5, 0.75, 1.0)}
    assert low == {0.5: (512, 1024), 0.75: (768, 1536), 1.0: (1025, 2049)}
    # "769 x 769, stride 513": as many windows as its authors' have
    assert [len(window_starts(side, 769, 513)) for side in (1025, 2049)] == [2, 4]


@pytest.mark.parametrize("recipe", OWN)
def test_what_has_no_published_protocol_keeps_everything_in_its_place(recipe):
    val = load(recipe).val
    assert (val.resize, val.windows, val.interpolation) == ("centres", "torchcv", "bilinear")
