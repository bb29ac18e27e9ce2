"""Crops and batches too small for a batch norm's statistics are named; others, however small, train."""

import pytest

BACKBONE = ("model.backbone.name=mobilenet_v2", "train.max_iters=1")


@pytest.mark.parametrize(
    "head, words",
    [
        ("psp", ["data.crop_size=[64,48]", "train.batch_size=1"]),
        ("psp", ["data.crop_size=[64,48]", "train.batch_size=2", "train.micro_batch=1"]),
        ("fcn", ["data.crop_size=[1,1]", "train.batch_size=1"]),
    ],
)
def test_one_value_per_channel_is_named_with_its_remedy(train, runs, head, words):
    error = train("lonely", *BACKBONE, f"model.head.name={head}", *words).error
    where = "head.levels.0" if head == "psp" else "backbone."
    assert f"batch norm {where}" in error and "train.micro_batch" in error and "data.crop_size" in error
    assert not runs("lonely").path.exists()


@pytest.mark.parametrize("crop", ["[1,1]", "[3,2]", "[1,70]"])
def test_a_crop_of_a_few_pixels_trains(train, runs, crop):
    words = ("train.batch_size=2", f"data.crop_size={crop}", "model.head.name=fcn", "loss.ohem_min_kept=1")
    outcome = train("tiny", *BACKBONE, *words)
    assert (outcome.status, outcome.stderr) == (0, "")
