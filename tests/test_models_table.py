"""The page's table of networks is what the registries give."""

from pathlib import Path

from lib.models import BACKBONES, BLOCKS, HEADS

PAGE = Path(__file__).parents[1] / "lib" / "models" / "README.md"


def test_the_page_has_the_table_that_the_command_prints(command):
    outcome = command("models", config="configs/seg/cityscapes/dnl_r101.yaml")
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout in PAGE.read_text()


def test_the_table_has_every_entry_of_the_registries():
    text = PAGE.read_text()
    assert [name for name in (*BACKBONES, *BLOCKS, *HEADS) if f"| {name} |" not in text] == ["auxiliary"]
