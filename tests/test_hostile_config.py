"""Whatever stands in a configuration: either it is one, or one line says what is wrong and where."""

import math
import os
import time

import pytest
import yaml

from lib.base.errors import UserError
from lib.keys import get, keys
from lib.recipes import to_yaml
from lib.tasks import load_config
from lib.tasks.segmentation import SegmentationConfig
from tests.conftest import RECIPE, ROOT

KEYS = [key.name for key in keys(SegmentationConfig)]
NUMBERS = [key.name for key in keys(SegmentationConfig) if "int" in str(key.hint) or "float" in str(key.hint)]
BEYOND = (".inf", "-.inf", ".nan", "1e308", "-1e308", "1e400", str(-(2**63)), str(2**200))
"""Numbers that no key takes."""
HOSTILE = (
    *BEYOND,
    *(str(2**31), str(2**63), str(2**64), "-1", "0", "1e-320", "0x" + "f" * 100, "1" * 5000, "1:" * 400 + "1"),
    *("", "\0", "\x1b[2J", "a\nb", "${x}", "${", "${train.lr}", "???", "x" * 5000, "\udcff", "/", "..", "~", "=", "*"),
    *("[]", "[[1]]", "[1, [2]]", "[[], 1]", "[.inf, .nan]", "[-.inf, 1]", "[null, 1]", "[true, 1]", "['${x}', 1]"),
    *("{}", "{a: 1}", "{null: 1}", "{1: 2}", "{a: 1, a: 2}", "{a: {b: {c: .inf}}}", "{lovasz: [1]}", "{dice: .inf}"),
    *("null", "true", "2001-01-01", "2001-99-99", "12:30:45", "!!set {a}", "!!binary aGk=", "!!int x", "!!bool x"),
    *("&a [*a]", "*a", "[" * 5000, "{" * 40 + "}" * 40, "- " * 3000, '"\\UFFFFFFFF"', '"\\ud800"', "a: b: c", "\t- 1"),
    *("!!python/object/apply:os.system [ls]", "%YAML 9.9\n---\n1", "--- 1\n--- 2", "[1" + ", 1" * 3000 + "]"),
)


def outcome(file, overrides, *named):
    """The configuration, or None where a line that holds all of ``named`` refused it."""
    try:
        return load_config(file, overrides)
    except UserError as error:
        message = str(error)
    assert message.isprintable() and len(message) <= 2000
    assert all(str(name) in message for name in named), message
    return None


def numbers(value):
    """All numbers in a value."""
    if isinstance(value, (list, dict)):
        return [number for entry in (value.values() if isinstance(value, dict) else value) for number in numbers(entry)]
    return [value] if isinstance(value, (int, float)) else []


def assert_sound(config):
    """No number of a configuration can overflow, nothing in it is to be resolved, and it can be recorded."""
    values = [get(config, name) for name in KEYS]
    assert all(math.isfinite(number) and abs(number) < 1e38 for number in numbers(values))
    assert not any(mark in str(values) for mark in ("${", "\0"))
    assert yaml.safe_load(to_yaml(config))["train"]["lr"] == config.train.lr


def some_of(values, name, every):
    """Every so many of the values, other ones for each key."""
    return values[KEYS.index(name) % every :: every]


def each(*less):
    """A parameter ``every``: a number for the tests that always run, and 1, all values, for the slow ones."""
    return pytest.mark.parametrize("every", [*less, pytest.param(1, marks=pytest.mark.slow)])


class TestValues:
    @each(13)
    @pytest.mark.parametrize("name", KEYS)
    def test_a_value_of_any_kind_is_taken_or_refused_by_the_name_of_its_key(self, name, every):
        for value in some_of(HOSTILE, name, every):
            config = outcome(None, [f"{name}={value}"], name)
            if config:
                assert_sound(config)

    @each(37)
    @pytest.mark.parametrize("name", KEYS)
    def test_so_is_one_in_a_file(self, name, every, tmp_path):
        file = tmp_path / "mine.yaml"
        group, _, last = name.rpartition(".")
        for value in some_of(HOSTILE, name, every):
            content = f"{last}: {value}\n"
            for part in reversed(group.split(".") if group else []):
                content = f"{part}:\n" + "".join(f"  {line}\n" for line in content.splitlines())
            file.write_text(content, encoding="utf-8", errors="surrogateescape")
            config = outcome(file, [])
            if config:
                assert_sound(config)

    @each(4)
    @pytest.mark.parametrize("name", NUMBERS)
    def test_no_number_is_beyond_its_bounds(self, name, every):
        default = next(key.default for key in keys(SegmentationConfig) if key.name == name)
        for number in some_of(BEYOND, name, every):
            value = number
            if isinstance(default, list):
                value = f"[{', '.join([number] * (len(default) or 2))}]"
            elif isinstance(default, dict):
                value = f"{{dice: {number}}}"
            assert outcome(None, [f"{name}={value}"], name) is None

    def test_a_boolean_is_no_number_and_a_number_beyond_1_no_boolean(self):
        for override in ("train.max_iters=true", "data.scale=[true, 2]", "loss.extra={dice: true}", "val.flip=2"):
            assert outcome(None, [override], override.split("=")[0], "must be") is None
        assert load_config(None, ["val.flip=0"]).val.flip is False

    def test_a_list_within_a_list_is_no_number(self):
        for override in ("data.scale=[[1], 2]", "val.scales=[[1]]", "model.backbone.multi_grid=[[1, 1, 1]]"):
            assert outcome(None, [override], override.split("=")[0], "must be a list of") is None

    @pytest.mark.parametrize("name", ["data.root", "pretrained", "checkpoint.file", "tag"])
    def test_what_looks_like_a_reference_is_refused_in_words(self, name):
        for value in ("/a/${x}", "${data.root}", "${", "a${b"):
            assert outcome(RECIPE, [f"{name}={value}"], name, "'${'") is None
        config = load_config(RECIPE, ["data.root=/a $x/~/{y}/\n/"])
        assert config.data.root == "/a $x/~/{y}/\n/"

    @pytest.mark.parametrize(
        "dataset", ["../tables/camvid", "tables/../camvid", "/camvid", "camvid.csv", "", ".", "CAMVID"]
    )
    def test_a_dataset_is_a_name_and_no_path(self, dataset):
        assert outcome(RECIPE, [f"data.dataset={dataset}"], "data.dataset", "camvid, cityscapes") is None

    @pytest.mark.parametrize("tag", ["a\nb", "a\x1bb", "x" * 201, "\N{SNOWMAN}" * 70, "a\0", "..", "\udcff"])
    def test_a_tag_is_the_name_of_a_folder(self, tag):
        assert outcome(RECIPE, [f"tag={tag}"], "tag") is None

    @pytest.mark.parametrize("words", ["", "=", "=1", ".=1", "a..b=1", "train.=1", "train.lr.x=1", "." * 5000 + "=1"])
    def test_a_word_that_names_no_key_is_refused(self, words):
        assert outcome(RECIPE, [words]) is None


def bomb(levels):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 8)}]" for level in range(1, levels)]
    return "\n".join(lines)


class TestFiles:
    @pytest.mark.parametrize(
        "content, words",
        [
            ("train: {lr: 1, momentum: 0.9, lr: 2}", ["line 1", "lr is set twice"]),
            ("train:\n  lr: 1\nseed: 1\ntrain:\n  lr: 2\n", ["line 4", "train is set twice", "line 1"]),
            ("a: 1\n'a': 2", ["line 2", "a is set twice"]),
            ("_base_: null", ["_base_", "name of a file", "None"]),
            ("_base_: 3", ["_base_", "name of a file", "3"]),
            ("_base_: [[a.yaml]]", ["_base_", "name of a file"]),
            ("_base_: {a: b}", ["_base_", "name of a file"]),
            ("_base_: [null]", ["_base_", "name of a file"]),
            ("_base_: ''", ["_base_", "name of a file"]),
            ("_base_: .", ["not a regular file"]),
            ('_base_: "a\\0b"', ["does not exist"]),
            ("_base_: '${x}.yaml'", ["does not exist"]),
            ("null: 3", ["line 1", "null is no key"]),
            ("1: 3", ["line 1", "1 is no key"]),
            ("? [a]\n: 3", ["line 1", "no key"]),
            ("? {a: b}\n: 3", ["line 1", "no key"]),
            ("train: !!set {lr}", ["line 1", "!!set"]),
            ("tag: !!binary aGk=", ["line 1", "!!binary"]),
            ("tag: !!python/name:os.system x", ["line 1", "python/name"]),
            ("task: [seg]", ["task", "choose one of seg"]),
            ("task: {a: 1}", ["task", "choose one of seg"]),
            ("data: {root: '${oc.env:HOME}'}", ["data.root", "'${'"]),
            ("data: {root: '${'}", ["data.root", "'${'"]),
            ("model: {head: {options: {a: {b: ['${x}']}}}}", ["model.head.options.a.b", "'${'"]),
            ("model: {head: {options: {'${x}': 1}}}", ["model.head.options", "'${'"]),
            ("model: {head: {options: {width: .inf}}}", ["model.head.options", "finite"]),
            ("model: {head: {block: 3}}", ["model.head.block", "group"]),
            ("model: {head: {block: {options: 3}}}", ["model.head.block.options", "group"]),
            ("model: {head: {block: {options: [embedding]}}}", ["model.head.block.options", "group"]),
            ("[" * 10_000, ["line 1", "24 at most"]),
            (bomb(20), ["aliases", "larger than"]),
            ("x: &x\n  y: *x", ["an alias stands for what it is part of"]),
            ("seed: 1\ntag: \0", ["U+0000"]),
            ("train:\n\tlr: 1", ["line 2", r"'\t'"]),
            ("--- {}\n--- {}", ["line 2", "another document"]),
            ("3", ["key: value"]),
            ("false", ["key: value"]),
            ("''", ["key: value"]),
            ("x" * 70_000, ["larger than 64 KiB"]),
        ],
        ids=lambda value: value[:24] if isinstance(value, str) else "",
    )
    def test_what_a_file_cannot_hold_is_named(self, tmp_path, content, words):
        file = tmp_path / "mine.yaml"
        file.write_text(content)
        start = time.perf_counter()
        # What is checked of all files together is known by its key alone.
        culprit = () if words[0] == "task" or words[-1] == "finite" else (file.parent,)
        assert outcome(file, [], *culprit, *words) is None
        assert time.perf_counter() - start < 5

    def test_a_file_begins_with_a_byte_order_mark_or_not(self, tmp_path):
        file = tmp_path / "mine.yaml"
        file.write_text("seed: 3", encoding="utf-8-sig")
        assert load_config(file, []).seed == 3
        for encoding in ("utf-16", "utf-32", "latin-1"):
            file.write_text("tag: \N{LATIN SMALL LETTER E WITH ACUTE}", encoding=encoding)
            assert outcome(file, [], file, "not UTF-8") is None

    def test_a_file_reads_the_same_whatever_the_language_of_the_machine(self, tmp_path, monkeypatch):
        file = tmp_path / "mine.yaml"
        file.write_bytes("tag: \N{SNOWMAN}".encode())
        monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
        monkeypatch.setattr("locale.getencoding", lambda: "ascii", raising=False)
        assert load_config(file, []).tag == "\N{SNOWMAN}"

    def test_a_date_is_a_word(self, tmp_path):
        file = tmp_path / "mine.yaml"
        file.write_text("tag: 2026-11-21")
        assert load_config(file, []).tag == "2026-11-21"

    def test_aliases_that_stay_small_are_followed(self, tmp_path):
        file = tmp_path / "mine.yaml"
        file.write_text("data: {short_side: 10, long_side: &side 99}\nval: {short_side: 9, long_side: *side}")
        assert load_config(file, []).val.long_side == 99
        file.write_text("data: &sides {short_side: 10, long_side: 99}\nval: {<<: *sides, short_side: 9}")
        assert load_config(file, []).val.short_side == 9

    def test_pipes_devices_and_folders_are_no_files(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.yaml")
        (tmp_path / "zero.yaml").symlink_to("/dev/zero")
        (tmp_path / "loop.yaml").symlink_to("loop.yaml")
        for name in ("pipe.yaml", "zero.yaml", ".", "loop.yaml", "x" * 300):
            assert outcome(tmp_path / name, []) is None

    def test_parents_in_a_circle_or_without_number_are_refused(self, tmp_path):
        for name, parent in (("a", "b"), ("b", "c"), ("c", "a")):
            (tmp_path / f"{name}.yaml").write_text(f"_base_: {parent}.yaml")
        assert outcome(tmp_path / "a.yaml", [], "a.yaml", "names itself") is None
        for level in range(30):
            (tmp_path / f"{level}.yaml").write_text(f"_base_: [{level + 1}.yaml, {level + 1}.yaml]")
        (tmp_path / "30.yaml").write_text("seed: 1")
        assert outcome(tmp_path / "0.yaml", [], "0.yaml", "more than 64 parents") is None

    def test_a_name_that_a_recipe_cannot_have_is_refused(self, tmp_path):
        for name in ("${x}.yaml", "${.yaml", "-a.yaml", "a\nb.yaml"):
            (tmp_path / name).write_text("seed: 1")
            assert outcome(tmp_path / name, [], "recipe") is None

    @pytest.mark.parametrize("recipe", sorted((ROOT / "configs" / "seg").glob("*/*.yaml")), ids=lambda path: path.stem)
    def test_what_a_run_records_of_a_recipe_is_read_again(self, recipe, tmp_path):
        config = load_config(recipe, ["data.root=/a: b\n#'\"\N{SNOWMAN}\x85"])
        (tmp_path / "again.yaml").write_text(to_yaml(config), encoding="utf-8")
        assert load_config(tmp_path / "again.yaml", []) == config
