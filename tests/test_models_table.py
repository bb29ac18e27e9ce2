"""The README's table of networks is what the registries give."""

from pathlib import Path

from lib.models import BACKBONES, BLOCKS, HEADS

README = Path(__file__).parents[1] / "README.md"


def test_the_readme_has_the_table_that_the_command_prints(command):
    outcome = command("models", config="configs/seg/cityscapes/dnl_r101.yaml")
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout in README.read_text()


def test_the_table_has_every_entry_of_the_registries():
    text = README.read_text()
    assert [name for name in (*BACKBONES, *BLOCKS, *HEADS) if f"| {name} |" not in text] == ["auxiliary"]
