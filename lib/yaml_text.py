"""YAML as configurations use it: lists, and groups of words, numbers, booleans and null; all else is refused.

PyYAML's safe loader runs no code, but it keeps the last of two equal keys, makes dates and sets, follows aliases that
grow without bound, and ends in other exceptions than its own.
"""

import stat
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import yaml
from yaml.constructor import ConstructorError

from lib.base.errors import UserError

MOST_BYTES = 1 << 16
"""Of a configuration file: ten times the longest that a run writes."""
MOST_NODES = 20_000
"""Of groups, lists, keys and values, those that aliases repeat counted again."""
MOST_LEVELS = 24
"""Of groups and lists within each other."""
MOST_DIGITS = 60
"""Of a number: Python takes long over thousands of them, and no key takes so large a number."""

CORE = "tag:yaml.org,2002:"
OTHER_FAILURES = (ValueError, OverflowError, KeyError, IndexError, TypeError, AttributeError, RecursionError)
"""What PyYAML raises beside its own for ``!!int x``, ``"\\UFFFFFFFF"`` and the like."""


def read_file(file: Path) -> Any:
    """The value that a YAML file holds; None for an empty one.

    Raises:
        UserError: naming the file and what is wrong with it: that it is no file, too large, not UTF-8 or not the YAML
            of a configuration.
    """
    # Looked at before it is opened: opening a pipe waits for its writer.
    try:
        kind = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise UserError(f"configuration file {file} does not exist") from None
    except OSError as error:
        raise UserError(f"configuration file {file} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(kind):
        raise UserError(f"configuration file {file} is not a regular file")
    with file.open("rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UserError(f"configuration file {file} is larger than {MOST_BYTES >> 10} KiB: is it one?")
    try:
        return read_text(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8"
    except ValueError as error:
        reason = str(error)
    raise UserError(f"configuration file {file} is not valid YAML: {reason}")


def read_text(text: str) -> Any:
    """The value that ``text`` is in YAML; raises ValueError with what is wrong and where."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(where + " ".join(filter(None, [error.problem, error.context]))) from None
    except yaml.reader.ReaderError as error:
        raise ValueError(f"it holds the character U+{error.character:04X}, at position {error.position}") from None
    except (yaml.YAMLError, *OTHER_FAILURES) as error:
        raise ValueError(f"it holds a value that cannot be read: {error}") from None


class _Loader(yaml.SafeLoader):
    """PyYAML's, with bounds, unique keys that are words, and dates left as they are written."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{CORE}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors: ClassVar = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag and tag.removeprefix(CORE) in ("null", "bool", "int", "float", "str", "seq", "map")
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.level = 0
        self.extents: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """A node within bounds of size and depth, whose parts count as often as aliases repeat them."""
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self.level += 1
        if self.level > MOST_LEVELS:
            raise ConstructorError(None, None, f"lists and groups within each other: {MOST_LEVELS} at most", mark)
        node = super().compose_node(parent, index)
        self.level -= 1
        if is_alias:
            return node
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            parts = [part for pair in parts for part in pair]
        if any(id(part) not in self.extents for part in parts):
            raise ConstructorError(None, None, "an alias stands for what it is part of", mark)
        nodes = 1 + sum(self.extents[id(part)][0] for part in parts)
        levels = 1 + max((self.extents[id(part)][1] for part in parts), default=0)
        if nodes > MOST_NODES or levels > MOST_LEVELS:
            bound = f"{MOST_NODES} values or {MOST_LEVELS} levels"
            raise ConstructorError(None, None, f"what begins here is, with its aliases, larger than {bound}", mark)
        self.extents[id(node)] = (nodes, levels)
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A whole number or not, of no more digits than ``MOST_DIGITS``."""
        if len(str(node.value)) > MOST_DIGITS:
            raise ConstructorError(None, None, f"a number of more than {MOST_DIGITS} digits", node.start_mark)
        construct = self.construct_yaml_int if node.tag == f"{CORE}int" else self.construct_yaml_float
        return construct(node)

    def refuse(self, node: yaml.Node) -> NoReturn:
        """Any other tag: what it makes is nothing that a key takes."""
        tag = node.tag.replace(CORE, "!!")
        raise ConstructorError(None, None, f"no key takes a value of the kind {tag}: quote it", node.start_mark)


_Loader.add_constructor(f"{CORE}int", _Loader.construct_number)
_Loader.add_constructor(f"{CORE}float", _Loader.construct_number)
_Loader.add_constructor(None, _Loader.refuse)


def _check_keys(node: yaml.MappingNode) -> None:
    """Raise ConstructorError where a group has a key twice, or one that is no word."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if key.tag not in (f"{CORE}str", f"{CORE}merge"):
            shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or group"
            raise ConstructorError(None, None, f"{shown} is no key: keys are words, or in quotes", key.start_mark)
        if key.value in lines:
            first = lines[key.value]
            problem = f"{key.value} is set twice, first in line {first}: keep one of the two"
            raise ConstructorError(None, None, problem, key.start_mark)
        lines[key.value] = key.start_mark.line + 1
