"""The scripts work the same wherever they are started: what lies there is not imported, nor where CDPATH leads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = ("argparse", "importlib", "logging", "omegaconf", "pip", "runpy", "sitecustomize", "torch", "venv", "yaml")
PACKAGES = ("datasets", "lib", "multiprocessing")


@pytest.fixture
def hostile(tmp_path):
    """A working directory of modules that leave their name in ``imported``; ``checkout`` there is the project."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    trap = f"open({str(tmp_path / 'imported')!r}, 'a').write(__name__ + ' ')\n"
    for name in MODULES:
        (folder / f"{name}.py").write_text(trap)
    for name in PACKAGES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(trap)
    (folder / "checkout").symlink_to(ROOT)
    return folder


@pytest.fixture
def run(hostile, tmp_path):
    """Run a script by its relative path where CDPATH leads elsewhere and PYTHONPATH back here: (status, out, err)."""
    for folder in ("scripts/seg", "exts"):
        (tmp_path / "decoy" / "checkout" / folder).mkdir(parents=True)
    (tmp_path / "bash_env").write_text("CDPATH=/usr\n")

    def call(script, *words, **environment):
        surprises = {"CDPATH": f"{tmp_path}/decoy", "BASH_ENV": f"{tmp_path}/bash_env"}
        surprises |= {"PYTHONPATH": f":.:{hostile}:{hostile}/../hostile", "RUNS_DIR": "runs", "OMP_NUM_THREADS": "1"}
        command = ["bash", f"checkout/{script}", *words]
        environment = os.environ | surprises | {"VENV": sys.prefix} | environment
        done = subprocess.run(command, cwd=hostile, env=environment, capture_output=True, text=True)
        assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.mark.parametrize("safe_path", ["", "1"])
def test_a_recipe_runs_the_checkout_alone(run, hostile, safe_path):
    words = ("train", "tag", "data", "--print-config")
    status, out, err = run("scripts/seg/cityscapes/run_dnl.sh", *words, PYTHONSAFEPATH=safe_path)
    assert (status, err) == (0, "")
    assert f"root: {hostile}/data" in out


@pytest.mark.parametrize(
    "flags, environment",
    [
        (["-P"], {}),
        ([], {"PYTHONSAFEPATH": "1"}),
        ([], {"PYTHONPATH": ":.:../hostile"}),
        (["-P"], {"PYTHONPATH": "{here}/../hostile"}),
    ],
)
@pytest.mark.skipif(sys.version_info < (3, 11), reason="-P is of Python 3.11")
def test_main_typed_directly_imports_the_checkout_alone(hostile, tmp_path, flags, environment):
    (hostile / "sitecustomize.py").unlink()  # Python imports it before any line of the program
    environment = {name: value.format(here=hostile) for name, value in environment.items()}
    config = ROOT / "configs" / "seg" / "cityscapes" / "dnl_r101.yaml"
    command = [sys.executable, *flags, "checkout/main.py", "explain", "train.lr", "--config", config]
    done = subprocess.run(command, cwd=hostile, env=os.environ | environment, capture_output=True, text=True)
    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("train.lr")


def test_main_needs_no_working_directory(tmp_path):
    (tmp_path / "gone").mkdir()
    command = 'cd "$1" && rmdir "$1" && PYTHONPATH=/ exec "$2" "$3" --help'
    done = subprocess.run(
        ["bash", "-c", command, "bash", tmp_path / "gone", sys.executable, ROOT / "main.py"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_extension_is_built_by_the_checkout_alone(run):
    status, out, err = run("exts/make.sh", CXX="no-such-compiler")
    assert (status, err) == (1, "")
    assert out.startswith("exts/sync_bn: not built, there is no no-such-compiler")


def test_setting_up_installs_with_the_interpreter_alone(run, hostile, tmp_path):
    (hostile / "checkout").unlink()
    (hostile / "checkout" / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup.sh", hostile / "checkout" / "scripts")
    (hostile / "checkout" / "requirements.txt").write_text("")
    status, out, err = run("scripts/setup.sh", VENV="environment", PYTHON=sys.executable)
    assert status == 0, err
    assert (hostile / "environment" / ".requirements-installed").exists() and "installing requirements.txt" in out


def test_the_demo_starts_modules_from_the_checkout_and_keeps_a_relative_place_for_runs(run, hostile, tmp_path):
    python = tmp_path / "environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || echo "$PWD: $*"\n')
    python.chmod(0o755)
    status, out, err = run("scripts/demo.sh", "seed=3", VENV="../environment")
    assert (status, err) == (0, "")
    calls = [line.split(": ", 1) for line in out.splitlines() if line.startswith("/")]
    from_root = [words for folder, words in calls if Path(folder).resolve() == ROOT]
    assert [words.split()[0] for words in from_root] == ["-m", "-m", "main.py", "-"]
    assert all(f"{hostile}/runs" in words for words in from_root)
    elsewhere = [words.split()[0] for _, words in calls if words not in from_root]
    assert [Path(word).name for word in elsewhere] == ["-Im", "build.py", "launch.py", "launch.py"]
