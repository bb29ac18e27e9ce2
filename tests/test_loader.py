"""The training stream, its division among processes and micro-batches, and the workers' life."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datasets.seg import files
from datasets.seg.augment import Augmentation
from datasets.seg.classes import load_table
from datasets.seg.dataset import EvalDataset, Pixels, TrainDataset, list_samples
from lib.base.errors import UserError
from lib.base.memory import shortage
from lib.engine.loader import Loader, TrainStream, eval_loader, train_loader

ROOT = Path(__file__).parents[1]
COUNT = 7
PIXELS = Pixels("bgr", (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A DATA_DIR of seven training images, PNG and JPEG by turns."""
    for i in range(COUNT):
        rng = np.random.default_rng(i)
        for folder, suffix, shape, ids in (
            ("image", (".png", ".jpg")[i % 2], (30, 40, 3), 256),
            ("label", ".png", (30, 40), 34),
        ):
            (tmp_path / "train" / folder).mkdir(parents=True, exist_ok=True)
            path = tmp_path / "train" / folder / f"{i}{suffix}"
            cv2.imwrite(str(path), rng.integers(0, ids, shape, dtype=np.uint8))
    return tmp_path


def training(root: Path, **options) -> Loader:
    table = load_table("cityscapes")
    dataset = TrainDataset(list_samples(root, "train"), table, PIXELS, Augmentation(crop_size=(32, 24)), seed=3)
    return train_loader(dataset, **({"batch_size": 4, "iterations": 5, "seed": 3, "workers": 0} | options))


def evaluation(root: Path, **options) -> Loader:
    dataset = EvalDataset(list_samples(root, "train"), load_table("cityscapes"), PIXELS)
    return eval_loader(dataset, **({"workers": 0} | options))


def stream(**options) -> list[list[tuple[int, int]]]:
    """The micro-batches of a stream."""
    return list(TrainStream(COUNT, **({"batch_size": 4, "iterations": 21, "seed": 0} | options)))


def flat(batches: list[list[tuple[int, int]]]) -> list[tuple[int, int]]:
    return [key for batch in batches for key in batch]


# The stream


def test_stream_shows_every_sample_once_an_epoch_and_crosses_epoch_borders_without_dropping_any() -> None:
    keys = flat(stream())
    assert keys == sorted(keys, key=lambda key: key[0])
    assert Counter(keys) == Counter((epoch, index) for epoch in range(12) for index in range(COUNT))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    keys, other = flat(stream()), flat(stream(seed=1))
    orders = [tuple(index for epoch, index in keys if epoch == wanted) for wanted in range(12)]
    assert len(set(orders)) == 12
    assert keys != other and sorted(keys) == sorted(other)


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 0), (1, 1), (2, 0), (2, 1), (4, 1), (1, 2)])
def test_processes_and_micro_batches_divide_an_iteration_without_changing_it(world_size: int, micro_batch: int) -> None:
    whole = stream()
    parts = [stream(rank=rank, world_size=world_size, micro_batch=micro_batch) for rank in range(world_size)]
    per_iteration = len(parts[0]) // len(whole)
    for i, batch in enumerate(whole):
        shares = [flat(part[i * per_iteration : (i + 1) * per_iteration]) for part in parts]
        assert flat(shares) == batch
        assert {len(share) for share in shares} == {4 // world_size}
    assert {len(batch) for part in parts for batch in part} == {micro_batch or 4 // world_size}


def test_stream_resumes_at_any_iteration_and_knows_its_length() -> None:
    for start in (0, 1, 9, 21, 30):
        resumed = TrainStream(COUNT, batch_size=4, micro_batch=2, start_iteration=start, iterations=21, seed=0)
        assert list(resumed) == stream(micro_batch=2)[2 * start :]
        assert len(resumed) == len(list(resumed))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 4, "world_size": 3}, "batch size 4 cannot be shared evenly by 3 processes"),
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": 8, "world_size": 2, "micro_batch": 3}, "micro-batch 3 does not divide the 4 images"),
        ({"batch_size": 4, "micro_batch": 8}, "micro-batch 8"),
        ({"batch_size": 4, "micro_batch": -1}, "micro-batch -1"),
    ],
)
def test_uneven_division_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainStream(COUNT, iterations=1, seed=0, **options)


# Batches


def test_batch_has_the_contracted_form(root: Path) -> None:
    loader = training(root)
    batches = list(loader)
    assert len(loader) == len(batches) == 5
    for batch in batches:
        assert (batch["image"].shape, batch["image"].dtype) == ((4, 3, 24, 32), torch.float32)
        assert (batch["label"].shape, batch["label"].dtype) == ((4, 24, 32), torch.int64)
        assert [meta["size"] for meta in batch["meta"]] == [(30, 40)] * 4


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers_or_on_a_resume(root: Path, workers: int) -> None:
    expected = list(training(root))
    with training(root, workers=workers, start_iteration=2) as loader:
        resumed = list(loader)
    assert len(resumed) == 3
    for ours, reference in zip(resumed, expected[2:], strict=True):
        assert torch.equal(ours["image"], reference["image"]) and torch.equal(ours["label"], reference["label"])
        assert ours["meta"] == reference["meta"]


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_evaluation_shares_are_disjoint_and_complete(root: Path, world_size: int) -> None:
    names = []
    for rank in range(world_size):
        loader = evaluation(root, rank=rank, world_size=world_size)
        batches = list(loader)
        assert len(batches) == len(loader)
        assert all(batch["image"].shape == (1, 3, 30, 40) for batch in batches)
        names += [meta["name"] for batch in batches for meta in batch["meta"]]
    assert sorted(names) == [str(i) for i in range(COUNT)]


# Workers


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["4.png", "5.jpg"])
@pytest.mark.parametrize("make", [training, evaluation])
def test_truncated_image_is_named_in_one_line_whichever_worker_meets_it(root: Path, workers, name, make) -> None:
    path = root / "train" / "image" / name
    path.write_bytes(path.read_bytes()[:-30])
    with make(root, workers=workers) as loader, pytest.raises(UserError) as caught:
        list(loader)
    assert re.fullmatch(f"{re.escape(str(path))} is truncated: [^\n]*", str(caught.value))


def opencv_without_memory(*_):
    error = cv2.error("Failed to allocate 1200000000 bytes")
    error.code, error.err = cv2.Error.StsNoMem, "Failed to allocate 1200000000 bytes"
    raise error


def numpy_without_memory(*_):
    raise MemoryError


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "place, failure, words",
    [
        ("cv2.imdecode", opencv_without_memory, "needs more memory than this machine has left to decode: lower"),
        ("datasets.seg.dataset._image_part", numpy_without_memory, "this machine has too little memory: lower"),
        ("datasets.seg.jpeg._decode", numpy_without_memory, "needs more memory than this machine has left"),
    ],
)
def test_a_shortage_of_memory_names_the_file_and_what_to_lower(root, monkeypatch, workers, place, failure, words):
    for path in (root / "train" / "image").glob("*.png"):
        cv2.imwrite(str(path.with_suffix(".jpg")), cv2.imread(str(path)))
        path.unlink()
    files.KNOWN_WHOLE.clear()
    monkeypatch.setattr(place, failure)
    with training(root, workers=workers) as loader, pytest.raises(UserError, match=words) as caught:
        next(iter(loader))
    assert str(caught.value).startswith(f"{root}/train/image/") and "\n" not in str(caught.value)


def test_an_error_of_the_system_in_a_worker_is_one_line(root, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error", "x.png")

    monkeypatch.setattr("datasets.seg.dataset.open_pair", fail)
    with training(root, workers=1) as loader, pytest.raises(UserError, match=r"Input/output error: 'x\.png'"):
        next(iter(loader))


def test_shared_memory_that_is_full_is_one_line(root, monkeypatch):
    def fail(*_):
        raise RuntimeError("unable to write to file </torch_123_456_0>: No space left on device (28)")

    monkeypatch.setattr("lib.engine.loader.default_collate", fail)
    with training(root, workers=1) as loader, pytest.raises(UserError, match=r"No space left.*/dev/shm"):
        next(iter(loader))


def worker_ids() -> set[int]:
    """Process ids of the children of this process that are alive."""
    ids = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z":
            ids.add(int(path.parent.name))
    return ids


def test_close_stops_the_workers_in_mid_run_and_the_loader_can_start_again(root: Path) -> None:
    before = worker_ids()
    loader = training(root, workers=2)
    first = next(iter(loader))
    assert len(worker_ids() - before) == 2
    loader.close()
    assert not worker_ids() - before
    assert torch.equal(next(iter(loader))["image"], first["image"])
    loader.close()
    assert not worker_ids() - before


@pytest.mark.parametrize("seconds", [0, 0.3])
def test_a_worker_that_was_killed_is_one_line(root: Path, seconds: float) -> None:
    before = worker_ids()
    with training(root, workers=1, iterations=500) as loader:
        batches = iter(loader)
        next(batches)
        (worker,) = worker_ids() - before
        os.kill(worker, signal.SIGKILL)
        with pytest.raises((RuntimeError, UserError)) as error:
            time.sleep(seconds)
            for _ in batches:
                pass
    assert "lower data.workers" in (shortage(error.value) or str(error.value))


def test_workers_leave_ctrl_c_and_sigterm_to_the_main_process(root: Path) -> None:
    before = worker_ids()
    with training(root, workers=2, iterations=30) as loader:
        batches = iter(loader)
        for _ in range(2):  # one of each worker, so that both have started
            next(batches)
        for pid in worker_ids() - before:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        assert len(list(batches)) == 28


def test_evaluation_workers_serve_every_validation(root: Path) -> None:
    before = worker_ids()
    with evaluation(root, workers=2) as loader:
        assert len(list(loader)) == COUNT
        first = worker_ids() - before
        assert len(list(loader)) == COUNT
        assert worker_ids() - before == first


def test_program_that_ends_without_closing_its_loader_ends_at_once(root: Path) -> None:
    program = f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(ROOT / "tests")!r})
        from test_loader import training
        batches = iter(training(Path({str(root)!r}), workers=2, iterations=1000))
        next(batches)
        sys.exit(7)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, timeout=60, capture_output=True)
    assert ended.returncode == 7, ended.stderr.decode()
