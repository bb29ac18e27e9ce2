"""The whole way as a user walks it: the scripts train, are interrupted, resume, validate and test."""

import json
import os
import signal
import struct
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from datasets.seg.classes import load_table


def wait_for(condition, process=None, seconds=300):
    """Return as soon as ``condition`` holds; fails if ``process``, where one is given, ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


def reached(run, iteration):
    """Whether ``run`` has logged ``iteration``."""
    metrics = run.path / "metrics.jsonl"
    return lambda: metrics.exists() and f'{{"iter": {iteration},' in metrics.read_text()


def main_process(launcher):
    """Process id of main.py, the launcher's only child."""
    return int(subprocess.check_output(["pgrep", "-P", str(launcher.pid)], text=True))


def is_alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def iteration_of(checkpoint):
    return torch.load(checkpoint, weights_only=True, mmap=True)["iteration"]


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(scripts, data_root, long_run, trained):
    run = scripts.run("killed")
    process = scripts.start("train", "killed", data_root, *long_run)
    being_written = lambda: list(run.path.glob("checkpoints/.iter_12.pth.*.part"))  # noqa: E731
    wait_for(being_written, process)
    os.kill(main_process(process), signal.SIGKILL)
    assert process.communicate()[1] == "error: process 0 ended with signal 9\n"
    assert process.returncode == 128 + signal.SIGKILL
    assert iteration_of(run.checkpoint()) in (6, 12)

    process = scripts.start("resume", "killed", data_root)
    wait_for(reached(run, 20), process)
    child = main_process(process)
    process.kill()  # the launcher alone: what it started must not go on writing
    process.communicate()
    wait_for(lambda: not is_alive(child), seconds=3)

    assert scripts("resume", "killed", data_root).status == 0
    assert run.figures == trained.figures
    assert {path.name for path in (run.path / "checkpoints").iterdir()} == {"best.pth", "latest.pth", "iter_24.pth"}


def test_a_run_that_is_asked_to_stop_saves_first_and_goes_on_exactly(scripts, data_root, long_run, trained):
    run = scripts.run("stopped")
    for mode, number, iteration in (("train", signal.SIGTERM, 2), ("resume", signal.SIGINT, 10)):
        process = scripts.start(mode, "stopped", data_root, *(long_run if mode == "train" else ()))
        wait_for(reached(run, iteration), process)
        process.send_signal(number)
        _, stderr = process.communicate()
        assert process.returncode == 128 + number
        assert stderr == ""
        assert iteration_of(run.checkpoint()) == run.rows[-1]["iter"] >= iteration
    assert scripts("resume", "stopped", data_root).status == 0
    assert run.figures == trained.figures


def test_the_run_folder_holds_the_record_of_the_training(trained):
    names = {path.name.split(".tfevents")[0] for path in trained.path.iterdir()}
    assert {"config.yaml", "log.txt", "metrics.jsonl", "events.out", "checkpoints"} <= names
    assert [row["iter"] for row in trained.rows if "loss" in row] == list(range(1, 25))
    assert [row["iter"] for row in trained.rows if "miou" in row] == [12, 24]
    for row in trained.rows:
        if "loss" in row:
            assert row["loss"] == pytest.approx(row["out"] + 0.4 * row["aux"], rel=1e-6)
            assert row["lr"] == pytest.approx(0.01 * (1 - (row["iter"] - 1) / 24) ** 0.9)
            assert row["epoch"] == pytest.approx(row["iter"] * 2 / 6, abs=1e-3)
            assert row["images_per_s"] > 0
    log = (trained.path / "log.txt").read_text()
    assert all(word in log for word in ("iter 24/24", "lr 1.000e-02", "images/s", "GiB", "left", "mIoU"))


def test_tensorboard_shows_losses_learning_rate_scores_and_pictures(trained):
    from tensorboardX.proto.event_pb2 import Event

    # A record is: length, checksum, content, checksum.
    content, values = next(trained.path.glob("events.out.tfevents.*")).read_bytes(), {}
    while content:
        length = struct.unpack("<Q", content[:8])[0]
        event = Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        values.update({(value.tag, event.step): value for value in event.summary.value})
    for row in trained.rows:
        names = ("train/loss", "train/out", "train/aux", "train/lr") if "loss" in row else ("val/miou",)
        for name in names:
            assert values[name, row["iter"]].simple_value == pytest.approx(row[name.split("/")[1]], rel=1e-6)
    assert values["val_iou/road", 24].simple_value == pytest.approx(trained.rows[-1]["iou"][0], rel=1e-6)
    picture = next(value for (name, step), value in values.items() if name.startswith("val/toytown") and step == 24)
    assert (picture.image.width, picture.image.height) == (96, 64)


def test_val_leaves_scores_labels_and_overlays_and_two_processes_find_the_same(scripts, data_root, trained):
    outcome = scripts("val", "whole", data_root, "val.boundary_iou=true")
    assert outcome.status == 0, outcome.stderr
    table = load_table("cityscapes")
    assert all(name in outcome.stdout for name in (*table.names, "mean IoU", "pixel accuracy", "frequency-weighted"))
    folder = trained.path / "val"
    metrics = json.loads((folder / "metrics.json").read_text())

    labels = sorted((data_root / "val" / "label").iterdir())
    assert sorted(path.name for path in (folder / "label").iterdir()) == [path.name for path in labels]
    assert sorted(path.stem for path in (folder / "vis").iterdir()) == [path.stem for path in labels]
    # Scores recomputed from the label files, in the dataset's own ids, one class at a time.
    pairs = [
        [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (label, folder / "label" / label.name)]
        for label in labels
    ]
    truth, predicted = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    counted = np.isin(truth, table.id_of)
    assert metrics["pixel_accuracy"] == pytest.approx((truth == predicted)[counted].mean())
    for label_id, iou in zip(table.id_of, metrics["iou"], strict=True):
        union = ((truth == label_id) | (predicted == label_id)) & counted
        assert iou == (pytest.approx((truth == predicted)[union].mean()) if union.any() else None)
    assert metrics["miou"] == pytest.approx(np.mean([iou for iou in metrics["iou"] if iou is not None]))

    extremes = sorted(path.name for path in (folder / "extremes").iterdir())
    assert len(extremes) == len(labels) and (folder / "confusion.png").exists()

    counts = (folder / "images.npz").read_bytes()
    assert scripts("val", "whole", data_root, "val.boundary_iou=true", NPROC="2").status == 0
    assert (folder / "images.npz").read_bytes() == counts
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert sorted(path.name for path in (folder / "extremes").iterdir()) == extremes


def test_test_writes_label_images_under_the_official_names(scripts, data_root, trained):
    outcome = scripts("test", "whole", data_root)
    assert outcome.status == 0, outcome.stderr
    images = sorted((data_root / "test" / "image").iterdir())
    labels = sorted((trained.path / "test" / "label").iterdir())
    assert [path.name for path in labels] == [path.name for path in images] and len(images) == 2
    for path in labels:
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert label.shape == (64, 96) and label.dtype == np.uint8
        assert set(np.unique(label)) <= set(load_table("cityscapes").id_of.tolist())
    assert len(list((trained.path / "test" / "vis").iterdir())) == 2
    assert "miou" not in json.loads((trained.path / "test" / "metrics.json").read_text())


def test_two_processes_train_one_run(scripts, data_root, long_run):
    short = (*long_run, "train.max_iters=4", "val.interval=4", "train.batch_size=4", "train.micro_batch=1")
    outcome = scripts("train", "pair", data_root, *short, NPROC="2")
    assert outcome.status == 0 and outcome.stderr == "", outcome.stderr
    run = scripts.run("pair")
    assert [row["iter"] for row in run.rows] == [1, 2, 3, 4, 4]
    assert "2 x cpu" in (run.path / "log.txt").read_text()
    assert len(list(run.path.glob("events.*"))) == 1
    assert len(torch.load(run.checkpoint(), weights_only=True)["random"]) == 2


def test_the_published_name_runs_the_same_recipe_from_a_checkout_with_spaces_in_its_path(scripts, data_root):
    checkout = scripts.folder / "my checkout"
    checkout.symlink_to(Path(__file__).parents[1])
    published = "run_fs_res101_nonlocalnowd_ln_cityscapes_seg"
    words = ("train", "tag", data_root, "weights of mine.pth", "seed=7", "--print-config")
    ours, theirs = scripts(*words), scripts(*words, name=published, root=checkout)
    assert ours.status == theirs.status == 0, theirs.stderr
    assert ours.stdout == theirs.stdout
    found = yaml.safe_load(ours.stdout)
    assert found["data"]["root"] == str(data_root) and found["seed"] == 7
    assert found["pretrained"] == f"{scripts.folder}/weights of mine.pth"
    assert not scripts.run("tag").path.exists()
