"""Shared fixtures: a tiny prepared dataset, a run trained by the script, and ways to run the program."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import main
from datasets.seg.street import write_dataset
from lib.engine.checkpoint import CheckpointFiles
from lib.engine.evaluate import evaluate
from lib.engine.runs import RunFolder
from lib.tasks import load_config, make_task

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs" / "seg" / "cityscapes" / "dnl_r101.yaml"
FAST = (
    "device=cpu",
    "model.backbone.name=resnet18",
    "model.backbone.output_stride=32",
    "data.crop_size=[64,48]",
    "data.workers=1",
    "loss.ohem_min_kept=500",
    "train.amp=false",
    "train.batch_size=2",
    "log.interval=1",
)
"""Overrides that make the published recipe run in seconds."""
SMALL = (
    *FAST,
    "model.backbone.name=mobilenet_v2",
    "model.head.options={inner: 32, width: 32}",
    "model.aux.enabled=false",
)
"""The same of a network of 8 MB."""


@dataclass(frozen=True)
class Run:
    """A run folder as a user finds it."""

    path: Path

    @property
    def rows(self) -> list[dict]:
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    @property
    def figures(self) -> list[tuple]:
        """What must not depend on interruptions: iteration, losses and scores of every row, in order."""
        return [tuple(row.get(key) for key in ("iter", "loss", "out", "aux", "lr", "miou", "iou")) for row in self.rows]

    def checkpoint(self, name: str = "latest") -> Path:
        return self.path / "checkpoints" / f"{name}.pth"


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit status and everything it said."""

    status: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line of a user's mistake; fails the test where the command ended in any other way."""
        lines = self.stderr.splitlines()
        assert self.status == 2, f"exit status {self.status}: {self.stderr}"
        assert len(lines) == 1 and lines[0].startswith("error: "), f"not one line of error: {self.stderr}"
        return lines[0]


class Scripts:
    """Runs the recipe scripts as a user does, from a working directory that is not the repository."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.runs = folder / "all runs"
        self.environment = os.environ | {"RUNS_DIR": str(self.runs), "OMP_NUM_THREADS": "1", "VENV": sys.prefix}

    def start(
        self, mode: str, *words: str, name: str = "run_dnl", root: Path = ROOT, **environment
    ) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", str(root / "scripts" / "seg" / "cityscapes" / f"{name}.sh"), mode, *map(str, words)],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, mode: str, *words: str, **options) -> Outcome:
        process = self.start(mode, *words, **options)
        stdout, stderr = process.communicate(timeout=600)
        return Outcome(process.returncode, stdout, stderr)

    def run(self, tag: str) -> Run:
        return Run(self.runs / "seg" / "cityscapes" / "dnl_r101" / tag)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    """DATA_DIR of a few drawn scenes of 96 x 64, written by the preprocessing command."""
    folder = tmp_path_factory.mktemp("street scenes")
    write_dataset(folder / "raw", {"train": 6, "val": 3, "test": 2}, (96, 64), seed=0, workers=1)
    command = ["datasets.seg.preprocess.cityscapes", "--src", folder / "raw", "--dst", folder / "prepared data"]
    subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True, capture_output=True)
    return folder / "prepared data"


@pytest.fixture
def data_copy(data_root, tmp_path) -> Path:
    """A DATA_DIR that the test may damage."""
    return shutil.copytree(data_root, tmp_path / "data")


@pytest.fixture(scope="session")
def scripts(tmp_path_factory) -> Iterator[Scripts]:
    folder = tmp_path_factory.mktemp("working directory")
    yield Scripts(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def long_run() -> tuple[str, ...]:
    """Overrides of a run that lasts long enough to be interrupted."""
    return (*FAST, "train.max_iters=24", "val.interval=12", "checkpoint.interval=6")


@pytest.fixture(scope="session")
def trained(scripts, data_root, long_run) -> Run:
    """A run that the script trained to its end without interruption."""
    outcome = scripts("train", "whole", data_root, *long_run)
    assert outcome.status == 0, outcome.stderr
    return scripts.run("whole")


@pytest.fixture(scope="session")
def scored(tmp_path_factory, data_root) -> Iterator[Path]:
    """A run folder that ``val`` scored: of random weights, of which it keeps an average that is another network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNS_DIR", str(tmp_path_factory.mktemp("runs")))
        words = [*SMALL, "tag=tiny", "val.mode=ss", "data.workers=0", f"data.root={data_root}", "train.ema=0.9"]
        task, folder = make_task(config := load_config(RECIPE, words)), RunFolder(config)
        folder.create()
        state = {"model": task.network().state_dict(), "iteration": 3, "config": folder.recorded, **task.texts}
        average = make_task(load_config(RECIPE, [*words, "seed=1"])).network()
        # With the statistics of some input, random weights see more than one class.
        for norm in (module for module in average.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.momentum = None
        with torch.no_grad():
            average(torch.randn(2, 3, 96, 96))
        state["ema"] = average.state_dict()
        CheckpointFiles(folder.checkpoints, keep=1).save(state, 3, is_best=True)
        evaluate(task, config, folder, "val")
        yield folder.path
    shutil.rmtree(folder.path)


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Iterator[Callable[[str], Run]]:
    """RUNS_DIR of one test, as a function from a tag of the Cityscapes recipe to its run."""
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "runs"))
    yield lambda tag: Run(tmp_path / "runs" / "seg" / "cityscapes" / "dnl_r101" / tag)
    # A checkpoint is 120 MB, and pytest keeps the folders of several sessions.
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


@pytest.fixture
def command(monkeypatch, capfd) -> Callable[..., Outcome]:
    """``main.py`` in this process: command(phase, *words, config=FILE)."""

    def call(phase: str, *words: str, config: str | Path = RECIPE) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["main.py", phase, "--config", str(config), *map(str, words)])
        capfd.readouterr()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                status = main.main()
            except SystemExit as end:
                status = end.code
        stdout, stderr = capfd.readouterr()
        # pytest would hide them, but a user sees warnings on stderr.
        return Outcome(status, stdout, stderr + "".join(f"{warning.message}\n" for warning in caught))

    return call


@pytest.fixture
def train(command, data_root) -> Callable[..., Outcome]:
    """A short training in this process: train(tag, *overrides, data=DATA_DIR)."""

    def call(tag: str, *overrides: str, data: Path = data_root) -> Outcome:
        short = ("train.max_iters=3", "val.interval=0", "checkpoint.interval=100")
        return command("train", f"tag={tag}", f"data.root={data}", *FAST, *short, *overrides)

    return call


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """A run folder with a network of random weights."""
    root = tmp_path_factory.mktemp("runs")
    from lib.engine.checkpoint import CheckpointFiles
    from lib.engine.runs import RunFolder
    from lib.tasks import load_config, make_task

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNS_DIR", str(root))
        config = load_config(RECIPE, [*FAST, "model.head.name=fcn", "model.head.options={width: 8}", "tag=tiny"])
        task, folder = make_task(config), RunFolder(config)
        folder.create()
    state = {"model": task.network().state_dict(), "iteration": 3, "config": folder.recorded, **task.texts}
    CheckpointFiles(folder.checkpoints, keep=1).save(state, 3, is_best=True)
    return folder.path


@pytest.fixture
def predict(network, tmp_path, monkeypatch, capfd):
    """``main.py predict RUN ...`` in this process, with what it writes in ``out``."""

    def call(*words, out=tmp_path / "out"):
        command = ["main.py", "predict", network, *words, "--out", out]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        capfd.readouterr()
        try:
            status = main.main()
        except SystemExit as end:
            status = end.code
        return Outcome(status, *capfd.readouterr())

    return call


@pytest.fixture
def pictures(tmp_path):
    """A folder of five pictures, one of another size, one in a sub-folder."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for name, size in {"a": (48, 64), "b": (48, 64), "c": (50, 71), "d": (48, 64), "sub/a": (33, 20)}.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)
        cv2.imwrite(str(path), cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC))
    return folder
