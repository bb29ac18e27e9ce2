"""Keys of the configuration: how one is declared beside its default, and what is known of all of them.

A schema is a dataclass whose fields are keys or groups of keys, each with its meaning as a string below it:

    mode: str = key("sscrop", one_of("ss", "sscrop"))
    \"""``ss``: the whole image at once; ``sscrop``: sliding windows.\"""

Checking, error messages, ``main.py explain`` and the reference in ``configs/KEYS.md`` all read these declarations.
"""

import ast
import copy
import inspect
import math
import textwrap
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from itertools import pairwise
from operator import attrgetter
from typing import Any

import yaml

LARGEST = 1e30
"""That any number of any key may be, either way: far beyond sense, and within the range of single precision."""


@dataclass(frozen=True)
class Allowed:
    """What a key's value must be.

    Attributes:
        words: what completes ``KEY=VALUE:`` in an error, "must be at least 1"; or, where other keys decide, a function
            from the whole configuration to that.
        holds: whether a value, in a whole configuration, is so.
    """

    words: str | Callable[[Any], str]
    holds: Callable[[Any, Any], bool]

    def wording(self, config: Any) -> str:
        """The words, in the light of a whole configuration."""
        return self.words if isinstance(self.words, str) else self.words(config)

    def complaint(self, name: str, value: Any, config: Any) -> str | None:
        """What is wrong with ``value`` for the key ``name``: a line for the user; None if nothing is."""
        return None if self.holds(value, config) else f"{name}={value}: {self.wording(config)}"


@dataclass(frozen=True)
class AllowedEntries(Allowed):
    """The same for each name, and for each value, of a dictionary."""

    names: Allowed
    values: Allowed

    def complaint(self, name: str, value: Any, config: Any) -> str | None:
        for entry, number in value.items():
            for allowed, subject in ((self.names, entry), (self.values, number)):
                if not allowed.holds(subject, config):
                    return f"{name}.{entry}={number}: {allowed.wording(config)}"
        return None


def key(default: Any, *allowed: Allowed) -> Any:
    """A field of a schema: its default, a new copy of it where that can change, and what is allowed."""
    options: dict[str, Any] = {"default_factory": lambda: copy.copy(default)}
    if not isinstance(default, (list, dict)):
        options = {"default": default}
    return field(**options, metadata={"allowed": allowed})


def must(words: str | Callable[[Any], str], holds: Callable[[Any], bool]) -> Allowed:
    """What the value alone decides."""
    return Allowed(words, lambda value, config: holds(value))


def one_of(*choices: str | int) -> Allowed:
    return must(f"choose one of {', '.join(map(str, choices))}", lambda value: value in choices)


def at_least(lowest: float) -> Allowed:
    return must(f"must be at least {lowest}", lambda value: value >= lowest)


def between(lowest: float, highest: float) -> Allowed:
    """From ``lowest`` to ``highest``: a bound above keeps what is computed from the value finite and in memory."""
    words = f"must be at least {lowest} and at most {highest:,}".replace(",", " ")
    return must(words, lambda value: lowest <= value <= highest)


def entries_between(lowest: float, highest: float) -> Allowed:
    """The same of every number in a list."""
    words = f"entries must be at least {lowest} and at most {highest:,}".replace(",", " ")
    return must(words, lambda values: all(lowest <= value <= highest for value in values))


def at_most_entries(count: int) -> Allowed:
    return must(f"must have at most {count} entries", lambda values: len(values) <= count)


def probability() -> Allowed:
    return must("is a probability, from 0 to 1", lambda value: 0 <= value <= 1)


def or_null(allowed: Allowed) -> Allowed:
    """``allowed``, or no value at all."""
    words = f"{allowed.words}, or null"
    return Allowed(words, lambda value, config: value is None or allowed.holds(value, config))


def length(count: int) -> Allowed:
    return must(f"must have {count} entries", lambda values: len(values) == count)


def positive_entries() -> Allowed:
    return must("entries must be positive", lambda values: all(value > 0 for value in values))


def lower_bound_first() -> Allowed:
    return must("the lower bound comes first", lambda values: list(values) == sorted(values))


def ascending_iterations() -> Allowed:
    return must(
        "must be ascending iterations, the first of them at least 1",
        lambda values: all(before < after for before, after in pairwise([0, *values])),
    )


def name_of_a_folder() -> Allowed:
    return must(
        "is the name of a folder and may not hold '/' or start with '-'",
        lambda name: "/" not in name and name not in (".", "..") and not name.startswith("-"),
    )


def short_name() -> Allowed:
    return must(
        "may have 200 bytes at most, and none of a line's end or other control characters",
        lambda name: len(name.encode()) <= 200 and name.isprintable(),
    )


def entries(names: Allowed, values: Allowed) -> Allowed:
    words = f"for each name {names.words}; its value {values.words}"
    return AllowedEntries(words, lambda value, config: True, names=names, values=values)


def bounds(other: str) -> Allowed:
    """A bound on what the key ``other`` asks for, and nothing without it."""
    return Allowed(f"bounds what {other} asks for: set that too", lambda value, config: not value or get(config, other))


@dataclass(frozen=True)
class Key:
    """What is known of one key.

    Attributes:
        name: with those of its groups, as on the command line: ``train.lr``.
        hint: the annotated type.
        default: its value unless something sets it.
        allowed: all of these must hold.
        meaning: a sentence or two, as they stand below the key.
    """

    name: str
    hint: Any
    default: Any
    allowed: tuple[Allowed, ...]
    meaning: str

    @property
    def type(self) -> str:
        """The annotation, as it is written; ``or null`` where that is a value too."""
        parts = typing.get_args(self.hint)
        if type(None) in parts:
            return " or ".join("null" if part is type(None) else part.__name__ for part in parts)
        return str(self.hint).replace("typing.", "") if parts else self.hint.__name__


@cache
def keys(schema: type) -> tuple[Key, ...]:
    """All keys of a schema, those of its groups among them, in the order in which they are declared."""
    return tuple(_keys(schema))


def _keys(schema: type, prefix: str = "") -> Iterator[Key]:
    hints, meanings = typing.get_type_hints(schema), meanings_of(schema)
    for found in fields(schema):
        name, hint = prefix + found.name, hints[found.name]
        if is_dataclass(hint):
            yield from _keys(hint, f"{name}.")
        else:
            default = found.default_factory() if callable(found.default_factory) else found.default
            yield Key(name, hint, default, found.metadata.get("allowed", ()), meanings[found.name])


@cache
def meanings_of(schema: type) -> dict[str, str]:
    """The strings below the fields of a dataclass and of those that it extends."""
    meanings: dict[str, str] = {}
    for part in reversed([part for part in schema.__mro__ if is_dataclass(part)]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        for statement, following in pairwise(definition.body):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                meanings[statement.target.id] = " ".join(following.value.value.split())
    return meanings


def get(config: Any, name: str) -> Any:
    """The value of the key ``name`` in a configuration."""
    return attrgetter(name)(config)


def numbers_in(value: Any) -> Iterator[float]:
    """All numbers in a value, however deep."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from numbers_in(entry)
    elif isinstance(value, (int, float)):
        yield value


def complaints(config: Any) -> Iterator[str]:
    """Everything that is wrong with the values of a configuration, a line each."""
    for known in keys(type(config)):
        value = get(config, known.name)
        found = [allowed.complaint(known.name, value, config) for allowed in known.allowed]
        if not any(found) and not all(abs(number) <= LARGEST for number in numbers_in(value)):
            found = [f"{known.name}={value}: must be finite, and no number beyond {LARGEST:g}"]
        yield from filter(None, found)


def misfit(known: Key, value: Any) -> str | None:
    """What is wrong with the kind of a value that a file or a word gives a key; None where it may be converted."""
    origin, parts = typing.get_origin(known.hint), typing.get_args(known.hint)
    kind, kinds = (parts[-1], origin) if origin in (list, dict) else (known.hint, None)
    if kinds and not isinstance(value, kinds):
        fits = False
    else:
        entries = list(value.values()) if kinds is dict else value if kinds is list else [value]
        fits = kind is Any or all(_is_scalar_of(kind, entry) for entry in entries)
    if fits:
        return None
    return f"{known.name}={_shown(value)}: must be {_words(kind, kinds)}"


def _is_scalar_of(kind: Any, value: Any) -> bool:
    """Whether OmegaConf may be asked to convert ``value``: it takes 7 for true, and any list within a list."""
    if isinstance(value, (list, dict)):
        return False
    kinds = typing.get_args(kind) or (kind,)
    if bool in kinds:
        return not isinstance(value, (int, float)) or value in (0, 1)
    return not isinstance(value, bool) or str in kinds


KINDS = {
    bool: ("true or false", "of them"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a word", "words"),
    Any: ("a value", "values"),
}
"""One of a kind and several, in words."""


def _words(kind: Any, kinds: type | None) -> str:
    """What a key takes: ``a list of numbers``, ``a whole number or null``."""
    one, several = next(KINDS[part] for part in (kind, *typing.get_args(kind)) if part in KINDS)
    if kinds:
        return f"a list of {several}" if kinds is list else f"a group of names and their {several}"
    return one + (" or null" if type(None) in typing.get_args(kind) else "")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else as_text(value)


def as_text(value: Any) -> str:
    """A value as it is typed after ``KEY=``."""
    if isinstance(value, str):
        return value or "''"
    return yaml.safe_dump([value], default_flow_style=True, width=math.inf).strip()[1:-1]
