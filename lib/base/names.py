"""Names of files: what can be written everywhere, and names derived from others that no file system finds too long."""

import re
from pathlib import PurePath

from lib.base.errors import UserError, one_line

LONGEST = 255
"""Bytes of a file's name on the file systems in use."""

CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029]")
"""Line breaks and other signs that move what is written after them."""


def check_name(path: object) -> None:
    """Raise UserError unless the name of ``path`` is UTF-8: others cannot be written to logs, tables and zip files."""
    name = PurePath(path).name if isinstance(path, str) else path.name
    if printable(name) != name:
        raise UserError(f"the name of {printable(path)} is not UTF-8 or holds line breaks: rename it")


def loop_of_links(error: Exception) -> str | None:
    """The line for the error that ``Path.resolve`` raises at a link that leads to itself; None for any other."""
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop from "):
        path = one_line(str(error)).removeprefix("Symlink loop from ")
        return f"{path} is, or lies behind, a link that leads to itself: remove that"
    return None


def printable(path: object) -> str:
    """``path`` in one line of UTF-8, with escapes for what is none: what messages and tables can hold."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shortened(name: str, ending: str = "", most: int = LONGEST) -> str:
    """``name`` with its end left out as far as it and ``ending`` would be longer than ``most`` bytes."""
    room = most - len(ending.encode("utf-8", "surrogateescape"))
    return name.encode("utf-8", "surrogateescape")[:room].decode("utf-8", "ignore") + ending
