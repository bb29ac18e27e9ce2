"""The commands of ``main.py``: found in their folder, explained one by one, and deaf to no word."""

import subprocess
import sys
from pathlib import Path

import pytest

import main
from lib import commands

ROOT = Path(__file__).parents[1]
EXISTING = {
    "train",
    "resume",
    "val",
    "test",
    "import-weights",
    "evaluate",
    "models",
    "explain",
    "sheet",
    "compare",
    "plot",
}


@pytest.fixture
def run(monkeypatch, capfd):
    """``main.py`` in this process: run(*words) -> (status, stdout, stderr)."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["main.py", *map(str, words)])
        try:
            status = main.main()
        except SystemExit as end:
            status = end.code
        return status, *capfd.readouterr()

    return call


def test_every_command_is_a_file_and_every_file_a_command():
    files = {path.stem for path in (ROOT / "lib" / "commands").glob("*.py") if not path.name.startswith("_")}
    assert {name.replace("-", "_") for name in commands.names()} == files
    assert set(commands.names()) >= EXISTING


def test_a_new_file_is_a_new_command(run, monkeypatch, tmp_path):
    (tmp_path / "say_it.py").write_text(
        '"""say a word"""\n'
        "def add_options(parser): parser.add_argument('--word', default='hello', help='what to say')\n"
        "def run(options): print(options.word)\n"
    )
    monkeypatch.setattr(commands, "FOLDER", tmp_path)
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    assert "  say-it  say a word\n" in run("--help")[1]
    assert "what to say (default: hello)" in run("say-it", "--help")[1]
    assert run("say-it", "--word", "good day")[:2] == (0, "good day\n")


@pytest.mark.parametrize("name", sorted(EXISTING))
def test_the_help_of_a_command_has_its_options_and_its_first_line(run, name):
    status, out, err = run(name, "--help")
    assert status == 0 and err == ""
    assert commands.names()[name].read_text().splitlines()[0].strip('"') in out
    assert "--debug" in out
    assert ("--pred " in out) == (name == "evaluate") and ("--count" in out) == (name in ("sheet", "compare"))
    assert ("--config" in out) == (name not in ("evaluate", "sheet", "compare", "plot"))


def test_help_names_defaults_and_allowed_values(run):
    assert "rows, 1 or more (default: 3)" in run("sheet", "--help")[1]
    out = " ".join(run("evaluate", "--help")[1].split())
    assert "one of ade20k, camvid, cityscapes" in out and "default: one for each core" in out


def test_help_imports_nothing_heavy():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from lib.commands import names, parse\n"
    code += "for name in names():\n    try: parse([name, '--help'])\n    except SystemExit: pass\n"
    code += "assert not {'torch', 'cv2', 'omegaconf'} & sys.modules.keys(), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


RECIPE = ROOT / "configs" / "seg" / "camvid" / "fcn_r101.yaml"


@pytest.mark.parametrize(
    "words, expected",
    [
        (["trian"], "no command 'trian'"),
        (["--config", RECIPE, "train"], "name a command before --config"),
        (["train"], "required: --config"),
        (["train", "--config", RECIPE, "--pred", "somewhere"], "unrecognized arguments: --pred"),
        (["val", "--config", RECIPE, "--print"], "unrecognized arguments: --print"),
        (["sheet", "--data", "a"], "required: --prediction, --dataset, --out"),
        (["models", "data.crop_size=[64,64]"], "name it with --config"),
        (["models", "--config", RECIPE, "train.lr=1"], "models looks at data.crop_size alone: leave train.lr=1 out"),
        (["models", "--print-config"], "required: --config"),
        (["train", "--config", RECIPE, "--print-config", "faster"], "'faster' is not of the form key=value"),
        (["import-weights", "--config", RECIPE, "a.pth", "seed=3"], "needs two files"),
        (["explain", "train.lrr"], "no key or group train.lrr: did you mean train.lr?"),
    ],
)
def test_a_wrong_word_ends_in_one_line(run, words, expected):
    status, out, err = run(*words)
    assert status == 2 and out == ""
    assert expected in err and err.startswith("error: ") and len(err.splitlines()) == 1


def test_a_reader_who_has_seen_enough_gets_no_error():
    command = [sys.executable, "main.py", "explain", "data", "train", "val"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode not in (0, 2)
