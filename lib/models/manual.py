"""The manual of the networks: Markdown from the registries and the docstrings of the classes in them."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lib.models import BACKBONES, BLOCKS, HEADS, backbones, blocks, heads
from lib.models.options import bounds_in_words, describe, option_types
from lib.models.table import markdown, network_rows

PARTS = {"Backbones": (backbones, BACKBONES), "Heads": (heads, HEADS), "Blocks": (blocks, BLOCKS)}
"""Headings, the packages whose docstrings introduce them, and the registries."""

CROP_SIZE, NUM_CLASSES = (769, 769), 19
"""Of the table of networks: what ``python main.py models`` takes where nothing else is said."""

ARGUMENT = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", re.MULTILINE)
"""In a docstring: one or several names, and what is said of them."""
REFERENCE = re.compile(r"(?:see|as in|as for) ``(\w+)``\.?")
"""Said of an argument: that another class's docstring explains it."""
PAPER = re.compile(r"\((\w+ et al\., [^)]+)\)")
"""In a module's docstring."""


def manual() -> str:
    """The page: the table of networks, then every entry of the registries with all its options."""
    paragraphs = [
        "## Networks",
        f"As `python main.py models` prints them: inference on a crop of {CROP_SIZE[0]} x {CROP_SIZE[1]} pixels with "
        f"{NUM_CLASSES} classes,\nwithout the auxiliary head.",
        markdown(list(network_rows(CROP_SIZE, NUM_CLASSES))),
    ]
    for title, (package, registry) in PARTS.items():
        paragraphs += [f"## {title}", package.__doc__]
        for entry, names in by_class(registry).items():
            paragraphs += [f"### {', '.join(names)}", *describe_class(entry)]
    return "\n\n".join(paragraphs) + "\n"


def by_class(registry: Mapping[str, Callable]) -> dict[type, list[str]]:
    """The classes of a registry and the names of each: several where partials of one class fix its size."""
    names: dict[type, list[str]] = {}
    for name, constructor in registry.items():
        names.setdefault(getattr(constructor, "func", constructor), []).append(name)
    return names


def describe_class(entry: type) -> Iterator[str]:
    """Paragraphs of Markdown: what a class is, where it is from, and the table of its options."""
    text, _ = read_docstring(entry)
    yield _to_markdown(text)
    module = sys.modules[entry.__module__]
    file = Path(module.__file__).relative_to(Path(__file__).parent).as_posix()
    paper = PAPER.search(module.__doc__)
    yield f"Class [`{entry.__name__}`]({file})" + (f", after {paper[1]}." if paper else ".")
    rows = list(option_rows(entry))
    header = ["| option | value | default | meaning |", "| --- | --- | --- | --- |"]
    yield "\n".join(header + rows) if rows else "It has no options."


def option_rows(entry: type) -> Iterator[str]:
    """The table's row for each option of a class."""
    parameters = inspect.signature(entry).parameters
    for name, hint in option_types(entry).items():
        value = "a [block](#blocks)" if name == "block" else describe(hint)
        bounds = bounds_in_words(name, hint)
        value += f" ({bounds})" if bounds else ""
        meaning = _to_markdown(meaning_of(name, entry)).replace("|", r"\|")
        yield f"| `{name}` | {value} | {_as_yaml(parameters[name].default)} | {meaning} |"


def meaning_of(option: str, entry: type) -> str:
    """What a class's docstring says of an option, or the docstring of the class that it refers to for it.

    Raises:
        LookupError: if it says nothing.
    """
    _, meanings = read_docstring(entry)
    if option not in meanings:
        raise LookupError(f"the docstring of {entry.__name__} does not explain {option!r}: add it to its Args")
    other = REFERENCE.fullmatch(meanings[option])
    return meaning_of(option, getattr(sys.modules[entry.__module__], other[1])) if other else meanings[option]


def read_docstring(entry: type) -> tuple[str, dict[str, str]]:
    """The text of a class's docstring up to its section ``Args``, and the meaning of every argument in that."""
    text, _, rest = inspect.getdoc(entry).partition("\n\nArgs:\n")
    arguments, _, _ = rest.partition("\n\n")
    found = ARGUMENT.findall(arguments)
    return text, {name: " ".join(meaning.split()) for names, meaning in found for name in names.split(", ")}


def _to_markdown(text: str) -> str:
    return text.replace("``", "`")


def _as_yaml(default: Any) -> str:
    """A default as one would write it in a configuration."""
    if default is inspect.Parameter.empty:
        return "(required)"
    return f"`{yaml.safe_dump([default], default_flow_style=True, width=1000).strip()[1:-1]}`"
