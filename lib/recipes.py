"""From a recipe's YAML file, its parents and ``key=value`` arguments to one checked configuration."""

import difflib
import os
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lib.base.errors import UserError
from lib.config import Config
from lib.keys import as_text, complaints, keys, misfit
from lib.yaml_text import read_file, read_text

SHORTHANDS = {"checkpoint": "checkpoint.file"}
"""Keys that name a group but take a value: ``checkpoint=FILE``."""

MOST_FILES = 64
"""That one configuration is merged from, a parent counted as often as it is named."""
MOST_LEVELS = 24
"""Of groups within each other in the name of a key."""
MOST_CHARACTERS = 4095
"""Of one value, as of a path."""
UNSET = object()


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
    """Parents first, then the file, then what was found out, then the arguments: later ones win."""
    note: str = ""
    """A line on what was found out, if anything."""

    def sources(self, name: str) -> list[str]:
        """What set the key ``name``: nothing, where it has its default; more than one only of a dictionary."""
        found = [layer.source for layer in self.layers if layer.sets(name)]
        value = OmegaConf.select(OmegaConf.structured(self.config), name)
        return found if OmegaConf.is_dict(value) else found[-1:]


def load_recipe(
    file: str | Path | None,
    overrides: Sequence[str],
    schema_of: Callable[[str], type],
    text: str | None = None,
    *,
    fit: bool = True,
) -> Recipe:
    """Merge the defaults, ``file``'s ``_base_`` parents, ``file`` itself and ``overrides``, in this order.

    What the schema finds out from all of that (``Config.fitted``) comes between ``file`` and ``overrides``.

    Args:
        file: a recipe, or the ``config.yaml`` of an earlier run; None for the defaults alone.
        overrides: ``key=value`` strings; the value is taken as it stands where the key holds a string and is read
            as YAML elsewhere.
        schema_of: from the name of a task to the schema of its configuration.
        text: what stands in place of the contents of ``file``, which is then only what errors name; it has no parents.
        fit: whether the schema is asked.

    Raises:
        UserError: a missing or broken file, an unknown key (with the nearest known one), a value of the wrong type
            or out of range.
    """
    files = list(_file_layers(Path(file))) if file and text is None else []
    if text is not None:
        files = [_text_layer(text, str(file))]
    pairs = [_split(override) for override in overrides]
    tasks = [layer.tree["task"] for layer in files if "task" in layer.tree]
    tasks += [text for name, text in pairs if name == "task"]
    schema = schema_of(str(tasks[-1]) if tasks else Config.task)
    for layer in files:
        _check(layer.tree, layer.source, schema)
    words = [Layer(f"{name}={text}", _branch(schema, name, text)) for name, text in pairs]
    layers, config = [*files, *words], _merged(schema, file, files, words)
    given = {key.name for key in keys(schema) if any(word.sets(key.name) for word in words)}
    fitted, note = config.fitted(given) if fit else None, ""
    if fitted:
        measured, record = (Layer(fitted.source, _tree(values)) for values in (fitted.values, fitted.record))
        layers = [*files, measured, *words, record]
        config = _merged(schema, file, files, [measured, *words, record])
        settings = (f"{name}={as_text(value)}" for name, value in fitted.values.items() if name not in given)
        note = " ".join([f"fitted to {fitted.source}:", *settings]) if fitted.values else ""
    if file and not config.recipe:
        if wrong := _wrong_text("recipe", Path(file).stem):
            raise UserError(f"{wrong}: rename {file}, or set recipe")
        config.recipe = Path(file).stem
        layers.append(Layer(f"the name of {file}", {"recipe": config.recipe}))
    # YAML reads `amp: true` as a boolean.
    config.train.amp = config.train.amp.lower()
    for complaint in complaints(config):
        is_fitted = fitted and complaint.partition("=")[0] in fitted.values.keys() - given
        raise UserError(f"{fitted.source}: {complaint}; {fitted.remedy}" if is_fitted else complaint)
    return Recipe(config, tuple(layers), note)


def _merged(schema: type, file: str | Path | None, files: list[Layer], others: list[Layer]) -> Config:
    """The defaults, ``files`` and ``others``."""
    # Files first become one: what a parent says of a dictionary and its child replaces is of no consequence.
    config = _merge(OmegaConf.structured(schema), OmegaConf.merge({}, *(layer.tree for layer in files)), str(file))
    for layer in others:
        config = _merge(config, layer.tree, layer.source)
    try:
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error.msg or error).splitlines()[0]}") from None


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML that ``load_recipe`` reads back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def nearest(name: str, known: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most like ``name``, if any is like it at all."""
    return next(iter(difflib.get_close_matches(name, known, 1, cutoff)), None)


def _file_layers(file: Path, children: tuple[Path, ...] = (), read: list[Path] | None = None) -> Iterator[Layer]:
    """What ``file`` and its parents set, parents first; ``read`` collects the files of the whole configuration."""
    read = [] if read is None else read
    read.append(file)
    if len(read) > MOST_FILES:
        raise UserError(f"{read[0]} has more than {MOST_FILES} parents, {file} the last of them: name fewer in _base_")
    tree = read_file(file)
    if file.resolve() in children:
        raise UserError(f"configuration file {file} names itself among its _base_ parents")
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UserError(f"configuration file {file} must hold 'key: value' lines")
    parents = tree.pop("_base_", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) and parent for parent in parents):
        raise UserError(f"_base_ in {file} must be the name of a file or a list of such names, not {parents!r}")
    for parent in parents:
        yield from _file_layers(file.parent / parent, (*children, file.resolve()), read)
    yield Layer(os.path.normpath(file), tree)


def _text_layer(text: str, where: str) -> Layer:
    """What a text sets, that stands in the file ``where`` among other things."""
    try:
        tree = read_text(text)
    except ValueError as error:
        raise UserError(f"{where} has no valid YAML there: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{where} must hold 'key: value' lines there")
    return Layer(where, tree)


def _split(override: str) -> tuple[str, str]:
    name, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"'{override}' is not of the form key=value")
    if name.count(".") > MOST_LEVELS:
        raise UserError(f"{name}: there is no key of so many parts (main.py explain lists all keys)")
    return SHORTHANDS.get(name, name), text


def _merge(config: Any, tree: Any, where: str) -> Any:
    try:
        return OmegaConf.merge(config, tree)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        reason = (str(getattr(error, "msg", "") or error).splitlines() or ["it does not fit"])[0]
        raise UserError(": ".join(filter(None, [where, getattr(error, "full_key", ""), reason]))) from None


def _wrong_text(name: str, value: Any) -> str | None:
    """What is wrong with a string, anywhere in the value of the key ``name``, that no value can hold; None if nothing.

    OmegaConf would take ``${...}`` for the name of another key and ``???`` for a value yet to come.
    """
    if isinstance(value, dict):
        wrong = (_wrong_text(name, key) or _wrong_text(f"{name}.{key}", entry) for key, entry in value.items())
        return next(filter(None, wrong), None)
    if isinstance(value, list):
        return next(filter(None, (_wrong_text(name, entry) for entry in value)), None)
    if not isinstance(value, str):
        return None
    if len(value) > MOST_CHARACTERS:
        return f"{name}={value[:40]}...: is longer than {MOST_CHARACTERS} characters"
    for part, why in (("${", "stands for nothing here"), ("\0", "is a character that no name can hold")):
        if part in value:
            return f"{name}={value}: '{part}' {why}: choose a value without it"
    if value == "???":
        return f"{name}={value}: is no value: give one, or leave the key out"
    if any("\ud800" <= character <= "\udfff" for character in value):
        return f"{name}={value}: is not UTF-8: rename what it names, or link to it"
    return None


def _check(tree: dict[str, Any], where: str, schema: type) -> None:
    """Raise UserError where ``tree`` has a key that the schema has not, or a value that is nothing for its key."""
    _check_keys(tree, where, schema)
    for known in keys(schema):
        branch: Any = tree
        for part in known.name.split("."):
            branch = branch.get(part, UNSET) if isinstance(branch, dict) else UNSET
        if branch is UNSET:
            continue
        wrong = _wrong_text(known.name, branch) or misfit(known, branch)
        if wrong:
            raise UserError(wrong if where == "the command line" else f"{where}: {wrong}")


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


def _branch(schema: type, name: str, text: str) -> dict[str, Any]:
    """The tree that ``name=text`` on the command line sets."""
    branch = _tree({name: _parse(schema, name, text)})
    _check(branch, "the command line", schema)
    return branch


def _tree(values: dict[str, Any]) -> dict[str, Any]:
    """The groups within each other that the names of keys stand for."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[last] = value
    return tree


def _parse(schema: type, name: str, text: str) -> Any:
    if any(key.name == name and key.hint is str for key in keys(schema)):
        return text
    # YAML reads no text as null, which some keys can be.
    if not text.strip():
        raise UserError(f"{name}=: no value is given")
    try:
        return read_text(text)
    except ValueError as error:
        raise UserError(f"{name}={text}: '{text}' is not a valid value: {error}") from None
