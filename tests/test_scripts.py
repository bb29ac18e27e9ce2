"""The shell side: arguments, mistakes, set-up, and how fast help comes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib import commands

ROOT = Path(__file__).parents[1]
RECIPE_SCRIPTS = sorted((ROOT / "scripts" / "seg").glob("*/run_*.sh"))


@pytest.fixture
def fake_python(tmp_path):
    """VENV with a python that passes the check for packages and prints the arguments it would run."""
    python = tmp_path / "environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || printf "%s\\n" "$@"\n')
    python.chmod(0o755)
    return tmp_path / "environment"


@pytest.fixture
def dnl(fake_python, tmp_path):
    """The Cityscapes script with its words, in an otherwise empty working directory: (status, stdout, stderr)."""

    def call(*words, script=ROOT / "scripts" / "seg" / "cityscapes" / "run_dnl.sh"):
        environment = os.environ | {"VENV": str(fake_python)}
        done = subprocess.run(
            ["bash", str(script), *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        return done.returncode, done.stdout.splitlines(), done.stderr

    return call


@pytest.mark.parametrize("script", RECIPE_SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_script_starts_a_recipe_that_exists(dnl, script):
    status, arguments, _ = dnl("train", "tag", "data", script=script)
    assert status == 0
    config = Path(arguments[arguments.index("--config") + 1])
    assert config.is_file() and config.parent.name == script.parent.name


def test_words_become_settings_with_paths_that_hold_anywhere(dnl, tmp_path):
    status, arguments, _ = dnl("train", "my tag", "my data", "my weights.pth", "seed=3", "train.lr=0.1")
    assert status == 0
    assert arguments[:2] == [f"{ROOT}/lib/engine/launch.py", "train"]
    settings = ["tag=my tag", f"data.root={tmp_path}/my data", f"pretrained={tmp_path}/my weights.pth"]
    assert arguments[4:] == [*settings, "seed=3", "train.lr=0.1"]


@pytest.mark.parametrize("word", ["model.backbone.name=resnet18", "--debug"])
def test_settings_and_options_are_not_taken_for_pretrained_weights(dnl, tmp_path, word):
    assert dnl("resume", "tag", "data", word)[1][4:] == ["tag=tag", f"data.root={tmp_path}/data", word]


@pytest.mark.parametrize(
    "words, complaint",
    [
        ([], "choose train, resume, val or test"),
        (["trian", "tag", "data"], "unknown mode 'trian': choose train, resume, val or test"),
        (["train"], "TAG or DATA_DIR is missing"),
        (["train", "tag"], "TAG or DATA_DIR is missing"),
        (["train", "tag", ""], "TAG or DATA_DIR is missing"),
        (["train", "tag", "data", ""], "PRETRAINED is empty"),
    ],
)
def test_a_wrong_word_ends_in_one_line(dnl, words, complaint):
    status, stdout, stderr = dnl(*words)
    assert status == 2 and stdout == []
    assert stderr.startswith("error: ") and complaint in stderr and stderr.count("\n") == 1


def test_an_environment_without_the_packages_is_named(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    script = ROOT / "scripts" / "seg" / "cityscapes" / "run_dnl.sh"
    environment = os.environ | {"VENV": str(tmp_path / "bare")}
    done = subprocess.run(["bash", script, "train", "a", "b"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert str(tmp_path / "bare") in done.stderr and "scripts/setup.sh" in done.stderr
    assert done.stderr.count("\n") == 1


class TestSetup:
    @pytest.fixture
    def checkout(self, tmp_path):
        """A checkout that needs one package, which its fake pip only writes down."""
        (tmp_path / "scripts").mkdir()
        (tmp_path / "scripts" / "setup.sh").write_text((ROOT / "scripts" / "setup.sh").read_text())
        (tmp_path / "requirements.txt").write_text("torch\n")
        python = tmp_path / "python"
        python.write_text(
            "#!/bin/sh\n"
            f'echo "$@" >> {tmp_path}/calls\n'
            '[ "$2" != venv ] || { mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; }\n'
        )
        python.chmod(0o755)

        def setup(**environment):
            environment = os.environ | {"PYTHON": str(python), "VENV": ""} | environment
            return subprocess.run(
                ["bash", tmp_path / "scripts" / "setup.sh"], env=environment, capture_output=True, text=True
            )

        setup.installs = lambda: (tmp_path / "calls").read_text().count("pip install")
        setup.root = tmp_path
        return setup

    def test_it_installs_once_and_again_only_when_the_requirements_change(self, checkout):
        assert checkout().returncode == 0 and checkout.installs() == 1
        assert (checkout.root / ".venv" / "bin" / "python").exists()
        assert checkout().returncode == 0 and checkout.installs() == 1
        (checkout.root / "requirements.txt").write_text("torch\ntqdm\n")
        assert checkout().returncode == 0 and checkout.installs() == 2

    def test_another_environment_can_be_named(self, checkout):
        assert checkout(VENV=str(checkout.root / "other place")).returncode == 0
        assert (checkout.root / "other place" / "bin" / "python").exists()
        assert not (checkout.root / ".venv").exists()

    def test_an_old_interpreter_is_refused(self, checkout):
        done = checkout(PYTHON="false")
        assert done.returncode == 2
        assert done.stderr == "error: false is not Python 3.10 or later: name one with PYTHON=/path/to/python\n"


def test_help_lists_the_phases_before_anything_heavy_is_imported():
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "main.py", "--help"], capture_output=True, text=True
    )
    assert time.perf_counter() - start < 3, "it takes a tenth of a second on a machine with nothing else to do"
    assert done.returncode == 0
    assert all(f"  {phase} " in done.stdout for phase in commands.names())
    assert not any(module in done.stderr for module in ("torch", "numpy", "omegaconf"))
