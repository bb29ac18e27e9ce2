"""Writing drawn scenes in the layout of the raw Cityscapes download."""

import signal
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from datasets.seg.street.scene import draw_scene
from lib.base.atomic import write_atomically
from lib.base.errors import UserError

SPLITS = ("train", "val", "test")
CITY = "toytown"


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write an image, making its folder; raises UserError if that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(cv2.imencode(".png", pixels)[1]))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def write_scene(job: tuple[str, int], dst: Path, size: tuple[int, int], seed: int) -> None:
    """Draw and write the scene that ``job`` (split, index) names; test images get no label, as in Cityscapes."""
    split, index = job
    image, label = draw_scene(np.random.default_rng([seed, SPLITS.index(split), index]), size)
    frame = f"{split}/{CITY}/{CITY}_{index:06d}_000019"
    if split != "test":
        write_png(dst / "gtFine" / f"{frame}_gtFine_labelIds.png", label)
    write_png(dst / "leftImg8bit" / f"{frame}_leftImg8bit.png", image)


def start_worker() -> None:
    """Leave Ctrl-C to the parent process and the cores to the other workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)


def write_dataset(dst: str | Path, counts: Mapping[str, int], size: tuple[int, int], seed: int, workers: int) -> None:
    """Draw a dataset: ``dst/leftImg8bit/<split>/...`` and, but for test, ``dst/gtFine/<split>/...``.

    A scene depends on nothing but seed, split, index and size.

    Args:
        dst: the folder to write to; made if need be, files of the same names are replaced.
        counts: number of scenes for each split ("train", "val", "test").
        size: (width, height) in pixels, at least 64 x 48.
        seed: any number from 0.
        workers: processes; 1 draws in this one.

    Raises UserError if the size is too small or a file cannot be written.
    """
    jobs = [(split, index) for split, count in counts.items() for index in range(count)]
    write = partial(write_scene, dst=Path(dst), size=size, seed=seed)
    progress = partial(tqdm, total=len(jobs), desc="street scenes", unit="scene", disable=None)
    if workers == 1:
        for _ in progress(map(write, jobs)):
            pass
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=start_worker)
    try:
        for _ in progress(pool.map(write, jobs, chunksize=4)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
