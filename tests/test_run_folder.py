"""One job at a time has a run folder; what it used is written there; a start that failed leaves no trace of itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from lib.base import lock
from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.engine import runs as module
from lib.engine.runs import RunFolder
from lib.engine.train import Trainer
from lib.tasks import load_config

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "seg" / "cityscapes" / "dnl_r101.yaml"

HOLD = """
import sys, time
from lib.engine.runs import RunFolder
from lib.tasks import load_config
with RunFolder(load_config(sys.argv[1], ["tag=mine"])).claim():
    print("mine", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNS_DIR", str(tmp_path))
    return RunFolder(load_config(RECIPE, ["tag=mine"]))


def hidden(run):
    """What lies beside the run folders."""
    return sorted(path.name for path in run.path.parent.glob(".*"))


class TestClaim:
    @pytest.mark.parametrize("end", ["terminate", "kill"])
    def test_it_lasts_as_long_as_its_process_however_that_ends(self, folder, monkeypatch, end):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.2)
        other = subprocess.Popen([sys.executable, "-c", HOLD, RECIPE], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(UserError, match=r"another process is training in .*mine: stop it first"), folder.claim():
            pass
        getattr(other, end)()
        other.wait()
        with folder.claim():
            pass
        other.stdout.close()

    def test_only_the_main_process_of_a_job_takes_it(self, folder, monkeypatch):
        with folder.claim():
            monkeypatch.setenv("RANK", "1")
            with folder.claim():
                pass

    def test_a_claim_of_which_no_run_came_leaves_nothing(self, command, runs, tmp_path, data_root):
        assert "train it first" in command("resume", "tag=phantom", f"data.root={data_root}").error
        assert list((tmp_path / "runs").iterdir()) == []

    def test_a_lock_that_was_tidied_away_meanwhile_is_not_taken_for_the_claim(self, folder, monkeypatch):
        flock, calls = lock.fcntl.flock, []

        def tidied_first(handle, operation):
            flock(handle, operation)
            if not calls:
                folder.lock.unlink()
            calls.append(operation)

        monkeypatch.setattr(lock.fcntl, "flock", tidied_first)
        with folder.claim():
            assert len(calls) == 2 and folder.lock.exists()

    def test_a_file_system_without_locks_is_named(self, folder, monkeypatch, capsys):
        def flock(handle, operation):
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(lock.fcntl, "flock", flock)
        with folder.claim():
            assert "cannot be locked (Function not implemented): start no second job" in capsys.readouterr().err

    @pytest.mark.parametrize("place", ["file", "file/below", "loop", "nowhere", "/proc/x", "/dev/null", "l" * 300])
    def test_a_place_that_takes_no_runs_is_named_with_its_variable(self, tmp_path, monkeypatch, place):
        (tmp_path / "file").touch()
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        (tmp_path / "nowhere").symlink_to(tmp_path / "no" / "where")
        monkeypatch.setenv("RUNS_DIR", str(tmp_path / place))
        claim = RunFolder(load_config(RECIPE, ["tag=mine"])).claim()
        with pytest.raises(UserError, match="let RUNS_DIR name a folder that can be written to") as caught, claim:
            pass
        assert str(tmp_path / place)[:50] in str(caught.value)

    def test_of_two_jobs_that_start_at_once_one_trains_and_the_other_says_why_not(self, scripts, data_root, long_run):
        words = ("twice", data_root, *long_run, "train.max_iters=100000", "overwrite=true")
        jobs = [scripts.start("train", *words) for _ in (0, 1)]
        while all(job.poll() is None for job in jobs):
            time.sleep(0.02)
        refused, training = sorted(jobs, key=lambda job: job.poll() is None)
        assert refused.communicate()[1].startswith("error: another process is training in ")
        assert refused.returncode == 2
        assert "another process" in scripts("resume", "twice", data_root).error
        training.send_signal(signal.SIGTERM)
        assert training.communicate()[1] == "" and training.returncode == 128 + signal.SIGTERM
        run = scripts.run("twice")
        rows = [row["iter"] for row in run.rows if "loss" in row]
        assert rows == list(range(1, len(rows) + 1))
        assert torch.load(run.checkpoint(), weights_only=True)["iteration"] == len(rows)


class TestRecord:
    def test_what_a_resumed_run_used_holds_for_the_next_one_too(self, train, runs, command, data_root):
        assert train("tag", "checkpoint.interval=3", "checkpoint.keep=9").status == 0
        resume = ("resume", "tag=tag", f"data.root={data_root}")
        before = (runs("tag").path / "config.yaml").read_bytes()
        assert "micro-batch 3" in command(*resume, "train.max_iters=5", "train.micro_batch=3").error
        assert (runs("tag").path / "config.yaml").read_bytes() == before, "it could not begin"
        assert len(runs("tag").rows) == 3
        assert command(*resume, "train.max_iters=5", "train.lr=0.02").status == 0
        first = runs("tag").checkpoint("iter_3")
        assert command(*resume, f"checkpoint={first}").status == 0
        assert [row["iter"] for row in runs("tag").rows] == [1, 2, 3, 4, 5], "from 3 to 5 once more"
        text = (runs("tag").path / "config.yaml").read_text()
        recorded = yaml.safe_load(text)
        assert (recorded["train"]["max_iters"], recorded["train"]["lr"]) == (5, 0.02)
        assert recorded["checkpoint"]["file"] == "" and not recorded["overwrite"]
        history = [line for line in text.splitlines() if line.startswith("#")]
        assert history == [
            "# Earlier starts of this run used:",
            "# until iteration 3: train.max_iters=3 train.lr=0.01",
        ]
        assert load_config(runs("tag").path / "config.yaml", []).train.max_iters == 5

    def test_the_history_grows_and_a_start_with_nothing_new_adds_nothing(self, folder):
        folder.create()
        for iteration, words in ((3, {"max_iters": 6}), (5, {"max_iters": 6}), (6, {"max_iters": 9, "steps": [1, 2]})):
            vars(folder.configuration.train).update(words)
            folder.record(iteration)
        lines = folder.config.read_text().splitlines()
        at = lines.index("# Earlier starts of this run used:")
        assert lines[at + 1 :] == [
            "# until iteration 3: train.max_iters=60000",
            "# until iteration 6: train.max_iters=6 train.steps=[]",
        ]


class TestFailedStart:
    @pytest.mark.parametrize("word", ["train.micro_batch=3", "data.workers=1"])
    def test_it_does_not_block_the_corrected_command(self, train, runs, data_copy, tmp_path, word):
        images = sorted((data_copy / "train" / "image").iterdir())
        whole = [image.read_bytes() for image in images]
        if "workers" in word:
            for image in images:
                image.write_bytes(image.read_bytes()[:500])
        assert train("tag", word, data=data_copy).error
        assert list((tmp_path / "runs").iterdir()) == []
        for image, content in zip(images, whole, strict=True):
            image.write_bytes(content)
        assert train("tag", "train.max_iters=1", data=data_copy).status == 0

    def test_a_number_of_processes_that_does_not_divide_the_batch_leaves_nothing(self, scripts, data_root, long_run):
        outcome = scripts("train", "uneven", data_root, *long_run, "train.batch_size=3", NPROC="2")
        assert "batch size 3 cannot be shared evenly by 2 processes" in outcome.error
        assert not scripts.run("uneven").path.exists() and ".uneven.lock" not in hidden(scripts.run("uneven"))

    def test_val_of_no_checkpoint_leaves_nothing(self, command, runs, data_root, tmp_path):
        words = ("tag=tag", f"data.root={data_root}", "device=cpu", "checkpoint=/no/such.pth")
        assert "/no/such.pth does not exist" in command("val", *words).error
        assert not (tmp_path / "runs").exists()

    def test_a_first_iteration_that_fails_gives_the_folder_back(self, train, runs, monkeypatch):
        def fail(trainer, batches):
            raise UserError("out of something")

        assert train("old", "train.max_iters=1").status == 0
        before = runs("old").rows
        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "_step", fail)
            assert "out of something" in train("new").error
            assert "out of something" in train("old", "overwrite=true").error
        assert not runs("new").path.exists()
        assert runs("old").rows == before and runs("old").checkpoint().exists()
        assert train("old", "train.max_iters=2", "overwrite=true").status == 0
        assert len(runs("old").rows) == 2
        assert hidden(runs("old")) == [".old.lock"]

    def test_a_kill_before_the_first_iteration_costs_no_run_and_blocks_none(self, folder):
        folder.create(["a"])
        folder.checkpoints.joinpath("latest.pth").write_text("of the old run")
        folder.configuration.overwrite = True
        folder.create(["b"])
        assert not any(folder.checkpoints.iterdir())
        folder.configuration.overwrite = False
        with folder.claim():
            assert (folder.checkpoints / "latest.pth").read_text() == "of the old run"
            with pytest.raises(UserError, match="already holds a run"):
                folder.refuse_existing()
        assert hidden(folder) == [".mine.lock"]

    def test_a_run_of_which_nothing_came_may_be_replaced(self, folder):
        folder.create(["a"])
        folder.refuse_existing()
        folder.metrics.write_text("{}\n")
        with pytest.raises(UserError, match="which cannot be resumed: choose another tag, or replace it with ov"):
            folder.refuse_existing()

    def test_a_run_in_place_of_a_broken_one_takes_nothing_over(self, folder):
        (folder.path / "val").mkdir(parents=True)
        folder.create()
        assert (folder.path / "val").exists(), "what val found by checkpoint=FILE is of no training"
        folder.config.unlink()
        (folder.checkpoints / "iter_7.pth").touch()
        folder.create()
        folder.settle()
        assert not any(folder.checkpoints.iterdir()) and hidden(folder) == []


class TestUmask:
    @pytest.fixture
    def umask(self):
        before = os.umask(0o007)
        yield 0o007
        os.umask(before)

    def test_every_file_of_a_run_has_the_permissions_that_the_user_asks_for(self, train, runs, umask):
        assert train("tag", "train.max_iters=1").status == 0
        files = [path for path in runs("tag").path.rglob("*") if path.is_file()]
        assert len(files) >= 6
        assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}

    def test_a_name_as_long_as_names_can_be_is_written(self, tmp_path, umask):
        path = tmp_path / ("ä" * 127)
        write_atomically(path, lambda file: file.write(b"content"))
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask
