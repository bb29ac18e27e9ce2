"""Imports point down, from the commands to the ground floor, and the engine knows no task."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import imports

ROOT = Path(__file__).parents[1]
GROUND = "lib/base"


@pytest.fixture(scope="module")
def arrows():
    return imports.graph()


def test_no_folder_is_both_above_and_below_another(arrows):
    floor_of = imports.floors(arrows)
    assert set(floor_of) == set(arrows)
    assert all(floor_of[below] < floor_of[folder] for folder in arrows for below in arrows[folder])
    assert floor_of["lib/commands"] > floor_of["lib/tasks"] > floor_of["lib/engine"] > floor_of["lib/weights"]


@pytest.mark.parametrize(
    "folder, below",
    [
        (GROUND, set()),
        ("datasets/seg", {GROUND}),
        ("exts/sync_bn", {GROUND}),
        ("lib/losses", {GROUND}),
        ("lib/models", {GROUND}),
        ("lib/weights", {GROUND}),
        ("lib/engine", {GROUND, "lib", "lib/weights", "exts/sync_bn"}),
    ],
)
def test_a_folder_imports_only_what_is_below_it(arrows, folder, below):
    assert arrows[folder] <= below


def test_training_starts_without_a_task_in_memory():
    code = "import sys, lib.engine.train, lib.engine.evaluate\n"
    strangers = ("datasets", "lib.tasks", "lib.losses", "lib.scores", "lib.vis", "lib.models", "lib.inference")
    code += f"print([name for name in sys.modules if name.startswith({strangers})])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_circle_is_found_and_named(monkeypatch, capsys, tmp_path):
    for name, content in {"lib/a/x.py": "import lib.b.y", "lib/b/y.py": "def f():\n    from lib.a import x"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "main.py").write_text("import lib.a.x")
    monkeypatch.setattr(imports, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["imports.py", str(tmp_path / "picture.png")])
    assert imports.main() == 1
    error = capsys.readouterr().err
    assert "lib/a" in error and "lib/b" in error and not (tmp_path / "picture.png").exists()


def test_the_picture_is_drawn(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["imports.py", str(tmp_path / "picture.png")])
    assert imports.main() == 0
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
