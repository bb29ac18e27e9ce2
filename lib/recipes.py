"""From a recipe's YAML file, its parents and ``key=value`` arguments to one checked configuration."""

import difflib
import os
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lib.base.errors import UserError
from lib.config import Config
from lib.keys import complaints, keys

SHORTHANDS = {"checkpoint": "checkpoint.file"}
"""Keys that name a group but take a value: ``checkpoint=FILE``."""


@dataclass(frozen=True)
class Layer:
    """What one file or one argument sets."""

    source: str
    """The file's path, or the argument as it was given."""
    tree: dict[str, Any]

    def sets(self, name: str) -> bool:
        """Whether it says anything of the key ``name``."""
        branch: Any = self.tree
        for part in name.split("."):
            if not isinstance(branch, dict) or part not in branch:
                return False
            branch = branch[part]
        return True


@dataclass(frozen=True)
class Recipe:
    """A configuration and where it comes from."""

    config: Config
    layers: tuple[Layer, ...]
    """Parents first, then the file, then the arguments: later ones win."""

    def sources(self, name: str) -> list[str]:
        """What set the key ``name``: nothing, where it has its default; more than one only of a dictionary."""
        found = [layer.source for layer in self.layers if layer.sets(name)]
        value = OmegaConf.select(OmegaConf.structured(self.config), name)
        return found if OmegaConf.is_dict(value) else found[-1:]


def load_recipe(file: str | Path | None, overrides: Sequence[str], schema_of: Callable[[str], type]) -> Recipe:
    """Merge the defaults, ``file``'s ``_base_`` parents, ``file`` itself and ``overrides``, in this order.

    Args:
        file: a recipe, or the ``config.yaml`` of an earlier run; None for the defaults alone.
        overrides: ``key=value`` strings; the value is taken as it stands where the key holds a string and is read
            as YAML elsewhere.
        schema_of: from the name of a task to the schema of its configuration.

    Raises:
        UserError: a missing or broken file, an unknown key (with the nearest known one), a value of the wrong type
            or out of range.
    """
    layers = _file_layers(Path(file)) if file else []
    pairs = [_split(override) for override in overrides]
    tasks = [layer.tree["task"] for layer in layers if "task" in layer.tree]
    tasks += [text for name, text in pairs if name == "task"]
    schema = schema_of(tasks[-1] if tasks else Config.task)
    for layer in layers:
        _check_keys(layer.tree, layer.source, schema)
    # Files first become one: what a parent says of a dictionary and its child replaces is of no consequence.
    config = OmegaConf.structured(schema)
    config = _merge(config, OmegaConf.merge({}, *(layer.tree for layer in layers)), str(file))
    for name, text in pairs:
        branch: Any = _parse(schema, name, text)
        for part in reversed(name.split(".")):
            branch = {part: branch}
        _check_keys(branch, "the command line", schema)
        config = _merge(config, branch, f"{name}={text}")
        layers.append(Layer(f"{name}={text}", branch))
    if file and not config.recipe:
        config.recipe = Path(file).stem
        layers.append(Layer(f"the name of {file}", {"recipe": config.recipe}))
    try:
        merged = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error.msg or error).splitlines()[0]}") from None
    # YAML reads `amp: true` as a boolean.
    merged.train.amp = merged.train.amp.lower()
    for complaint in complaints(merged):
        raise UserError(complaint)
    return Recipe(merged, tuple(layers))


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML that ``load_recipe`` reads back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def nearest(name: str, known: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most like ``name``, if any is like it at all."""
    return next(iter(difflib.get_close_matches(name, known, 1, cutoff)), None)


def _file_layers(file: Path, children: tuple[Path, ...] = ()) -> list[Layer]:
    """What ``file`` and its parents set, parents first."""
    if not file.is_file():
        raise UserError(f"configuration file {file} does not exist")
    if file.resolve() in children:
        raise UserError(f"configuration file {file} names itself among its _base_ parents")
    try:
        tree = yaml.safe_load(file.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"configuration file {file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"configuration file {file} must hold 'key: value' lines")
    parents = tree.pop("_base_", [])
    layers = []
    for parent in [parents] if isinstance(parents, str) else parents:
        layers += _file_layers(file.parent / parent, (*children, file.resolve()))
    return [*layers, Layer(os.path.normpath(file), tree)]


def _split(override: str) -> tuple[str, str]:
    name, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"'{override}' is not of the form key=value")
    return SHORTHANDS.get(name, name), text


def _merge(config: Any, tree: Any, where: str) -> Any:
    try:
        return OmegaConf.merge(config, tree)
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise UserError(f"{where}: {error.full_key}: {reason}") from None


def _check_keys(tree: Any, where: str, schema: type, group: type | None = None, prefix: str = "") -> None:
    """Raise UserError where ``tree``, below ``prefix``, has a key that the schema has not."""
    hints = typing.get_type_hints(group or schema)
    for name, value in tree.items():
        if name not in hints:
            # A word that is like none of its siblings may have been meant for another group.
            siblings = [prefix + sibling for sibling in hints]
            known = siblings if nearest(str(name), list(hints)) else [key.name for key in keys(schema)]
            near = nearest(prefix + str(name), known, 0.4)
            hint = f"; did you mean {near}?" if near else f"; known here: {', '.join(hints)}"
            raise UserError(f"unknown configuration key {prefix}{name} in {where}{hint}")
        if not is_dataclass(hints[name]):
            continue
        if not isinstance(value, dict):
            raise UserError(f"{prefix}{name} in {where} is a group of keys and cannot be set to '{value}'")
        _check_keys(value, where, schema, hints[name], f"{prefix}{name}.")


def _parse(schema: type, name: str, text: str) -> Any:
    if any(key.name == name and key.hint is str for key in keys(schema)):
        return text
    # YAML reads no text as null, which some keys can be.
    if not text.strip():
        raise UserError(f"{name}=: no value is given")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{name}={text}: '{text}' is not a valid value") from None
