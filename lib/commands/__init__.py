"""The commands of ``main.py``: one file each, which is imported when it is the one to run.

A command's file begins with its help, one line, as its docstring. ``add_options(parser)`` says what it is given on the
command line, and ``run(options)`` does it; what takes long to import is imported there.
"""

import argparse
import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from lib.commands._options import print_configuration

FOLDER = Path(__file__).parent
EPILOG = "main.py COMMAND --help shows a command's options, main.py explain the keys of the configuration."


class Parser(argparse.ArgumentParser):
    """One whose errors are one line and whose help names defaults."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} ({self.prog} --help lists what there is)", file=sys.stderr)
        sys.exit(2)


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Defaults are named where an option has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default not in (None, False, []) else action.help


def names() -> dict[str, Path]:
    """The commands and their files."""
    return {file.stem.replace("_", "-"): file for file in sorted(FOLDER.glob("[!_]*.py"))}


def parse(words: list[str]) -> tuple[Callable[[argparse.Namespace], None], argparse.Namespace]:
    """The function that ``words`` ask for, and what they give it; ends the program where they ask for no such thing."""
    commands = names()
    top = Parser(prog="main.py", usage="main.py COMMAND ...", description=_overview(commands), epilog=EPILOG)
    if not words or words[0] in ("-h", "--help"):
        top.parse_args(words or ["--help"])
    if words[0].startswith("-"):
        top.error(f"name a command before {words[0]}: one of {', '.join(commands)}")
    if words[0] not in commands:
        top.error(f"there is no command '{words[0]}': choose one of {', '.join(commands)}")
    file = commands[words[0]]
    command = import_module(f"{__name__}.{file.stem}")
    parser = Parser(prog=f"main.py {words[0]}", description=_docstring(file))
    command.add_options(parser)
    for action in parser._actions:
        action.type = _place if action.type is Path else action.type
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options, strange = parser.parse_known_intermixed_args(words[1:])
    if strange:
        has_configuration = any(action.dest == "config" for action in parser._actions)
        known = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
        which = "" if has_configuration else f": {words[0]} has no configuration, only {', '.join(known)}"
        parser.error(f"unrecognized arguments: {' '.join(strange)}{which}")
    if getattr(options, "print_config", False):
        if options.config is None:
            parser.error("the following arguments are required: --config")
        return print_configuration, options
    return command.run, options


def _place(text: str) -> Path:
    """A path of the command line. Of an empty one, a variable of the shell that is not set, Path makes the working
    directory, which nobody named."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: name a file or folder (. is the working directory)")
    return Path(text)


def _overview(commands: dict[str, Path]) -> str:
    width = max(map(len, commands))
    lines = [f"  {name:{width}}  {_docstring(file).splitlines()[0]}" for name, file in commands.items()]
    return "Train and use segmentation networks with non-local attention.\n\ncommands:\n" + "\n".join(lines)


def _docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text())).replace("``", "")
