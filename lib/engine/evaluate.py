"""Scoring a network on whole images, and the phases ``val`` and ``test`` that do it from a run's checkpoint."""

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datasets.seg.classes import ClassTable, load_table
from datasets.seg.loader import eval_loader
from lib.atomic import write_atomically
from lib.config import Config
from lib.engine.build import build_eval_dataset, build_model, build_predictor
from lib.engine.checkpoint import load_weights
from lib.engine.distribute import World, join_world, use_bfloat16
from lib.engine.infer import predict
from lib.engine.log import log_to, logger
from lib.engine.runs import open_run
from lib.metrics import ConfusionMatrix, Scores
from lib.models import Segmentor
from lib.vis.overlay import denormalise, overlay, write_picture

Visitor = Callable[[dict[str, Any], Tensor, np.ndarray], None]
"""What to do with one result: its meta, the network's input [3, H, W], the predicted train ids uint8 [H, W]."""


class Evaluator:
    """Whole-image evaluation of one network, shared among the job's processes.

    Args:
        config: of the run.
        model: the network.
        world: the job's processes; each takes its share of the images and their counts are summed.
    """

    def __init__(self, config: Config, model: Segmentor, world: World):
        self.model, self.world = model, world
        self.table = load_table(config.data.dataset)
        self.infer = build_predictor(config)
        self.bfloat16 = use_bfloat16(config.train.amp, world.device)
        self.memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format

    @torch.inference_mode()
    def __call__(self, batches: Iterable[dict], visit: Visitor, stop: Sequence[int] = ()) -> Scores | None:
        """Predict every image and score those that have labels.

        Args:
            batches: of this process's ``eval_loader``.
            visit: called with each result.
            stop: evaluation breaks off as soon as this is not empty.

        Returns:
            The scores over all processes; None if it broke off.
        """
        device = self.world.device
        confusion = ConfusionMatrix(len(self.table), device=device)
        was_training = self.model.training
        self.model.eval()
        for batch in batches:
            if stop:
                break
            image = batch["image"].to(device, non_blocking=True, memory_format=self.memory_format)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
                prediction = predict(self.infer(self.model, image))
            if "label" in batch:
                confusion.update(prediction, batch["label"])
            for meta, pixels, train_ids in zip(batch["meta"], batch["image"], prediction.cpu().numpy(), strict=True):
                visit(meta, pixels, train_ids)
        self.model.train(was_training)
        if self.world.any(bool(stop)):
            return None
        self.world.sum(confusion.matrix)
        return confusion.scores()


class ResultFiles:
    """Writes ``label/<name>.png`` in the dataset's own ids and ``vis/<name>.jpg`` overlays while evaluation goes on."""

    def __init__(self, folder: Path, table: ClassTable, config: Config):
        self.folder, self.table, self.data = folder, table, config.data
        for name in ("label", "vis"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.pool = ThreadPoolExecutor(2)
        self.jobs = []

    def __call__(self, meta: dict[str, Any], image: Tensor, train_ids: np.ndarray) -> None:
        self.jobs.append(self.pool.submit(self._write, meta["name"], image, train_ids))
        # At most a few results wait in memory, and a failed write stops the run early.
        while len(self.jobs) > 8:
            self.jobs.pop(0).result()

    def _write(self, name: str, image: Tensor, train_ids: np.ndarray) -> None:
        write_picture(self.folder / "label" / f"{name}.png", self.table.id_of[train_ids])
        picture = denormalise(image, self.data.mean, self.data.std, self.data.color_order)
        write_picture(self.folder / "vis" / f"{name}.jpg", overlay(picture, train_ids, self.table.palette))

    def close(self) -> None:
        """Wait until everything is written; raises what went wrong."""
        self.pool.shutdown()
        for job in self.jobs:
            job.result()


def val(recipe: str, overrides: list[str]) -> None:
    """Score a run on ``DATA_DIR/val``: a table on the screen, ``val/metrics.json``, label images and overlays."""
    _evaluate_split(recipe, overrides, "val")


def test(recipe: str, overrides: list[str]) -> None:
    """Predict ``DATA_DIR/test``: label images and overlays in ``test/``; scores too where the labels are there."""
    _evaluate_split(recipe, overrides, "test")


def _evaluate_split(recipe: str, overrides: list[str], split: str) -> None:
    config, run = open_run(recipe, overrides, needs_run=False)
    path = run.checkpoint(config, ("best", "latest"))
    with join_world(config.device) as world, log_to(run.log if world.is_main else None):
        has_labels = split == "val" or (Path(config.data.root) / split / "label").is_dir()
        dataset = build_eval_dataset(config, split, has_labels)
        model = build_model(config)
        iteration = load_weights(model, path)
        model.to(world.device)
        evaluator = Evaluator(config, model, world)
        logger.info(f"{split} of {path} (iteration {iteration}): {len(dataset)} images, mode {config.val.mode}")
        files = ResultFiles(run.path / split, evaluator.table, config)
        with eval_loader(dataset, rank=world.rank, world_size=world.size, workers=config.data.workers) as batches:
            scores = evaluator(tqdm(batches, unit="image", disable=None if world.is_main else True), files)
        files.close()
        world.wait()
        if world.is_main:
            facts = {
                "checkpoint": str(path),
                "iter": iteration,
                "mode": config.val.mode,
                "images": len(dataset),
            }
            _report(run.path / split, facts, scores if has_labels else None, evaluator.table)


def _report(folder: Path, facts: dict[str, Any], scores: Scores | None, table: ClassTable) -> None:
    """Write ``metrics.json`` and tell the scores and where the pictures are."""
    if scores is not None:
        facts |= scores.as_dict() | {"classes": list(table.names)}
        logger.info("\n" + scores.table(table.names))
    write_atomically(folder / "metrics.json", lambda file: file.write(json.dumps(facts, indent=1).encode()))
    logger.info(f"labels, overlays and metrics.json are in {folder}")
