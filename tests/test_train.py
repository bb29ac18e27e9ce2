"""Training in this process: what may not change the result, and what one optimiser step is."""

import fcntl
import math

import pytest
import torch

from lib.engine.loader import train_loader
from lib.tasks import load_config, make_task


def test_the_number_of_workers_does_not_change_a_loss(train, runs):
    for workers in (0, 1, 2):
        assert train(f"workers{workers}", f"data.workers={workers}").status == 0
    first = runs("workers0").figures
    assert len(first) == 3
    assert runs("workers1").figures == first == runs("workers2").figures


def test_the_seed_changes_the_losses(train, runs):
    for seed in (0, 1):
        train(f"seed{seed}", f"seed={seed}", "train.max_iters=1")
    assert runs("seed0").figures != runs("seed1").figures


def test_bfloat16_trains_close_to_float32(train, runs):
    for name, amp in (("full", "false"), ("half", "true")):
        assert train(name, f"train.amp={amp}").status == 0
    assert "bfloat16" in (runs("half").path / "log.txt").read_text()
    full, half = ([row["loss"] for row in runs(name).rows] for name in ("full", "half"))
    assert full != half
    assert half == pytest.approx(full, rel=0.05)


def test_rows_average_the_iterations_since_the_last_one(train, runs):
    train("each")
    train("all", "log.interval=3")
    rows = runs("all").rows
    assert [row["iter"] for row in rows] == [3]
    assert rows[0]["loss"] == pytest.approx(sum(row["loss"] for row in runs("each").rows) / 3, rel=1e-6)


def test_accumulated_micro_batches_step_along_their_mean_gradient(train, runs):
    overrides = [
        *("train.micro_batch=1", "train.max_iters=1", "train.momentum=0", "train.weight_decay=0", "train.lr=0.5"),
        *(
            "loss.name=cross_entropy",
            "loss.class_weights=false",
            "train.channels_last=false",
            "model.head.dropout=0",
            "model.aux.dropout=0",
        ),
    ]
    assert train("parts", *overrides).status == 0
    after = torch.load(runs("parts").checkpoint(), weights_only=True)["model"]

    config = load_config(runs("parts").path / "config.yaml", [])
    model = make_task(config).network().train()
    loader = train_loader(make_task(config).train_data(), batch_size=2, iterations=1, seed=config.seed, workers=0)
    batch = next(iter(loader))
    for image, label in zip(batch["image"], batch["label"], strict=True):
        outputs = model(image[None])
        out, aux = (
            torch.nn.functional.cross_entropy(outputs[k], label[None], ignore_index=255) for k in ("out", "aux")
        )
        ((out + 0.4 * aux) / 2).backward()
    for name, parameter in model.named_parameters():
        error = after[name] - (parameter.detach() - 0.5 * parameter.grad)
        assert error.norm() <= 1e-3 * (0.5 * parameter.grad).norm() + 1e-6, name


def test_the_score_before_training_is_logged_on_demand(train, runs):
    train("start", "train.max_iters=1", "val.interval=5", "val.at_start=true")
    scores = [(row["iter"], row["miou"]) for row in runs("start").rows if "miou" in row]
    assert [iteration for iteration, _ in scores] == [0, 1]
    assert all(math.isfinite(miou) for _, miou in scores)


def test_resume_takes_a_learning_rate_from_the_command_line(train, runs, command):
    train("slower", "train.max_iters=2")
    assert command("resume", "tag=slower", "train.max_iters=4", "train.lr=0.0001").status == 0
    rates = [row["lr"] for row in runs("slower").rows]
    assert rates == pytest.approx([0.01, 0.01 * 0.5**0.9, 0.0001 * 0.5**0.9, 0.0001 * 0.25**0.9])


def test_a_validation_that_a_stop_broke_off_is_made_up_for(train, runs, command):
    assert train("tag", "val.interval=3").status == 0
    whole, latest = runs("tag").figures, runs("tag").checkpoint()
    state = torch.load(latest, weights_only=True)
    torch.save(state | {"validation_is_due": True, "best_miou": -1.0}, latest)
    assert command("resume", "tag=tag").status == 0
    assert runs("tag").figures == whole
    assert not torch.load(latest, weights_only=True)["validation_is_due"]


def test_a_validation_image_that_cannot_be_read_costs_no_progress(train, command, runs, data_copy):
    image = min((data_copy / "val" / "image").iterdir())
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    assert image.name in train("tag", "val.interval=2", data=data_copy).error
    assert torch.load(runs("tag").checkpoint(), weights_only=True)["iteration"] == 2
    image.write_bytes(whole)
    assert command("resume", "tag=tag", f"data.root={data_copy}").status == 0
    assert [row["iter"] for row in runs("tag").rows if "miou" in row] == [2, 3]


def test_two_processes_cannot_train_one_run(train, command, runs, data_root):
    assert train("tag").status == 0
    with (runs("tag").path.parent / ".tag.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another process" in command("resume", "tag=tag", f"data.root={data_root}", "train.max_iters=5").error
        assert "another process" in train("tag", "overwrite=true").error
    assert len(runs("tag").rows) == 3
    assert command("resume", "tag=tag", f"data.root={data_root}", "train.max_iters=5").status == 0
    assert len(runs("tag").rows) == 5


def test_a_run_resumed_to_validate_after_its_last_iteration_records_that_it_has(train, command, runs, data_root):
    assert train("tag", "train.max_iters=2", "val.interval=2").status == 0
    run, rows = runs("tag"), runs("tag").figures
    # As a run leaves it that is killed while it validates.
    state = torch.load(run.checkpoint(), weights_only=True)
    torch.save(state | {"validation_is_due": True}, run.checkpoint())
    assert command("resume", "tag=tag", f"data.root={data_root}").status == 0
    assert not torch.load(run.checkpoint(), weights_only=True)["validation_is_due"]
    assert run.figures == rows
