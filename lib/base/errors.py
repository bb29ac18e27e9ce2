"""The one exception for mistakes a user can make and mend."""

LONGEST = 2000
"""Characters of a line of error; of a longer one the middle is left out."""


class UserError(Exception):
    """A mistake of the user's: one line that names the file, key or value, and what would be right.

    ``main.py`` prints it without a traceback and exits with status 2. Names of files and values may hold anything: what
    would break the line or steer a terminal is shown as its escape.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


def one_line(text: str) -> str:
    """``text`` in one line of printable characters, ``\\n`` for a line's end, and no more than ``LONGEST`` of them."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: 20 * LONGEST])
    if len(shown) <= LONGEST:
        return shown
    return f"{shown[: LONGEST // 2]} ... {shown[-LONGEST // 2 + 5 :]}"
