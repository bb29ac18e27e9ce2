"""The pages that are made from the code are up to date, and making them again leaves alone what is written by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import pages

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", pages.PAGES)
def test_a_page_is_what_the_code_makes(name):
    assert pages.whole(name) == (ROOT / name).read_text(), "to bring it up to date: python scripts/pages.py --write"


@pytest.fixture
def one_page(tmp_path, monkeypatch):
    """A project whose only page is page.md."""
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "PAGES", {"page.md": lambda: "## Made\n\nnew\n"})
    return tmp_path / "page.md"


@pytest.mark.parametrize("before", ["# By hand\n", "# By hand\n\n## Made\n\nold\n\n### Made\n\n## Older\n"])
def test_writing_replaces_everything_from_the_pages_heading_on(before, one_page, monkeypatch):
    one_page.write_text(before)
    monkeypatch.setattr(sys, "argv", ["pages.py", "--write"])
    pages.main()
    assert one_page.read_text() == "# By hand\n\n## Made\n\nnew\n"


def test_without_write_the_pages_are_only_printed(one_page, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pages.py"])
    pages.main()
    assert capsys.readouterr().out == "## Made\n\nnew\n" and not one_page.exists()


def test_the_script_runs_from_anywhere(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "pages.py", "--help"]
    assert "--write" in subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
