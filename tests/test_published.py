"""Published scripts: configs/published.yaml says what they set, and every recipe trains by what it says."""

import re
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

import published_facts
import pytest
import yaml

from lib.base.errors import UserError
from lib.tasks import load_config
from scripts import published

CONFIGS = Path(__file__).parents[1] / "configs"
SCRIPTS = {script.name: script for script in published.read_scripts()}
RUNNING = [name for name, script in SCRIPTS.items() if not script.broken]
needs_facts = pytest.mark.skipif(not published_facts.SPEC.is_dir(), reason="the published facts are not here")

# The settings of the table of facts, by dataset, that a script has where nothing is said of it
TABLE = {"train.max_iters": "iterations", "train.batch_size": "batch", "data.crop_size": "crop"}


@needs_facts
class TestFacts:
    def test_every_published_script_is_there_and_no_other(self):
        assert {name for name in SCRIPTS if name.endswith(".sh")} == published_facts.scripts().keys()
        assert len(published_facts.scripts()) > 40

    def test_those_that_cannot_run_are_those_that_do_not(self):
        broken = {name for name, row in published_facts.scripts().items() if row is None}
        assert broken == SCRIPTS.keys() - set(RUNNING) and len(broken) == 4

    @pytest.mark.parametrize("name", [name for name in RUNNING if name.endswith(".sh")])
    def test_a_script_sets_what_the_facts_say(self, name):
        recipe, found = published_facts.scripts()[name]
        settings = SCRIPTS[name].settings
        assert {key: settings[key] for key in found} == found
        # a recipe of its own may have taken the place of a variant
        ours, network = SCRIPTS[name].recipe.split("/")
        assert ours == recipe.split("/")[0]
        assert network == recipe.split("/")[1] or network == "dnl_mobilenet_v2"

        column, _ = published_facts.DATASETS[ours]
        for key, row in TABLE.items():
            if key not in found:
                facts = published_facts.numbers(published_facts.published(row, column))
                assert settings[key] == (facts if row == "crop" else facts[0]), key
        if "train.lr" not in found:
            rate = 0.001 if ours == "pascal_context_59" else None
            assert settings["train.lr"] == (
                rate or published_facts.numbers(published_facts.published("base lr / weight decay", column))[0]
            )
        # what the recipe had that the facts were compared with: OHEM, and windows on Cityscapes alone
        assert settings["loss.name"] == found.get("loss.name", "ohem")
        assert settings["val.mode"] == found.get("val.mode", "sscrop")

    def test_snls_batch_is_that_of_its_one_gpu(self):
        (batch,) = re.findall(
            r"snl_r50: published batch (\d+)", (published_facts.SPEC / "published_scripts.md").read_text()
        )
        assert SCRIPTS["snl_r50-d8_512x1024_40k_cityscapes.py"].settings["train.batch_size"] == int(batch)

    def test_every_script_of_mmsegmentation_is_there(self):
        matched = [SCRIPTS[name].recipe for name in RUNNING if name.startswith("dnl_r")]
        assert sorted(matched) == sorted(
            f"{file.parent.name}/{file.stem}" for file in (CONFIGS / "seg").glob("*/mmseg_*.yaml")
        )
        for name in RUNNING:
            found = re.match(r"(dnl|snl)_(r\d+)-d8_(\w+)_(\d+k)_(\w+)\.py", name)
            if found and found[1] == "dnl":
                _, depth, crop, iterations, dataset = found.groups()
                assert SCRIPTS[name].recipe == f"{dataset}/mmseg_dnl_{depth}_{crop}_{iterations}"


@pytest.mark.parametrize("name", RUNNING)
def test_a_recipe_trains_as_its_script_but_for_reasons_given(name):
    script = SCRIPTS[name]
    differences = {key for key in script.differences() if not key.startswith("val.")}
    assert differences <= script.reasons.keys(), "give recipe or words the published value, or the reason in `differs`"
    own = next(entry for entry in entries() if entry["name"] == name).get("differs", {})
    assert own.keys() <= differences, "a reason for what does not differ"


@pytest.mark.parametrize("name", RUNNING)
def test_the_words_of_the_page_make_it_equal(name):
    """Those of the row, and those that it gives for the test and for every reason: nothing is left."""
    script = SCRIPTS[name]
    row = next(line for line in page() if line.startswith(f"| {name} |"))
    assert f"[{script.recipe}](seg/{script.recipe}.yaml)" in row
    words = [
        shlex.split(word)[0] for word in re.findall(r"`([^`]*=[^`]*)`", row.replace("`data.include_val=true`", ""))
    ]
    marks = re.search(r"but for \((.+?)\)", row)[1].split(", ") if "but for" in row else []
    kind = "torchcv" if name.endswith(".sh") else "mmseg"
    marks += [f"all scripts of {kind}"] * any(line.startswith(f"* (all scripts of {kind})") for line in page())
    for mark in marks:
        for line in page():
            if line.startswith(f"* ({mark}) "):
                words += [
                    shlex.split(word)[0] for word in re.findall(r"`([^`]*=[^`]*)`", line.partition("; here: ")[0])
                ]
    config = load_config(CONFIGS / "seg" / f"{script.recipe}.yaml", words)
    known = script.settings
    assert {key: published.effective(config, key) for key in known} == known


@pytest.mark.parametrize("name", RUNNING)
def test_no_word_is_said_in_vain(name):
    script = SCRIPTS[name]
    for word in script.words:
        fewer = [other for other in script.words if other != word]
        config = load_config(CONFIGS / "seg" / f"{script.recipe}.yaml", fewer)
        key = word.partition("=")[0]
        assert published.effective(config, key) != script.settings[key], word


@cache
def entries():
    return yaml.safe_load((CONFIGS / "published.yaml").read_text())["scripts"]


@cache
def page():
    return published.table().splitlines()


def test_every_recipe_stands_for_a_script_or_is_listed_as_ours():
    listed = {script.recipe for script in SCRIPTS.values()} | set(published.unmatched())
    assert listed - {""} == {f"{file.parent.name}/{file.stem}" for file in (CONFIGS / "seg").glob("*/*.yaml")}
    last = page()[-1]
    assert all(f"[{recipe}](seg/{recipe}.yaml)" in last for recipe in published.unmatched())


def test_settings_of_groups_are_inherited_with_their_reasons_and_the_scripts_own_count_last():
    groups = {
        "a": {"train.lr": 1, "seed": 1, "tag": "a", "differs": {"seed": "why"}},
        "b": {"of": ["a"], "seed": 2, "differs": {"tag": "b"}},
        "c": {"task": "seg"},
    }
    script = published._read({"name": "x", "of": ["b", "c"], "own": {"tag": "own"}}, groups)
    assert script.settings == {"train.lr": 1, "seed": 2, "tag": "own", "task": "seg"}
    assert script.reasons == {"seed": "why", "tag": "b"} and script.shared == {"seed": "a", "tag": "b"}
    script = published._read({"name": "x", "of": ["b"], "differs": {"seed": "mine"}}, groups)
    assert script.reasons["seed"] == "mine" and script.shared == {"tag": "b"}


def test_a_reason_of_a_group_is_said_once_and_marks_no_row():
    reasons = {}
    script = replace(SCRIPTS["cityscapes/run_fs_res101_nonlocal_cityscapes_seg.sh"], shared={"train.lr": "torchcv"})
    script = replace(script, settings={"train.lr": 0.5, "seed": 1}, reasons={"train.lr": "so", "seed": "own"})
    row = published._row(script, reasons)
    assert "| equal but for (a) |" in row
    assert reasons == {
        "published: `train.lr=0.5`; here: so": "all scripts of torchcv",
        "published: `seed=1`; here: own": "a",
    }


def test_what_is_left_to_a_default_is_compared_by_the_default():
    config = load_config(CONFIGS / "seg" / "cityscapes" / "dnl_r101.yaml", [])
    assert published.effective(config, "val.window") == [769, 769]
    assert published.effective(config, "model.head.block.options.gain") is True
    assert published.effective(config, "model.aux.options.width") is None
    assert published.effective(config, "model.backbone.options.ceil_mode") is True
    for name, words in (
        ("train.learning_rate", "no key train.learning_rate"),
        ("model.head.block.options.gian", "disentangled has no option gian"),
    ):
        with pytest.raises(UserError, match=words):
            published.effective(config, name)
