"""Calling a constructor with options that a user wrote: names and types are checked against its signature."""

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lib.base.errors import UserError

CHANNELS = (1, 16_384)
"""Lowest and highest of a whole number that is no other's here."""
BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("branches", "convs", "iterations", "order", "recurrence", "units"), (1, 64)),
    **dict.fromkeys(("dilation", "dilations"), (1, 1024)),
    **{"pyramid": (1, 256), "multi_grid": (1, 64), "stage": (1, 4)},
    **{"dropout": (0, 1), "eps": (0, 1), "gamma": (0, 1000), "init_scale": (0, 1_000_000)},
    **{"temperature": (1e-6, 1_000_000)},
}
"""The same of options by their names, whatever the constructor: what networks can be built and computed with."""
MOST_ENTRIES = 64
"""Of a list."""


def choose(registry: Mapping[str, Callable], name: Any, *, path: str) -> Callable:
    """The registry's entry of that name.

    Raises:
        UserError: naming ``path`` and the entry most like ``name``, if there is none.
    """
    if name not in registry:
        raise UserError(f"{path}: there is no {name!r}{_suggest(name, registry)}")
    return registry[name]


def check_options(constructor: Callable, options: Mapping[str, Any], *, path: str) -> None:
    """Check that the keyword-only parameters of ``constructor`` can take ``options``.

    Raises:
        UserError: naming ``path.option`` and what would be right: a name the constructor knows, a value of its type.
    """
    known = option_types(constructor)
    for name, value in options.items():
        if name not in known:
            raise UserError(f"unknown option {path}.{name}{_suggest(name, known)}")
        if not _fits(value, known[name]):
            raise UserError(f"{path}.{name} is {value!r}: it must be {describe(known[name])}")
        _check_bounds(name, value, path=path)


def _check_bounds(name: str, value: Any, *, path: str) -> None:
    """Raise UserError where a number, or one in a list, is outside what ``BOUNDS`` says of the option."""
    entries = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(entries) > MOST_ENTRIES:
        raise UserError(f"{path}.{name} has {len(entries)} entries: it must have at most {MOST_ENTRIES}")
    for number in entries:
        if isinstance(number, (bool, str)) or not isinstance(number, (int, float)):
            continue
        lowest, highest = BOUNDS.get(name, CHANNELS if isinstance(number, int) else (-1e30, 1e30))
        if not lowest <= number <= highest:
            raise UserError(f"{path}.{name} is {value!r}: it must be from {lowest} to {highest}")


def bounds_in_words(name: str, hint: Any) -> str:
    """What ``BOUNDS`` says of an option of that type, ``1 to 64``; empty where it is no number."""
    if not _holds(hint, int) and not (name in BOUNDS and _holds(hint, float)):
        return ""
    lowest, highest = BOUNDS.get(name, CHANNELS)
    return f"{lowest:,} to {highest:,}"


def _holds(hint: Any, kind: type) -> bool:
    """Whether an annotation is that type or is made of it: ``Sequence[int] | None`` of int."""
    return hint is kind or any(_holds(argument, kind) for argument in typing.get_args(hint))


def option_names(constructor: Callable) -> list[str]:
    """The keyword-only parameters of a constructor."""
    parameters = inspect.signature(constructor).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def option_defaults(constructor: Callable) -> dict[str, Any]:
    """The keyword-only parameters of a constructor that have a default, and their defaults."""
    parameters = inspect.signature(constructor).parameters
    defaults = {name: parameters[name].default for name in option_names(constructor)}
    return {name: default for name, default in defaults.items() if default is not inspect.Parameter.empty}


def option_types(constructor: Callable) -> dict[str, Any]:
    """The keyword-only parameters of a constructor and their annotations."""
    hints = typing.get_type_hints(_underlying(constructor))
    return {name: hints[name] for name in option_names(constructor)}


def describe(hint: Any) -> str:
    """The values that an annotation allows, in words: ``a whole number or null``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(describe, arguments))
    if origin is Sequence:
        return f"a list, each entry {describe(arguments[0])}"
    if hint is type(None):
        return "null"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}.get(hint, hint.__name__)


def _underlying(constructor: Callable) -> Callable:
    """The function whose annotations are those of ``constructor``: a class's ``__init__``, a partial's target."""
    constructor = getattr(constructor, "func", constructor)
    return constructor.__init__ if inspect.isclass(constructor) else constructor


def _suggest(name: Any, known: Mapping | Sequence[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; choose one of {', '.join(known)}"


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Sequence:
        return isinstance(value, (list, tuple)) and all(_fits(entry, arguments[0]) for entry in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
