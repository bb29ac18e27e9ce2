"""Options of networks, sizes that no machine holds and paths of any kind end in one line, or work."""

import os
import shutil
import subprocess
import sys
import time

import pytest
import torch

import main
from lib.base import memory
from lib.base.errors import UserError
from lib.models import BACKBONES, BLOCKS, HEADS, build_segmentor
from lib.models.options import option_types
from tests.conftest import FAST, RECIPE, ROOT

HOSTILE = (
    *(0, -1, 1, 10**9, 2**63, 2**70, 0.0, float("inf"), float("-inf"), float("nan"), 1e308, True, None),
    *("x", "", [], [1], [[1]], [0], [-1], [10**9], [True], {}, {"a": 1}, [1] * 1000),
)
PARTS = {
    "model.backbone": [{"name": name} for name in ("resnet18", "mobilenet_v2", "hrnet_w18")],
    "model.head": [{"name": name} for name in HEADS if name != "auxiliary"],
    "model.head.block": [{"name": name} for name in BLOCKS],
    "model.aux": [{"name": "auxiliary"}],
}


def build(path, options):
    """A network on the meta device, run once."""
    spec = {"backbone": {"name": "resnet18"}, "head": {"name": "fcn"}, "aux": None}
    if path == "model.head.block":
        spec["head"] = {"name": "nonlocal", "block": options}
    else:
        spec[path.removeprefix("model.")] = {"block": {"name": "unary"}, **options} if path == "model.head" else options
    with torch.device("meta"):
        network = build_segmentor(num_classes=19, **spec).requires_grad_(False)
        return network(torch.zeros(2, 3, 65, 97))["out"]


class TestOptions:
    @pytest.mark.parametrize("path, part", [(path, part) for path, parts in PARTS.items() for part in parts])
    def test_an_option_of_any_kind_is_taken_or_refused_by_its_name(self, path, part):
        registry = {"model.backbone": BACKBONES, "model.head.block": BLOCKS}.get(path, HEADS)
        options = [option for option in option_types(registry[part["name"]]) if option != "block"]
        for index, option in enumerate(options):
            for value in HOSTILE[index % 3 :: 3]:
                try:
                    logits = build(path, {**part, option: value})
                except UserError as error:
                    assert option in str(error) and str(error).isprintable()
                else:
                    assert logits.shape == (2, 19, 65, 97)

    @pytest.mark.parametrize(
        "path, options, words",
        [
            ("model.head.block", {"name": "disentangled", "embedding": 10**9}, "16384"),
            ("model.head.block", {"name": "disentangled", "temperature": float("inf")}, "is inf"),
            ("model.head.block", {"name": "spectral", "order": 10**6}, "from 1 to 64"),
            ("model.head.block", {"name": "unary", "dimensions": 3}, "images have 2"),
            ("model.head", {"name": "psp", "dropout": float("nan")}, "from 0 to 1"),
            ("model.head", {"name": "psp", "pyramid": [[1]]}, "whole number"),
            ("model.head", {"name": "fcn", "convs": 10**9}, "from 1 to 64"),
            ("model.aux", {"stage": 5}, "from 1 to 4"),
        ],
    )
    def test_numbers_beyond_sense_are_named(self, path, options, words):
        with pytest.raises(UserError, match=rf"{path}\.\w+ .*{words}"):
            build(path, options)


class TestMemory:
    @pytest.mark.parametrize(
        "error",
        [
            MemoryError(),
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            RuntimeError("Storage size calculation overflowed with sizes=[1, 2]"),
        ],
    )
    def test_a_machine_without_memory_left_says_so_in_one_line(self, command, monkeypatch, error):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr("lib.tasks.load", fail)
        assert "too little memory" in command("train").error and "train.micro_batch" in command("train").error

    def test_that_is_what_pytorch_says(self):
        with pytest.raises(RuntimeError) as caught:
            torch.empty(2**50)
        assert "too little memory" in memory.shortage(caught.value)
        assert memory.shortage(RuntimeError("another")) is None and memory.shortage(ValueError("x")) is None

    def test_any_other_error_has_its_traceback(self, monkeypatch):
        def fail(options):
            raise RuntimeError("a mistake of ours")

        monkeypatch.setattr(main, "parse", lambda words: (fail, type("Options", (), {"debug": False})))
        with pytest.raises(RuntimeError, match="a mistake of ours"):
            main.main()

    def test_a_batch_or_a_network_that_no_machine_holds_is_refused_before_anything_is_made(
        self, train, runs, monkeypatch
    ):
        monkeypatch.setattr(memory, "machine_bytes", lambda: 2**31)
        error = train("tag", "train.batch_size=60000", "data.crop_size=[769,769]").error
        assert "60000 crops of 769 x 769" in error and "GiB" in error and "train.batch_size" in error
        block = "model.head.block.options={embedding: 16384, output_conv: true}"
        error = train("tag", "model.head.options={inner: 16384, width: 8192}", block).error
        assert "million weights" in error and "embedding" in error
        assert not runs("tag").path.exists()


@pytest.mark.parametrize(
    "override, words",
    [
        ("train.lr=inf", "train.lr"),
        ("model.head.block.options.embedding=1000000000", "embedding"),
        ("data.dataset=../tables/camvid", "data.dataset"),
    ],
)
def test_the_program_ends_in_seconds_with_one_line_and_leaves_nothing(tmp_path, data_root, override, words):
    command = [sys.executable, ROOT / "main.py", "train", "--config", RECIPE, "tag=t", f"data.root={data_root}", *FAST]
    start = time.perf_counter()
    environment = os.environ | {"RUNS_DIR": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}
    outcome = subprocess.run([*command, override], env=environment, capture_output=True, text=True, timeout=60)
    assert time.perf_counter() - start < 30
    assert outcome.returncode == 2 and words in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1 and outcome.stderr.startswith("error: ")
    assert not any((tmp_path / "runs").rglob("*"))


@pytest.mark.parametrize(
    "name", ["a $x='\"\\ #:*~\nb\n", *(pytest.param(name, marks=pytest.mark.slow) for name in ("~", "-a", "a=b"))]
)
def test_data_in_a_folder_of_any_name_is_read(scripts, data_root, long_run, name):
    shutil.copytree(data_root, scripts.folder / name)
    (scripts.folder / name / "train" / "image").rename(scripts.folder / name / "train" / "images")
    # The mistake that shows the name to be what it is takes no training.
    outcome = scripts("train", "named", f"{name}///", *long_run)
    shown = f"{scripts.folder / name}".encode("unicode_escape").decode().replace("\\\\", "\\")
    assert f"{shown}/train/image is not a folder" in outcome.error


def test_data_in_a_folder_whose_name_looks_like_a_reference_is_refused(scripts, long_run):
    assert "data.root" in scripts("train", "named", "a${x}", *long_run).error
