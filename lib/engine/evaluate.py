"""Scoring a network on whole images, and the phases ``val`` and ``test`` that do it from a run's checkpoint."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datasets.seg.classes import load_table
from datasets.seg.dataset import EvalDataset, has_labels
from datasets.seg.loader import eval_loader
from lib.config import Config
from lib.engine.build import build_eval_dataset, build_model, build_predictor
from lib.engine.checkpoint import load_weights
from lib.engine.distribute import World, join_world, use_bfloat16
from lib.engine.infer import predict
from lib.engine.log import log_to, logger
from lib.engine.results import (
    ResultFiles,
    clear_extremes,
    extremes,
    write_extremes,
    write_facts,
    write_scores,
    zip_labels,
)
from lib.engine.runs import open_run
from lib.metrics import ConfusionMatrix
from lib.models import Segmentor
from lib.scores import Scores

Visitor = Callable[[dict[str, Any], Tensor, np.ndarray], None]
"""What to do with one result: its meta, the network's input [3, H, W], the predicted train ids uint8 [H, W]."""


class Evaluator:
    """Whole-image evaluation of one network, shared among the job's processes.

    Args:
        config: of the run.
        model: the network.
        world: the job's processes; each takes its share of the images and their counts are summed.

    Attributes:
        confusion: of the latest evaluation, over all processes once it is through.
        image_miou: of the latest evaluation, the mIoU of each image that this process evaluated, by its name.
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
        self.confusion, self.image_miou = ConfusionMatrix(len(self.table), device=device), {}
        was_training = self.model.training
        self.model.eval()
        for batch in batches:
            if stop:
                break
            image = batch["image"].to(device, non_blocking=True, memory_format=self.memory_format)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
                prediction = predict(self.infer(self.model, image))
            if "label" in batch:
                self._count(batch["meta"], prediction, batch["label"])
            for meta, pixels, train_ids in zip(batch["meta"], batch["image"], prediction.cpu().numpy(), strict=True):
                visit(meta, pixels, train_ids)
        self.model.train(was_training)
        if self.world.any(bool(stop)):
            return None
        self.world.sum(self.confusion.matrix)
        return self.confusion.scores()

    def _count(self, metas: list[dict[str, Any]], predictions: Tensor, labels: Tensor) -> None:
        for meta, prediction, label in zip(metas, predictions, labels, strict=True):
            counts = self.confusion.update(prediction, label)
            self.image_miou[meta["name"]] = Scores.of(counts.cpu().numpy()).miou


def val(recipe: str, overrides: list[str]) -> None:
    """Score a run on ``DATA_DIR/val``: a table on the screen; in ``val/`` the scores, label images and pictures."""
    _evaluate_split(recipe, overrides, "val")


def test(recipe: str, overrides: list[str]) -> None:
    """Predict ``DATA_DIR/test``: label images and overlays in ``test/``; scores too where the labels are there."""
    _evaluate_split(recipe, overrides, "test")


def _evaluate_split(recipe: str, overrides: list[str], split: str) -> None:
    config, run = open_run(recipe, overrides, needs_run=False)
    path = run.checkpoint(config, ("best", "latest"))
    folder = run.path / split
    with join_world(config.device) as world, log_to(run.log if world.is_main else None):
        labelled = split == "val" or has_labels(config.data.root, split)
        dataset = build_eval_dataset(config, split, labelled)
        model = build_model(config)
        iteration = load_weights(model, path)
        model.to(world.device)
        evaluator = Evaluator(config, model, world)
        logger.info(f"{split} of {path} (iteration {iteration}): {len(dataset)} images, mode {config.val.mode}")
        files = ResultFiles(folder, evaluator.table, config.data)
        with eval_loader(dataset, rank=world.rank, world_size=world.size, workers=config.data.workers) as batches:
            scores = evaluator(tqdm(batches, unit="image", disable=None if world.is_main else True), files)
        files.close()
        if labelled:
            _write_extremes(folder, evaluator, dataset, config)
        world.wait()
        if world.is_main:
            facts = {
                "checkpoint": str(path),
                "iter": iteration,
                "mode": config.val.mode,
                "protocol": asdict(evaluator.infer),
                "images": len(dataset),
            }
            _report(folder, facts, evaluator, scores if labelled else None)
            if config.val.zip:
                zip_labels(folder, [sample.name for sample in dataset.samples])


def _write_extremes(folder: Path, evaluator: Evaluator, dataset: EvalDataset, config: Config) -> None:
    """Show the worst and the best images of all processes; each process writes those that it evaluated."""
    world, own = evaluator.world, evaluator.image_miou
    everyones = {name: miou for part in world.gather(own) for name, miou in part.items()}
    if world.is_main:
        clear_extremes(folder)
    world.wait()
    chosen = extremes(everyones, config.val.extremes)
    mine = {name: file_name for name, file_name in chosen.items() if name in own}
    write_extremes(folder, mine, dataset, config.data)


def _report(folder: Path, facts: dict[str, Any], evaluator: Evaluator, scores: Scores | None) -> None:
    """Write the scores, if there are any, and tell them and where everything is."""
    if scores is None:
        write_facts(folder, facts)
    else:
        write_scores(folder, facts, scores, evaluator.confusion.matrix.cpu().numpy(), evaluator.table)
        logger.info("\n" + scores.table(evaluator.table.names))
    logger.info(f"labels, overlays and metrics.json are in {folder}")
