"""publish: a folder that serves as a checkpoint, names no place of this machine, and shows any damage in one line."""

import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import RECIPE, SMALL
from safetensors.torch import load_file, save_file

import main
from datasets.seg.classes import load_table
from lib.base.atomic import write_folder_atomically
from lib.base.errors import UserError
from lib.engine.evaluate import evaluate
from lib.engine.runs import RunFolder
from lib.hub.segmentor import segmentor
from lib.publish.folder import PRIVATE, public
from lib.tasks import load_config, make_task
from lib.tasks.trained import open_trained
from lib.weights.loading import start_from

ALL = {"README.md", "SHA256SUMS", "classes.csv", "config.yaml", "metrics.json", "model.safetensors", "predictions.jpg"}


def call(monkeypatch, capfd, *words):
    """(status, stdout, stderr) of main.py publish."""
    monkeypatch.setattr(sys, "argv", ["main.py", "publish", *map(str, words)])
    capfd.readouterr()
    try:
        status = main.main()
    except SystemExit as end:
        status = end.code
    return status, *capfd.readouterr()


@pytest.fixture
def publish(monkeypatch, capfd):
    return lambda *words: call(monkeypatch, capfd, *words)


@pytest.fixture(scope="module")
def whole(scored, tmp_path_factory):
    """A published folder that no test changes."""
    folder = tmp_path_factory.mktemp("published") / "street net"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["main.py", "publish", str(scored), str(folder)])
        assert main.main() == 0
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def folder(whole, tmp_path):
    """One that the test may damage."""
    return shutil.copytree(whole, tmp_path / "published")


def seal(folder):
    """Write the checksums that the files have now."""
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


class TestWhatIsWritten:
    def test_the_files_and_their_checksums(self, whole):
        assert {path.name for path in whole.iterdir()} == ALL
        done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=whole, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.count(": OK") == len(ALL) - 1
        modes = {path.stat().st_mode for path in whole.iterdir()}
        assert len(modes) == 1 and not [path for path in whole.parent.iterdir() if path != whole]

    def test_weights_are_the_averaged_ones_as_they_are(self, whole, scored):
        state = torch.load(scored / "checkpoints" / "best.pth", weights_only=True)
        found = load_file(whole / "model.safetensors")
        assert found.keys() == state["ema"].keys()
        for name, value in found.items():
            assert value.dtype == state["ema"][name].dtype and torch.equal(value, state["ema"][name])
        assert not torch.equal(found["head.classifier.weight"], state["model"]["head.classifier.weight"])

    def test_classes_and_scores_are_the_runs(self, whole, scored):
        assert (whole / "classes.csv").read_text() == load_table("cityscapes").text
        ours = json.loads((whole / "metrics.json").read_text())
        theirs = json.loads((scored / "val" / "metrics.json").read_text())
        assert ours.pop("checkpoint") == "best.pth" and theirs.pop("checkpoint").endswith("/best.pth")
        assert ours == theirs

    def test_nothing_names_a_place_of_this_machine(self, whole, data_root, scored):
        for path in whole.iterdir():
            content = path.read_bytes()
            for place in (data_root, scored, Path.home(), "/tmp"):
                assert path.suffix == ".jpg" or str(place).encode() not in content, path
        config = yaml.safe_load((whole / "config.yaml").read_text())
        assert (config["data"]["root"], config["tag"], config["pretrained"], config["device"]) == ("", "", "", "auto")
        assert config["model"]["backbone"]["name"] == "mobilenet_v2" and config["recipe"] == "dnl_r101"

    def test_the_card_says_what_it_is(self, whole):
        text = (whole / "README.md").read_text()
        scores = json.loads((whole / "metrics.json").read_text())
        assert "nonlocal (disentangled) on mobilenet_v2" in text and "3 iterations of 2 crops of 64 x 48" in text
        assert f"| **mean IoU** | **{100 * scores['miou']:.2f}** |" in text and "| traffic light |" in text
        assert "python main.py train --config DIR/config.yaml" in text and "licence" in text
        assert "![images, predictions and labels](predictions.jpg)" in text
        assert text.startswith("---\n") and yaml.safe_load(text.split("---\n")[1])["pipeline_tag"]

    def test_places_are_emptied_wherever_they_stand(self):
        config = load_config(RECIPE, ["data.root=/home/jo/data", "pretrained=~/a.pth", "tag=x", "device=cpu"])
        config.model.head.options = {"a": "/home/jo/x", "b": ["file:///home/jo/y", "word"], "c": 3}
        found, emptied = public(config)
        assert found.model.head.options == {"a": "", "b": ["", "word"], "c": 3} and found.data.root == ""
        assert [entry.partition("=")[0] for entry in emptied] == [
            "data.root",
            "pretrained",
            "tag",
            "model.head.options.a",
            "model.head.options.b",
        ]
        assert config.data.root == "/home/jo/data"
        assert not PRIVATE.search("resnet101") and PRIVATE.search(r"C:\Users\jo")

    def test_without_data_and_scores_it_says_so(self, scored, tmp_path, publish):
        shutil.copy(scored / "checkpoints" / "best.pth", tmp_path / "alone.pth")
        status, out, err = publish(tmp_path / "alone.pth", tmp_path / "new" / "net", "data.root=")
        assert (status, err) == (0, "") and "no picture: data.root names no data" in out and "no scores" in out
        assert {path.name for path in (tmp_path / "new" / "net").iterdir()} == ALL - {"metrics.json", "predictions.jpg"}
        assert "## Scores" not in (tmp_path / "new" / "net" / "README.md").read_text()

    def test_scores_of_another_checkpoint_are_left_out(self, scored, tmp_path, publish):
        run = shutil.copytree(scored, tmp_path / "run")
        file = run / "val" / "metrics.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"iter": 2}))
        status, out, _ = publish(run, tmp_path / "net", "--no-picture")
        assert status == 0 and "is of iteration 2, not 3" in out
        assert not (tmp_path / "net" / "metrics.json").exists() and not (tmp_path / "net" / "predictions.jpg").exists()


class TestWhereItServes:
    def test_predictions_are_the_runs(self, whole, scored, data_root):
        images = sorted((data_root / "val" / "image").iterdir())
        ours, theirs = segmentor(whole, device="cpu"), segmentor(scored, device="cpu")
        for path in images:
            assert np.array_equal(ours.predict(path).ids, theirs.predict(path).ids)
        assert open_trained(whole / "model.safetensors").iteration == 3

    def test_val_scores_it_alike(self, whole, data_root, tmp_path, monkeypatch):
        monkeypatch.setenv("RUNS_DIR", str(tmp_path))
        words = ["tag=again", f"checkpoint={whole}", f"data.root={data_root}", "data.workers=0", "device=cpu"]
        config = load_config(whole / "config.yaml", words)
        evaluate(make_task(config), config, folder := RunFolder(config), "val")
        found = json.loads((folder.path / "val" / "metrics.json").read_text())
        assert found["miou"] == json.loads((whole / "metrics.json").read_text())["miou"]

    def test_training_starts_from_it(self, whole):
        task = make_task(load_config(RECIPE, SMALL))
        network = task.network()
        line = start_from(network, str(whole), task.options)
        expected = load_file(whole / "model.safetensors")
        assert "entries of the whole network matched" in line
        assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())

    def test_resume_says_that_it_has_weights_alone(self, whole, scored, command, tmp_path, monkeypatch):
        monkeypatch.setenv("RUNS_DIR", str(tmp_path))
        run = tmp_path / "seg" / "cityscapes" / "dnl_r101" / "tiny"
        shutil.copytree(scored, run)
        outcome = command("resume", "tag=tiny", f"checkpoint={whole}")
        assert "what is published has weights alone: train on with pretrained=" in outcome.error

    def test_other_peoples_safetensors_are_their_tensors(self, tmp_path):
        save_file({"backbone.conv1.weight": torch.ones(2)}, tmp_path / "other.safetensors")
        with pytest.raises(UserError, match=r"other\.safetensors is another project's checkpoint"):
            open_trained(tmp_path / "other.safetensors")


def damaged(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class TestDamage:
    @pytest.mark.parametrize("name", sorted(ALL - {"SHA256SUMS"}))
    def test_one_bit_of_any_file(self, folder, name):
        damaged(folder / name)
        with pytest.raises(UserError, match=rf"{re.escape(name)} is not what SHA256SUMS says"):
            open_trained(folder)

    @pytest.mark.parametrize("name", sorted(ALL))
    def test_any_file_missing(self, folder, name):
        (folder / name).unlink()
        with pytest.raises(UserError) as error:
            open_trained(folder)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "text, expected",
        [
            ("", "does not name model.safetensors"),
            ("rubbish\n", "SHA256SUMS is damaged"),
            (f"{'0' * 64}  ../model.safetensors\n", "SHA256SUMS is damaged"),
            (f"{'0' * 64}  ..\n", "SHA256SUMS is damaged"),
            (f"{'0' * 64}  SHA256SUMS\n", "SHA256SUMS is damaged"),
            (f"{'0' * 64}  model.safetensors\n", "is not what SHA256SUMS says"),
            (f"{'0' * 64}  x\n" * 65, "SHA256SUMS is damaged"),
            ("x" * (1 << 21), "more than the"),
        ],
    )
    def test_forged_checksums(self, folder, text, expected):
        (folder / "SHA256SUMS").write_text(text)
        with pytest.raises(UserError, match=expected):
            open_trained(folder)

    def forge(self, folder, metadata, **entries):
        state = load_file(folder / "model.safetensors") | entries
        save_file(state, folder / "model.safetensors", metadata)
        seal(folder)

    @pytest.mark.parametrize(
        "metadata, expected",
        [
            ({"checkpoint_format": "1"}, "metadata have '' for iteration"),
            ({"checkpoint_format": "1", "iteration": "9" * 30}, "for iteration"),
            ({"checkpoint_format": "1", "iteration": "-1"}, "for iteration"),
            ({"checkpoint_format": "x", "iteration": "1"}, "for checkpoint_format"),
            ({"checkpoint_format": "2", "iteration": "1"}, "this version reads format 1"),
            (None, "is another project's checkpoint"),
        ],
    )
    def test_forged_metadata_with_checksums_that_fit(self, folder, metadata, expected):
        self.forge(folder, metadata)
        with pytest.raises(UserError, match=expected):
            open_trained(folder)

    def test_forged_contents_with_checksums_that_fit(self, folder):
        (folder / "config.yaml").write_text("x" * 70_000)
        seal(folder)
        with pytest.raises(UserError, match="config is longer than the 65,536 bytes"):
            open_trained(folder)
        (folder / "config.yaml").write_bytes(b"\xff\xfe")
        seal(folder)
        with pytest.raises(UserError, match=r"config\.yaml is not UTF-8"):
            open_trained(folder)

    @pytest.mark.parametrize(
        "content",
        [b"", b"\x80\x04.", struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 2) + b"[]", b"PK\x03\x04" * 9],
    )
    def test_weights_that_are_no_safetensors(self, folder, content):
        (folder / "model.safetensors").write_bytes(content)
        seal(folder)
        with pytest.raises(UserError, match="is damaged or no safetensors file") as error:
            open_trained(folder)
        assert "\n" not in str(error.value)

    def test_another_networks_weights(self, folder):
        self.forge(folder, {"checkpoint_format": "1", "iteration": "1"}, strange=torch.ones(1))
        with pytest.raises(UserError, match="holds another model"):
            open_trained(folder)


class TestPlaces:
    def test_what_is_there_stays(self, scored, folder, tmp_path, publish):
        before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").touch()
        for target, words, expected in (
            (folder, (), "is already published: name another folder, or replace it with --overwrite"),
            (tmp_path / "empty", ("--overwrite",), "already exists and is no published folder"),
            (tmp_path / "file", ("--overwrite",), "already exists and is no published folder"),
            (scored, ("--overwrite",), "already exists and is no published folder"),
        ):
            status, _, err = publish(scored, target, *words)
            assert status == 2 and expected in err and err.count("\n") == 1
        assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        (folder / "notes.txt").touch()
        status, _, err = publish(scored, folder, "--overwrite")
        assert status == 2 and "has files that publish did not write, such as notes.txt" in err

    def test_a_published_folder_is_replaced(self, scored, folder, tmp_path, publish):
        damaged(folder / "model.safetensors")
        status, out, err = publish(scored, folder, "--overwrite", "--no-picture")
        assert (status, err) == (0, "") and "emptied in config.yaml: data.root=" in out
        assert open_trained(folder).iteration == 3
        assert [path.name for path in tmp_path.iterdir()] == ["published"]

    def test_words_that_are_missing_and_a_run_that_is_none(self, tmp_path, publish):
        status, _, err = publish(tmp_path)
        assert status == 2 and "publish needs a run and a folder" in err
        status, _, err = publish(tmp_path, tmp_path / "net")
        assert status == 2 and "is no run folder" in err and not (tmp_path / "net").exists()

    def test_a_full_disk_leaves_nothing(self, scored, tmp_path, publish, monkeypatch):
        def fill(*words, **options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("safetensors.torch.save_file", fill)
        status, _, err = publish(scored, tmp_path / "net", "--no-picture")
        assert status == 2 and "No space left on device" in err and err.count("\n") == 1
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
    def test_a_folder_appears_whole_or_not_at_all(self, tmp_path, error):
        def write(folder, breaks=True):
            (folder / "a").write_text("new")
            if breaks:
                raise error

        with pytest.raises(error):
            write_folder_atomically(tmp_path / "x", write)
        assert not list(tmp_path.iterdir())
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "old").touch()
        with pytest.raises(error):
            write_folder_atomically(tmp_path / "x", write, replaces=True)
        assert [path.name for path in tmp_path.rglob("*")] == ["x", "old"]
        write_folder_atomically(tmp_path / "x", lambda folder: write(folder, False), replaces=True)
        assert [path.name for path in tmp_path.rglob("*")] == ["x", "a"]
