"""Options that commands share: ``--config FILE``, ``--print-config`` and ``key=value``; and numbers with a bound."""

import argparse
import re
from collections.abc import Sequence
from typing import Any

SETTING = re.compile(r"[A-Za-z_][\w.]*=")
"""How a word begins that sets a key."""


def add_configuration(
    parser: argparse.ArgumentParser, *, required: bool = True, words: str = "", meaning: str = ""
) -> None:
    """Add the options; the values end up as ``config`` and ``overrides``.

    Args:
        required: whether there must be a ``--config``.
        words, meaning: what the command takes beside ``key=value``, if anything; ``split_words`` tells them apart.
    """
    meaning = ", ".join(filter(None, [meaning, "configuration values (main.py explain lists all keys)"]))
    parser.add_argument(
        "--config", metavar="FILE", required=required, help="a recipe below configs/, or a run's config.yaml"
    )
    parser.add_argument("--print-config", action="store_true", help="show the merged configuration and stop")
    parser.add_argument("overrides", nargs="*", metavar=f"{words} key=value".strip(), help=meaning)
    parser.set_defaults(takes_words=bool(words))


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that set no key and those that do."""
    return [word for word in words if not SETTING.match(word)], [word for word in words if SETTING.match(word)]


def print_configuration(options: argparse.Namespace) -> None:
    """What ``--print-config`` does, whatever the command."""
    from lib.recipes import to_yaml
    from lib.tasks import load_config

    overrides = split_words(options.overrides)[1] if options.takes_words else options.overrides
    print(to_yaml(load_config(options.config, overrides)), end="")


class AtLeastOne(argparse.Action):
    """A whole number that is no less."""

    def __init__(self, **options: Any) -> None:
        super().__init__(type=int, **options)

    def __call__(self, parser: argparse.ArgumentParser, options: argparse.Namespace, number: int, name: str) -> None:
        if number < 1:
            parser.error(f"{name} {number}: must be at least 1")
        setattr(options, self.dest, number)
