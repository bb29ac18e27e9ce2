"""KEY ...: value, type, default, allowed values, meaning and origin of configuration keys

All keys, or those named and those below the groups named: ``train``, ``val.mode``.
"""

import argparse
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lib.base.errors import UserError
from lib.commands._options import add_configuration, split_words

if TYPE_CHECKING:
    from lib.keys import Key
    from lib.recipes import Recipe


INDENT = "    "


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "main.py explain [KEY ...] [--config FILE] [key=value ...]"
    add_configuration(parser, required=False, words="KEY", meaning="keys or groups to explain (all unless given)")


def run(options: argparse.Namespace) -> None:
    from lib.keys import keys
    from lib.tasks import load

    words, overrides = split_words(options.overrides)
    recipe = load(options.config, overrides)
    known = list(keys(type(recipe.config)))
    for word in words:
        if not any(is_within(key, word) for key in known):
            raise UserError(f"there is no key or group {word}{_suggest(word, known)}")
    chosen = [key for key in known if not words or any(is_within(key, word) for word in words)]
    print("\n\n".join("\n".join(_fitted(lines(key, recipe))) for key in chosen))


def is_within(key: "Key", word: str) -> bool:
    """Whether ``word`` is the key's name or that of a group that it is in."""
    return f"{key.name}.".startswith(f"{word}.")


def lines(key: "Key", recipe: "Recipe") -> Iterator[str]:
    """What there is to say of a key, its name and value first."""
    from lib.keys import as_text, get

    yield f"{key.name} = {as_text(get(recipe.config, key.name))}"
    yield key.meaning.replace("``", "")
    yield "; ".join(
        [key.type, f"default {as_text(key.default)}", *(allowed.wording(recipe.config) for allowed in key.allowed)]
    )
    sources = recipe.sources(key.name)
    yield f"set by {', then '.join(sources)}" if sources else "not set: the default"


def _fitted(said: Iterator[str]) -> Iterator[str]:
    """The lines, all but the first indented; on a terminal those that are too long for it are folded."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    yield next(said)
    for line in said:
        yield textwrap.fill(line, width, initial_indent=INDENT, subsequent_indent=INDENT, break_on_hyphens=False)


def _suggest(word: str, known: list["Key"]) -> str:
    from lib.recipes import nearest

    groups = {key.name.rpartition(".")[0] for key in known} - {""}
    near = nearest(word, sorted({key.name for key in known} | groups), 0.4)
    return f": did you mean {near}?" if near else ""
