"""Reading a configuration that is Python text, as mmsegmentation keeps it with its weights, without running it."""

import ast
import operator
import re
from collections.abc import Mapping
from typing import Any

LONGEST = 1 << 20
"""Characters of a text that is looked at."""

_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


class _Unread(Exception):
    """An expression that is neither a value nor made of values."""


def read_text(text: str) -> tuple[dict[str, Any], list[str]]:
    """What the assignments of a text give their names, and what of it could not be read.

    Values are numbers, words, lists, dictionaries, ``dict(...)``, earlier names and sums and products of numbers; a
    dictionary comes without what cannot be read in it. A name that is assigned twice is a base configuration and its
    heir, whose dictionaries are merged.

    Returns:
        The values by name, and the unreadable places in words: ``line 3: model.decode_head``.
    """
    # mmcv's texts of several files name each on a line.
    text = re.sub(r"^\S+\.py$", "", text, flags=re.MULTILINE)
    if len(text) > LONGEST:
        return {}, [f"a text of {len(text)} characters"]
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        return {}, [f"line {line}, which is no Python" if line else "a text that is no Python"]
    reader = _Reader()
    for statement in body:
        reader.take(statement)
    return reader.values, reader.unread


class _Reader:
    """Takes a text's statements in their order."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.unread: list[str] = []
        self.entries_left = LONGEST

    def take(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            return  # a docstring
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if len(targets) != 1 or not isinstance(targets[0], ast.Name):
            self.unread.append(f"line {statement.lineno}")
            return
        name = targets[0].id
        try:
            value = self._value(statement.value, name)
        except (_Unread, ArithmeticError, RecursionError):
            self._leave(statement.value, name)
            self.values.pop(name, None)
        else:
            self.values[name] = merged(self.values.get(name), value)

    def _leave(self, node: ast.expr, path: str) -> None:
        self.unread.append(f"line {node.lineno}: {path}")

    def _value(self, node: ast.expr, path: str) -> Any:
        """The value of an expression; raises _Unread, and leaves unreadable parts of containers out."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name) and node.id in self.values:
            self._spend(self.values[node.id])
            return self.values[node.id]
        if isinstance(node, (ast.List, ast.Tuple)):
            # A list without one of its entries would say something else: it is read whole or not at all.
            return [self._value(entry, path) for entry in node.elts]
        if isinstance(node, ast.Dict):
            return self._mapping(zip(node.keys, node.values, strict=True), path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
            keys = (None if word.arg is None else ast.Constant(word.arg) for word in node.keywords)
            return self._mapping(zip(keys, (word.value for word in node.keywords), strict=True), path)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._number(node.operand, path)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](self._number(node.left, path), self._number(node.right, path))
        raise _Unread

    def _spend(self, value: Any) -> None:
        """Count the entries of what a name stands for: names of names of lists can stand for more than memory holds."""
        self.entries_left -= 1
        if self.entries_left < 0:
            raise _Unread
        if isinstance(value, (dict, list)):
            for entry in value.values() if isinstance(value, dict) else value:
                self._spend(entry)

    def _number(self, node: ast.expr, path: str) -> float:
        value = self._value(node, path)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e100:
            raise _Unread
        return value

    def _mapping(self, entries: Any, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, node in entries:
            name = key.value if isinstance(key, ast.Constant) else None
            try:
                if isinstance(name, str):
                    found[name] = self._value(node, f"{path}.{name}")
                elif key is None:  # **base
                    base = self._value(node, path)
                    found |= base if isinstance(base, dict) else {}
                else:
                    raise _Unread
            except (_Unread, ArithmeticError):
                found.pop(name, None)
                self._leave(node, f"{path}.{name}" if name else path)
        return found


def merged(base: Any, heir: Any) -> Any:
    """A configuration over the one that it builds on, as mmcv merges them: ``_delete_`` lets nothing through."""
    if not isinstance(base, Mapping) or not isinstance(heir, Mapping):
        return heir
    if heir.get("_delete_"):
        return {name: value for name, value in heir.items() if name != "_delete_"}
    return {**base, **{name: merged(base.get(name), value) for name, value in heir.items()}}
