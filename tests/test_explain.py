"""Keys of the configuration: declared once, and checked, explained and complained of in the same words."""

import typing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from datasets.seg.augment import Augmentation
from datasets.seg.dataset import Pixels
from lib.base.errors import UserError
from lib.inference import predictor
from lib.keys import at_least, bounds, complaints, entries, get, key, keys, length, one_of, or_null
from lib.losses import SegmentationLoss
from lib.models import BACKBONES, BLOCKS, HEADS
from lib.models.backbones.resnet import ResNet
from lib.models.options import option_types
from lib.optim import build_optimizer, build_schedule
from lib.tasks import load_config, tasks

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "seg" / "cityscapes" / "dnl_r101.yaml"
KEYS = [key for task in tasks().values() for key in keys(task.schema)]


@dataclass
class Wheels:
    count: int = key(4, at_least(1))
    """How many."""
    sizes: list[int] = key([1, 2], length(2))
    """Of the small
    and of the large ones."""


@dataclass
class Vehicle:
    name: str = key("car")
    """What it is called."""


@dataclass
class Car(Vehicle):
    kind: str = key("big", one_of("big", "small"))
    """Its kind."""
    wheels: Wheels = field(default_factory=Wheels)
    prices: dict[str, float] = key({}, entries(one_of("red", "blue"), at_least(0)))
    """By colour."""
    most: int = key(0, bounds("wheels.count"))
    """At most so many."""
    used: float | None = key(None, or_null(at_least(0)))
    """Kilometres."""


class TestKeys:
    def test_they_come_in_order_with_all_that_was_declared(self):
        known = list(keys(Car))
        assert [key.name for key in known] == ["name", "kind", "wheels.count", "wheels.sizes", "prices", "most", "used"]
        assert [key.type for key in known] == [
            "str",
            "str",
            "int",
            "list[int]",
            "dict[str, float]",
            "int",
            "float or null",
        ]
        assert [key.default for key in known] == ["car", "big", 4, [1, 2], {}, 0, None]
        assert known[3].meaning == "Of the small and of the large ones."

    def test_lists_and_dictionaries_are_not_shared(self):
        Car().wheels.sizes.append(3)
        Car().prices["red"] = 1.0
        assert Car().wheels.sizes == [1, 2] and Car().prices == {}

    @pytest.mark.parametrize(
        "name, value, complaint",
        [
            ("kind", "huge", "kind=huge: choose one of big, small"),
            ("wheels.count", 0, "wheels.count=0: must be at least 1"),
            ("wheels.count", float("nan"), "wheels.count=nan: must be at least 1"),
            ("wheels.sizes", [1], "wheels.sizes=[1]: must have 2 entries"),
            ("prices", {"red": 1.0, "green": 2.0}, "prices.green=2.0: choose one of red, blue"),
            ("prices", {"red": -1.0}, "prices.red=-1.0: must be at least 0"),
            ("used", -1.0, "used=-1.0: must be at least 0, or null"),
        ],
    )
    def test_a_value_that_is_not_allowed_is_named_with_what_is(self, name, value, complaint):
        car = Car()
        assert list(complaints(car)) == []
        group, _, last = name.rpartition(".")
        setattr(get(car, group) if group else car, last, value)
        assert list(complaints(car)) == [complaint]

    def test_what_another_key_decides_is_found(self):
        car = Car(most=3, wheels=Wheels(count=0))
        assert "most=3: bounds what wheels.count asks for: set that too" in list(complaints(car))
        assert list(complaints(Car(most=3))) == []


@pytest.mark.parametrize("known", KEYS, ids=lambda known: known.name)
def test_every_key_of_a_task_says_what_it_means(known):
    assert known.meaning.endswith("."), known.meaning


@pytest.mark.parametrize("task", tasks().values(), ids=tasks())
def test_the_defaults_are_allowed(task):
    assert list(complaints(task.schema())) == []


class TestChoices:
    """The values that a key allows are those that the part takes which it chooses, and no others."""

    def choices(self, name):
        (known,) = (known for known in KEYS if known.name == name)
        words = known.allowed[0].wording(tasks()["seg"].schema())
        return words.removeprefix("choose one of ").split(", ")

    @pytest.mark.parametrize(
        "name, build",
        [
            ("loss.name", lambda name: SegmentationLoss(name)),
            ("loss.extra", lambda name: SegmentationLoss(extra={name: 1.0})),
            ("loss.mean", lambda mean: SegmentationLoss(mean=mean)),
            ("val.mode", lambda mode: predictor(mode, window=(8, 8))),
            ("val.combine", lambda way: predictor("ms", window=(8, 8), combine=way)),
            ("data.resize", lambda way: Augmentation((8, 8), resize=way)),
            ("data.color_order", lambda order: Pixels(order, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
            ("val.interpolation", lambda way: predictor("ss", window=(8, 8), interpolation=way)),
            ("val.resize", lambda way: predictor("ss", window=(8, 8), resize=way)),
            ("val.windows", lambda way: predictor("ss", window=(8, 8), windows=way)),
        ],
    )
    def test_the_part_takes_them_and_no_other(self, name, build):
        words = self.choices(name)
        if name == "loss.extra":
            words = self.choices("loss.name")
        for word in words:
            build(word)
        with pytest.raises(UserError):
            build("strange")

    def test_optimisers_and_schedules_are_those_that_there_are(self):
        network = torch.nn.Module()
        network.backbone = torch.nn.Linear(2, 2)
        kinds = {
            type(build_optimizer(network, name, lr=0.1, weight_decay=0.0)) for name in self.choices("train.optimizer")
        }
        assert kinds == {torch.optim.SGD, torch.optim.AdamW}
        for name in self.choices("train.schedule"):
            optimizer = build_optimizer(network, lr=0.1, weight_decay=0.0)
            assert build_schedule(optimizer, name, max_iters=2).get_last_lr() == [0.1]

    @pytest.mark.parametrize("option", ["stem", "output_stride"])
    def test_backbones_are_annotated_with_what_their_keys_allow(self, option):
        annotated = typing.get_args(option_types(ResNet)[option])
        assert self.choices(f"model.backbone.{option}") == [str(choice) for choice in annotated]

    @pytest.mark.parametrize(
        "name, registry",
        [("model.backbone.name", BACKBONES), ("model.head.name", HEADS), ("model.head.block.name", BLOCKS)],
    )
    def test_networks_are_those_of_the_registries(self, name, registry):
        assert self.choices(name) == list(registry)


@pytest.fixture
def explain(command, tmp_path):
    """What ``explain`` prints for a recipe of three files and some words: key -> its lines below the first."""
    for name, content in {
        "base.yaml": "train: {lr: 0.5, power: 0.5}\nmodel: {head: {options: {width: 8}}}",
        "middle.yaml": "_base_: base.yaml\ntrain: {power: 0.7}",
        "mine.yaml": "_base_: middle.yaml\nmodel: {head: {options: {width: 16}}}",
    }.items():
        (tmp_path / name).write_text(content)

    def call(*words):
        outcome = command("explain", *words, config=tmp_path / "mine.yaml")
        assert outcome.status == 0, outcome.stderr
        blocks = (block.splitlines() for block in outcome.stdout.strip().split("\n\n"))
        return {first: [line.strip() for line in lines] for first, *lines in blocks}

    call.folder = tmp_path
    return call


class TestExplain:
    def test_a_key_has_value_meaning_type_default_allowed_values_and_origin(self, explain):
        assert explain("train.lr") == {
            "train.lr = 0.5": [
                "Learning rate at the start, after the warm-up.",
                "float; default 0.01; must be at least 0",
                f"set by {explain.folder / 'base.yaml'}",
            ]
        }

    def test_the_origin_is_the_last_that_set_it(self, explain):
        found = explain("train.power", "train.lr", "train.momentum", "recipe", "train.lr=0.1", "train.lr=0.2")
        origins = {first: lines[-1] for first, lines in found.items()}
        assert origins == {
            "recipe = mine": f"set by the name of {explain.folder / 'mine.yaml'}",
            "train.lr = 0.2": "set by train.lr=0.2",
            "train.power = 0.7": f"set by {explain.folder / 'middle.yaml'}",
            "train.momentum = 0.9": "not set: the default",
        }

    def test_a_dictionary_names_all_that_added_to_it(self, explain):
        (lines,) = explain("model.head.options").values()
        assert lines[-1] == f"set by {explain.folder / 'base.yaml'}, then {explain.folder / 'mine.yaml'}"

    def test_a_group_is_all_of_its_keys_and_no_word_all_that_there_are(self, explain):
        names = [known.name for known in KEYS]
        assert [first.split()[0] for first in explain()] == names
        assert [first.split()[0] for first in explain("val", "log")] == [
            name for name in names if name.startswith(("val.", "log."))
        ]

    def test_values_are_shown_as_they_can_be_typed(self, explain):
        shown = explain("data.crop_size", "train.compile", "model.head.options", "pretrained", "train.weight_decay")
        for first in shown:
            name, value = first.split(" = ")
            assert get(load_config(RECIPE, [f"{name}={value}".replace("''", "")]), name) is not None
        assert {"data.crop_size = [769, 769]", "model.head.options = {width: 16}", "pretrained = ''"} <= set(shown)

    def test_no_value_is_shown_as_null_where_that_is_one(self, explain):
        assert explain("loss.ohem_threshold", "loss.ohem_threshold=null").popitem() == (
            "loss.ohem_threshold = null",
            [
                "Pixels whose true class has a lower probability than this are always kept; null: the ohem_min_kept "
                "pixels per image of the largest loss are, and no others.",
                "float or null; default 0.7; is a probability, from 0 to 1, or null",
                "set by loss.ohem_threshold=null",
            ],
        )

    def test_what_other_keys_decide_is_said_with_their_values(self, explain):
        (lines,) = explain("val.stride", "data.crop_size=[64,48]").values()
        assert lines[1].endswith("at most 48")

    def test_it_needs_no_recipe(self, monkeypatch, capsys):
        import main

        monkeypatch.setattr("sys.argv", ["main.py", "explain", "log.interval"])
        assert main.main() == 0
        assert capsys.readouterr().out.splitlines()[0] == "log.interval = 10"


def test_an_error_says_what_explain_says(explain):
    (lines,) = explain("val.mode").values()
    with pytest.raises(UserError) as error:
        load_config(RECIPE, ["val.mode=crops"])
    assert lines[1].split("; ")[-1] in str(error.value)


def test_an_unknown_task_is_named():
    with pytest.raises(UserError, match="task=detection: choose one of seg"):
        load_config(RECIPE, ["task=detection"])
