"""``main.py benchmark`` measures the step that training takes, and says what it measured on."""

import itertools
import json

import pytest
import torch
from conftest import FAST
from torch import nn

from datasets.seg.classes import load_table
from datasets.seg.dataset import list_samples, open_pair
from datasets.seg.made import write_random
from lib.config import TrainConfig
from lib.engine import benchmark
from lib.engine.distribute import World
from lib.engine.step import Step

CPU = World(0, 1, torch.device("cpu"))
TINY = (*FAST, "data.crop_size=[64,64]", "data.workers=0", "val.stride=0.5")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(benchmark, "MATRICES", {"cpu": 64})


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_the_operations_of_a_step_are_those_counted_by_hand(micro_batch):
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1, stride=2)
    network = nn.Sequential(first, nn.ReLU(), second)

    def loss(outputs, label):
        return {"loss": outputs.square().mean()}

    settings = TrainConfig(batch_size=2, micro_batch=micro_batch, amp="false")
    step = Step(network, loss, torch.optim.SGD(network.parameters(), lr=0.1), None, CPU, settings)
    images = micro_batch or 2
    batch = {"image": torch.randn(images, 3, 12, 20), "label": torch.zeros(images, 12, 20), "meta": []}
    # Forward and the weights' gradients; the gradient of the images themselves is nobody's.
    of_first = 2 * (2 * 2 * 12 * 20 * 8 * 3 * 3 * 3)
    of_second = 3 * (2 * 2 * 6 * 10 * 5 * 8)
    assert benchmark.step_flops(step, itertools.repeat(batch)) == of_first + of_second


def test_a_recipe_without_data_is_measured_on_made_images(command, tmp_path, runs):
    file = tmp_path / "figures.json"
    outcome = command("benchmark", *TINY, "--seconds", "0.01", "--json", str(file))
    assert outcome.status == 0, outcome.stderr
    header, rule, row = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in outcome.stdout.splitlines()[:3]
    )
    assert len(header) == len(rule) == len(row) and row[0] == "cityscapes/dnl_r101"
    shown, content = dict(zip(header, row, strict=True)), json.loads(file.read_text())
    figures = content["figures"]
    assert shown["crop, batch"] == "64 x 64, 2" and shown["of"] == "96 x 96" and "random images" in content["data"]
    assert (
        shown["precision"] == "float32, channels_last" and "PyTorch" in shown["versions"] and "core" in shown["machine"]
    )
    assert all(value > 0 for value in figures.values() if isinstance(value, float))
    achieved = figures["gflops_per_image"] * figures["training_images_per_s_without_data"]
    assert figures["tflops_per_s"] == pytest.approx(achieved / 1000)
    assert figures["share_of_matmul"] == pytest.approx(figures["tflops_per_s"] / figures["matmul_tflops_per_s"])
    assert not (tmp_path / "runs").exists()


def test_data_that_is_there_is_what_is_measured(command, data_root):
    outcome = command("benchmark", *TINY, f"data.root={data_root}", "train.ema=0.9", "--seconds", "0.01")
    assert outcome.status == 0, outcome.stderr
    assert "its own data" in outcome.stdout and "| 96 x 64 |" in outcome.stdout


def test_made_data_is_read_as_any_other(tmp_path):
    table = load_table("camvid")
    write_random(tmp_path, table, (150, 70), {"train": 2, "val": 1})
    samples = list_samples(tmp_path, "train")
    assert len(samples) == 2 and len(list_samples(tmp_path, "val")) == 1
    for sample in samples:
        image, label = open_pair(sample)
        assert image.size == (70, 150) and set(label.decode().flat) <= set(table.id_of.tolist())


def test_turns_are_taken_at_least_twice_and_at_most_as_often_as_told():
    calls = []
    benchmark.turns(lambda: calls.append(1), CPU.device, 0)
    assert len(calls) == 2
    benchmark.turns(lambda: calls.append(1), CPU.device, 60, most=1)
    assert len(calls) == 3


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--seconds", "0"], "--seconds 0 has to be above 0 and at most 3600"),
        (["--json", "no/such/folder/file"], "cannot write no/such/folder/file: no/such/folder is not a folder"),
        (["data.root=no such folder"], "DATA_DIR no such folder is not a folder or .zip file"),
        (["data.dataset=auto"], "data.dataset=auto looks for the class table in DATA_DIR"),
        (["data.crop_size=[16384,16384]", "train.batch_size=65536"], "lower train.micro_batch, train.batch_size"),
    ],
)
def test_a_mistake_is_one_line(command, words, expected, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "datasets.seg.made.write_random", lambda *rest: write_random(rest[0], rest[1], (64, 64), rest[3])
    )
    assert expected in command("benchmark", *TINY, *words).error


def test_several_processes_are_not_measured(command, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    assert "start it with python, not with torchrun" in command("benchmark", *TINY).error
