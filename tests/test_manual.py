"""The manual of the networks has every entry of the registries with every option, as their docstrings explain them."""

import inspect
import re
import shlex
from pathlib import Path
from typing import Literal

import pytest
import torch

from lib.models import BACKBONES, BLOCKS, HEADS
from lib.models.manual import by_class, describe_class, meaning_of, option_rows, read_docstring
from lib.tasks import load_config, make_task

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "lib" / "models" / "README.md").read_text()
REGISTRIES = {"Backbones": BACKBONES, "Heads": HEADS, "Blocks": BLOCKS}


class Other:
    """Another one.

    Args:
        passed_on: ``a|b`` of the other.
    """


class Small:
    """One sentence.

    More of it, and a formula of ``x``:

        y = 2 x

    Args:
        channels: of the input.
        first, second: what both of them
            mean: the same.
        passed_on: as in ``Other``.

    Raises:
        ValueError: if something is wrong.
    """

    def __init__(
        self,
        channels: int,
        *,
        first: float = 1e-5,
        second: Literal["a", "b"] | None = None,
        passed_on: tuple = ("a", 1),
        unexplained: bool = True,
    ) -> None: ...


class TestDocstrings:
    def test_one_is_read_as_its_text_and_what_it_says_of_each_argument(self):
        text, meanings = read_docstring(Small)
        assert text == "One sentence.\n\nMore of it, and a formula of ``x``:\n\n    y = 2 x"
        both = "what both of them mean: the same."
        expected = {"channels": "of the input.", "first": both, "second": both, "passed_on": "as in ``Other``."}
        assert meanings == expected

    def test_an_option_means_what_the_class_that_the_docstring_points_to_says(self):
        assert meaning_of("first", Small) == "what both of them mean: the same."
        assert meaning_of("passed_on", Small) == "``a|b`` of the other."

    def test_an_option_that_the_docstring_leaves_out_is_named(self):
        with pytest.raises(LookupError, match="Small does not explain 'unexplained'"):
            meaning_of("unexplained", Small)

    def test_a_row_has_name_values_default_and_meaning(self):
        rows = option_rows(Small)
        assert next(rows) == "| `first` | a number | `1.0e-05` | what both of them mean: the same. |"
        assert next(rows) == "| `second` | one of a, b or null | `null` | what both of them mean: the same. |"
        assert next(rows) == r"| `passed_on` | tuple | `[a, 1]` | `a\|b` of the other. |"


def section(title, name):
    """The page's lines on one entry of a registry."""
    part = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]
    for text in part.split("\n### ")[1:]:
        heading, *lines = text.splitlines()
        if name in heading.split(", "):
            return lines
    raise AssertionError(f"{name} is not in the part {title}")


@pytest.mark.parametrize(("title", "name"), [(title, name) for title, names in REGISTRIES.items() for name in names])
def test_every_entry_is_there_with_its_summary_its_file_and_every_option_and_its_meaning(title, name):
    lines, constructor = section(title, name), REGISTRIES[title][name]
    entry = getattr(constructor, "func", constructor)
    summary = inspect.getdoc(entry).partition("\n")[0]
    file = Path(inspect.getfile(entry)).relative_to(ROOT / "lib" / "models")
    assert summary.replace("``", "`") in lines
    assert any(f"[`{entry.__name__}`]({file.as_posix()})" in line for line in lines)
    rows = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in lines if line.startswith("| `")]
    parameters = inspect.signature(constructor).parameters.values()
    options = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    assert [row[0].strip("`") for row in rows] == options
    assert all(len(row) == 4 and all(row) for row in rows)


def test_no_meaning_refers_to_another_docstring():
    meanings = [line.rpartition(" | ")[2] for line in PAGE.splitlines() if line.startswith("| `")]
    assert [meaning for meaning in meanings if re.search(r"\b(see|as in|as for) `", meaning)] == []


def test_names_of_one_class_share_a_section():
    assert [len(names) for names in by_class(BACKBONES).values()] == [5, 3, 1]


@pytest.mark.parametrize(
    ("entry", "paper"),
    [
        (BLOCKS["disentangled"], 'Yin et al., "Disentangled Non-Local Neural Networks", ECCV 2020'),
        (HEADS["psp"], 'Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017'),
    ],
)
def test_an_entry_names_its_paper(entry, paper):
    assert any(text.endswith(f", after {paper}.") for text in describe_class(entry))


def test_the_command_lines_of_the_page_build_networks():
    commands = re.search(r"```bash\n(.*?)```", PAGE, re.DOTALL)[1].replace("\\\n", "").splitlines()
    for command in commands:
        script, _, _, _, *overrides = shlex.split(command)[1:]
        recipe = Path(script).stem.replace("run_", "") + "_r101.yaml"
        with torch.device("meta"):
            network = make_task(load_config(ROOT / "configs" / "seg" / "cityscapes" / recipe, overrides)).network()
        assert type(network.head.block) in BLOCKS.values()
    assert len(commands) == 2


def test_the_python_of_the_page_runs():
    names = {}
    with torch.device("meta"):
        exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], names)
        features = torch.empty(2, 256, 4, 4)
        assert names["block"](features).shape == features.shape
        assert names["network"].eval()(torch.empty(1, 3, 65, 65))["out"].shape == (1, 19, 65, 65)


def test_numbers_come_with_the_bounds_within_which_they_are_taken():
    rows = [row for row in PAGE.splitlines() if row.startswith("| `")]
    numbers = [row for row in rows if "a whole number" in row.split("|")[2] or row.startswith("| `dropout`")]
    assert len(numbers) > 30 and all(re.search(r"\(\S+ to \S+\)$", row.split("|")[2].strip()) for row in numbers)
    assert any(row.startswith("| `dropout` | a number (0 to 1) |") for row in numbers)
    assert any(row.startswith("| `embedding` | a whole number or null (1 to 16,384) |") for row in numbers)
