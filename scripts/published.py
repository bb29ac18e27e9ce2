"""Compares the recipes with configs/published.yaml, setting by setting: a table of Markdown, and what tests ask."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lib import models
from lib.base.errors import UserError
from lib.config import Config
from lib.keys import as_text, get, keys
from lib.models.options import option_defaults
from lib.tasks import load_config
from lib.tasks.segmentation import SegmentationConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
OPTIONS = {
    "model.backbone": models.BACKBONES,
    "model.head": models.HEADS,
    "model.head.block": models.BLOCKS,
    "model.aux": {"auxiliary": models.HEADS["auxiliary"]},
}
"""The groups of keys that have ``options``, and the registries in which their ``name`` is."""

INTRODUCTION = """## Published scripts

What every published script sets stands in [published.yaml](published.yaml), field by field, in the keys of this
project. "Training" says whether the recipe, with the words beside it, trains by the same settings; "its own test" has
the words with which `val` and `test` evaluate as the script did, where the recipe alone does not."""


@dataclass(frozen=True)
class Script:
    """A published script, and what stands for it here.

    Attributes:
        name: with the folder in which it was published.
        settings: what it sets, in this project's keys.
        recipe: folder and name of ours.
        words: what to say after it, each ``key=value``.
        reasons: for settings of the training that are others here all the same.
        shared: those of them that hold for a whole group of scripts, whose name is the value.
        note: what else there is to say.
        broken: why it cannot be run as published; empty where it can, and the only thing said where it cannot.
    """

    name: str
    settings: dict[str, Any]
    recipe: str
    words: tuple[str, ...]
    reasons: dict[str, str]
    shared: dict[str, str]
    note: str
    broken: str

    def differences(self) -> dict[str, Any]:
        """The settings that the recipe, after its words, has other values for: by key, what is published."""
        config = load_config(CONFIGS / "seg" / f"{self.recipe}.yaml", self.words)
        return {key: value for key, value in self.settings.items() if effective(config, key) != value}


def effective(config: Config, key: str) -> Any:
    """The value of a key, or of one of an ``options``; where that is left to a default, the default.

    Raises:
        UserError: if there is no such key or option.
    """
    group, _, option = key.partition(".options.")
    if not option:
        if key not in {known.name for known in keys(SegmentationConfig)}:
            raise UserError(f"configs/published.yaml: there is no key {key}")
        return get(config, key) or (config.data.crop_size if key == "val.window" else get(config, key))
    part = get(config, group)
    defaults = option_defaults(OPTIONS[group][getattr(part, "name", "auxiliary")])
    if option not in defaults:
        raise UserError(f"configs/published.yaml: {group} {part.name} has no option {option}")
    value = part.options.get(option, defaults[option])
    return list(value) if isinstance(value, tuple) else value


@cache
def read_scripts() -> tuple[Script, ...]:
    """All published scripts, as configs/published.yaml has them."""
    content = yaml.safe_load((CONFIGS / "published.yaml").read_text())
    return tuple(_read(entry, content["groups"]) for entry in content["scripts"])


def _read(entry: dict[str, Any], groups: dict[str, dict[str, Any]]) -> Script:
    settings, reasons, shared = {}, {}, {}
    for name in _ancestry(entry, groups):
        settings |= {key: value for key, value in groups[name].items() if key not in ("of", "differs")}
        reasons |= groups[name].get("differs", {})
        shared |= dict.fromkeys(groups[name].get("differs", {}), name)
    own = entry.get("differs", {})
    return Script(
        name=entry["name"],
        settings=settings | entry.get("own", {}),
        recipe=entry.get("recipe", ""),
        words=tuple(entry.get("words", ())),
        reasons=reasons | own,
        shared={key: name for key, name in shared.items() if key not in own},
        note=entry.get("note", ""),
        broken=entry.get("broken", ""),
    )


def _ancestry(entry: dict[str, Any], groups: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The groups that a script or a group is of, each after those that it is of itself."""
    for name in entry.get("of", []):
        yield from _ancestry(groups[name], groups)
        yield name


def table() -> str:
    """The section of configs/README.md."""
    reasons: dict[str, str] = {}
    rows = [_row(script, reasons) for script in read_scripts()]
    header = ["| published script | recipe | training | its own test |", "| --- | --- | --- | --- |"]
    others = ", ".join(f"[{recipe}](seg/{recipe}.yaml)" for recipe in unmatched())
    parts = [INTRODUCTION, "\n".join([*header, *rows])]
    if reasons:
        parts.append("\n".join(f"* ({mark}) {text}" for text, mark in reasons.items()))
    return "\n\n".join([*parts, f"Recipes that stand for none of these scripts: {others}.\n"])


def _row(script: Script, reasons: dict[str, str]) -> str:
    """A row of the table; to ``reasons`` it adds the ones that it refers to, with the marks that stand for them."""
    if script.broken:
        return f"| {script.name} | | does not run as published: {script.broken} | |"
    differences = script.differences()
    training = {key: value for key, value in differences.items() if not key.startswith("val.")}
    marks = []
    for key, value in training.items():
        text = f"published: {_word(key, value)}; here: {script.reasons.get(key, '')}"
        if key in script.shared:
            reasons.setdefault(text, f"all scripts of {script.shared[key]}")
        else:
            own = sum(len(mark) == 1 for mark in reasons.values())
            marks.append(reasons.setdefault(text, chr(ord("a") + own)))
    cells = [
        script.name,
        " ".join(
            [f"[{script.recipe}](seg/{script.recipe}.yaml)", *(f"`{shlex.quote(word)}`" for word in script.words)]
        ),
        "equal" + (f" but for ({', '.join(marks)})" if marks else "") + (f"; {script.note}" if script.note else ""),
        " ".join(_word(key, value) for key, value in differences.items() if key.startswith("val.")) or "equal",
    ]
    return f"| {' | '.join(cells)} |"


def _word(key: str, value: Any) -> str:
    return f"`{shlex.quote(f'{key}={as_text(value)}')}`"


def unmatched() -> Iterator[str]:
    """Recipes that stand for no published script."""
    matched = {script.recipe for script in read_scripts()}
    for file in sorted((CONFIGS / "seg").glob("*/*.yaml")):
        recipe = f"{file.parent.name}/{file.stem}"
        if recipe not in matched:
            yield recipe
