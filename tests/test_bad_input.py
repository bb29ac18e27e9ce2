"""What a user can get wrong ends in exit status 2 and one line that names the thing; nothing good is lost."""

import os
import pickle
import resource

import cv2
import numpy as np
import pytest
import torch

from lib.engine.checkpoint import CheckpointFiles
from lib.weights.loading import load_checkpoint


def first(folder):
    return min(folder.iterdir())


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class Bomb:
    """Makes a file when it is unpickled by a reader that trusts it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def brief_run(data_root, trained):
    """Overrides that name the run of ``trained`` and its data."""
    return ("tag=whole", f"data.root={data_root}")


@pytest.fixture
def its_runs(scripts, monkeypatch):
    """RUNS_DIR is the one with the run of ``trained``."""
    monkeypatch.setenv("RUNS_DIR", str(scripts.runs))


class TestData:
    def test_a_missing_folder_is_named(self, train, runs, tmp_path):
        error = train("tag", data=tmp_path / "nowhere").error
        assert str(tmp_path / "nowhere") in error and "datasets.seg.preprocess" in error
        assert not runs("tag").path.exists()

    def test_no_folder_given_is_an_error(self, train, runs):
        assert "DATA_DIR" in train("tag", data="").error

    def test_an_empty_folder_is_named(self, train, runs, tmp_path):
        (tmp_path / "empty").mkdir()
        error = train("tag", data=tmp_path / "empty").error
        assert str(tmp_path / "empty") in error and "empty" in error

    def test_images_without_labels_are_an_error(self, train, runs, data_copy):
        for label in (data_copy / "train" / "label").iterdir():
            label.unlink()
        assert str(data_copy / "train" / "label") in train("tag", data=data_copy).error

    def test_one_image_without_label_is_named(self, train, runs, data_copy):
        label = first(data_copy / "train" / "label")
        label.unlink()
        assert str(data_copy / "train" / "image" / label.name) in train("tag", data=data_copy).error

    def test_a_missing_split_is_named_before_training_starts(self, train, runs, data_copy):
        (data_copy / "val").rename(data_copy / "validation")
        assert str(data_copy / "val") in train("tag", "val.interval=1", data=data_copy).error
        assert not runs("tag").path.exists()

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_truncated_image_is_named_whoever_reads_it(self, train, runs, data_copy, workers):
        image = first(data_copy / "train" / "image")
        truncate(image)
        error = train("tag", f"data.workers={workers}", data=data_copy).error
        assert str(image) in error and "truncated" in error

    def test_an_unknown_label_id_is_named_with_its_file(self, train, runs, data_copy):
        path = first(data_copy / "train" / "label")
        cv2.imwrite(str(path), np.full((64, 96), 77, np.uint8))
        error = train("tag", data=data_copy).error
        assert str(path) in error and "label 77" in error and "0..33" in error

    def test_sizes_that_differ_are_named(self, train, runs, data_copy):
        path = first(data_copy / "train" / "label")
        cv2.imwrite(str(path), np.zeros((64, 90), np.uint8))
        error = train("tag", data=data_copy).error
        assert str(path) in error and "96 x 64" in error and "90 x 64" in error

    @pytest.mark.parametrize("index", [0, 1])
    def test_one_of_two_processes_speaks_for_both(self, scripts, data_copy, long_run, index):
        # Which process reads which image: iteration 0 gives the stream's first to rank 0, its second to rank 1.
        from lib.engine.loader import TrainStream

        batch = next(iter(TrainStream(6, batch_size=2, iterations=1, seed=0)))
        image = sorted((data_copy / "train" / "image").iterdir())[batch[index][1]]
        truncate(image)
        # To start the processes again would only repeat the mistake.
        outcome = scripts("train", f"damaged{index}", data_copy, "--max-restarts", "2", *long_run, NPROC="2")
        assert str(image) in outcome.error


class TestPretrained:
    def test_a_missing_file_is_named(self, train, runs):
        assert "/no/weights.pth does not exist" in train("tag", "pretrained=/no/weights.pth").error
        assert not runs("tag").path.exists()

    def test_a_text_file_is_named(self, train, runs, tmp_path):
        path = tmp_path / "weights.pth"
        path.write_text("see the wiki for the weights")
        error = train("tag", f"pretrained={path}").error
        assert str(path) in error and "not a PyTorch checkpoint" in error

    @pytest.mark.parametrize("entry", ["encoder.embedding.weight", "layer1.0.conv1.weight"])
    def test_another_network_is_named(self, train, runs, tmp_path, entry):
        path = tmp_path / "weights.pth"
        torch.save({entry: torch.zeros(64, 3, 3, 3)}, path)
        assert str(path) in train("tag", f"pretrained={path}").error

    @pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
    def test_code_in_a_file_does_not_run(self, train, runs, tmp_path, write):
        path, crater = tmp_path / "weights.pth", tmp_path / "crater"
        write({"conv1.weight": Bomb(crater)}, path)
        error = train("tag", f"pretrained={path}").error
        assert str(path) in error and "refused" in error
        assert not crater.exists()


class TestRun:
    @pytest.mark.parametrize("phase", ["val", "test", "resume"])
    def test_a_tag_that_was_never_trained_is_named(self, command, runs, data_root, phase):
        error = command(phase, "tag=phantom", f"data.root={data_root}").error
        assert "'phantom'" in error and str(runs("phantom").path) in error and "train it first" in error
        assert not runs("phantom").path.exists()

    def test_a_run_without_a_tag_is_refused(self, command, runs):
        assert "tag=NAME" in command("train").error

    def test_training_does_not_replace_a_run_unless_told_to(self, train, runs):
        assert train("tag", "train.max_iters=1").status == 0
        (runs("tag").path / "note.txt").write_text("of the first run")
        error = train("tag", "train.max_iters=2").error
        assert str(runs("tag").path) in error
        assert all(word in error for word in ("resume", "another tag", "overwrite=true"))
        assert (runs("tag").path / "note.txt").exists() and len(runs("tag").rows) == 1

        assert train("tag", "train.max_iters=2", "overwrite=true").status == 0
        assert not (runs("tag").path / "note.txt").exists() and len(runs("tag").rows) == 2
        assert "overwrite=true" in train("tag").error, "a replaced run must be as safe as any other"


class TestCheckpoint:
    @pytest.mark.parametrize("phase", ["resume", "val"])
    def test_a_file_that_is_cut_off_is_named(self, command, its_runs, brief_run, trained, tmp_path, phase):
        path = tmp_path / "half.pth"
        path.write_bytes(trained.checkpoint().read_bytes()[: 60 << 20])
        error = command(phase, *brief_run, f"checkpoint={path}").error
        assert str(path) in error and "cut off" in error

    def test_a_missing_file_is_named(self, command, its_runs, brief_run):
        assert "/no/such.pth does not exist" in command("resume", *brief_run, "checkpoint=/no/such.pth").error

    def test_another_model_is_refused(self, command, its_runs, brief_run, trained):
        before = trained.rows
        error = command("resume", *brief_run, "model.head.name=fcn", "train.max_iters=30").error
        assert str(trained.checkpoint()) in error and "another model" in error and "head.block" in error
        assert trained.rows == before

    def test_another_file_of_tensors_is_refused(self, command, its_runs, brief_run, tmp_path):
        path = tmp_path / "weights.pth"
        torch.save({"conv1.weight": torch.zeros(1)}, path)
        assert f"{path} is not a checkpoint" in command("val", *brief_run, f"checkpoint={path}").error

    @pytest.mark.parametrize("phase", ["resume", "val"])
    def test_code_in_a_file_does_not_run(self, command, its_runs, brief_run, tmp_path, phase):
        path, crater = tmp_path / "latest.pth", tmp_path / "crater"
        torch.save({"format": 1, "model": Bomb(crater)}, path)
        error = command(phase, *brief_run, f"checkpoint={path}").error
        assert str(path) in error and "refused" in error
        assert not crater.exists()

    def test_a_forged_checkpoint_names_its_entry_and_a_damaged_one_the_one_before_it(self, train, command, runs):
        small = ("model.backbone.name=mobilenet_v2", "val.mode=ss", "checkpoint.interval=1", "checkpoint.keep=2")
        assert train("tag", *small, "train.max_iters=2").status == 0
        latest, whole = runs("tag").checkpoint(), torch.load(runs("tag").checkpoint(), weights_only=True)
        forged = latest.with_name("forged.pth")
        first = next(iter(whole["optimizer"]["state"]))
        for entry, value in {
            "optimizer": {**whole["optimizer"], "state": {first: {"momentum_buffer": torch.zeros(5)}}, "stateless": []},
            "random": [{"cpu": torch.zeros(7, dtype=torch.uint8)}],
            "iteration": "2",
            "unlogged": None,
            "schedule": {},
            "best_miou": [],
        }.items():
            torch.save(whole | {entry: value}, forged)
            error = command("resume", "tag=tag", "train.max_iters=4", f"checkpoint={forged}").error
            assert f"{forged}: {entry}" in error and "checkpoint=" in error
        content = bytearray(latest.read_bytes())
        content[len(content) // 2] ^= 1
        latest.write_bytes(content)
        for phase in ("resume", "val"):
            error = command(phase, "tag=tag", "train.max_iters=4").error
            assert f"{latest} is damaged" in error and f"checkpoint={latest.with_name('iter_1.pth')}" in error
        before = command("resume", "tag=tag", "train.max_iters=4", f"checkpoint={latest.with_name('iter_1.pth')}")
        assert before.status == 0 and [row["iter"] for row in runs("tag").rows] == [1, 2, 3, 4]

    def test_a_full_disk_leaves_the_previous_checkpoint(self, train, runs, monkeypatch):
        save, (soft, hard) = CheckpointFiles.save, resource.getrlimit(resource.RLIMIT_FSIZE)

        def save_on_a_small_disk(self, state, iteration, is_best):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 26 if iteration == 2 else soft, hard))
            try:
                save(self, state, iteration, is_best)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        monkeypatch.setattr(CheckpointFiles, "save", save_on_a_small_disk)
        error = train("tag", "checkpoint.interval=1").error
        assert "iter_2.pth" in error and os.strerror(27) in error and "previous one is intact" in error
        assert load_checkpoint(runs("tag").checkpoint())["iteration"] == 1
        assert sorted(os.listdir(runs("tag").path / "checkpoints")) == ["iter_1.pth", "latest.pth"]


def test_a_loss_that_is_not_a_number_stops_with_the_images_of_its_batch(train, runs, data_root):
    error = train("tag", "train.lr=1e30", "train.max_iters=6", "checkpoint.interval=1").error
    latest = runs("tag").checkpoint()
    last_good = load_checkpoint(latest)["iteration"]
    assert f"nan at iteration {last_good + 1} with" in error
    assert error.count(str(data_root / "train" / "image")) == 2
    assert str(latest) in error
    assert [row["iter"] for row in runs("tag").rows] == list(range(1, last_good + 1))
