"""Scoring a network on whole images, while training and, for ``val`` and ``test``, from a run's checkpoint."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib.config import Config, TrainConfig
from lib.engine.distribute import World, join_world, use_bfloat16
from lib.engine.loader import eval_loader, first_at_hand
from lib.engine.log import log_to, logger
from lib.engine.runs import RunFolder
from lib.engine.task import Tally, Task
from lib.weights.loading import fill, read_network, texts_of

Visitor = Callable[[dict[str, Any], Tensor, np.ndarray], None]
"""What to do with one result: its meta, the network's input [C, H, W], the prediction."""


class Evaluator:
    """Evaluation of one network on single images, shared among the job's processes.

    Args:
        task: whose predictions and scores.
        network: to evaluate.
        world: the job's processes; each takes its share of the images and their counts are summed.
        settings: precision and memory format of the training hold for the evaluation too.
        in_full: whether to count what a report tells and training does not.

    Attributes:
        tally: of the latest evaluation, over all processes once it is through.
    """

    def __init__(
        self, task: Task, network: nn.Module, world: World, settings: TrainConfig, *, in_full: bool = False
    ) -> None:
        self.task, self.network, self.world, self.in_full = task, network, world, in_full
        self.bfloat16 = use_bfloat16(settings.amp, world.device)
        self.memory_format = memory_format(settings)
        self.tally: Tally

    @torch.inference_mode()
    def __call__(self, batches: Iterable[dict], visit: Visitor, stop: Sequence[int] = ()) -> bool:
        """Predict every image and count those that have labels.

        Args:
            batches: of this process's ``eval_loader``.
            visit: called with each result.
            stop: evaluation breaks off as soon as this is not empty.

        Returns:
            Whether it came to its end.
        """
        device = self.world.device
        self.tally = self.task.tally(device, self.in_full)
        was_training = self.network.training
        self.network.eval()
        for batch in batches:
            if stop:
                break
            image = batch["image"].to(device, non_blocking=True, memory_format=self.memory_format)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
                predictions = self.task.predict(self.network, image)
            self.tally.add(batch, predictions)
            for result in zip(batch["meta"], batch["image"], predictions.cpu().numpy(), strict=True):
                visit(*result)
        self.network.train(was_training)
        if self.world.any(bool(stop)):
            return False
        self.tally.sum(self.world)
        return True


def memory_format(settings: TrainConfig) -> torch.memory_format:
    """How feature maps, and the weights that meet them, lie in memory."""
    return torch.channels_last if settings.channels_last else torch.contiguous_format


def evaluate(task: Task, config: Config, run: RunFolder, split: str) -> None:
    """Predict the images of ``split`` by the run's best checkpoint, or ``checkpoint=FILE``, into the run's folder.

    Where the images have labels, scores are written and told too.
    """
    path = run.checkpoint(("best", "latest"))
    folder = run.path / split
    with join_world(config.device) as world, ExitStack() as stack:
        content = read_network(path)
        texts, notes = texts_of(content), []
        if note := task.compare(texts, path):
            notes.append(note)
        task.adopt(texts, path)
        data = task.eval_data(split)
        network = task.network()
        iteration = fill(network, content, path, task.options, notes.append)
        del content
        network.to(world.device, memory_format=memory_format(config.train))
        evaluator = Evaluator(task, network, world, config.train, in_full=True)
        loading = {"rank": world.rank, "world_size": world.size, "workers": config.data.workers}
        loader = stack.enter_context(eval_loader(data, **loading))
        batches = first_at_hand(loader, world)
        # Nothing is written before that: a mistake leaves no folder.
        stack.enter_context(log_to(run.log if world.is_main else None))
        notes.append(f"{split} of {path} (iteration {iteration}): {len(data)} images, mode {task.protocol['mode']}")
        for note in notes:
            logger.info(note)
        results = task.results(folder)
        evaluator(tqdm(batches, unit="image", total=len(loader), disable=None if world.is_main else True), results)
        results.close()
        facts = {"checkpoint": str(path), "iter": iteration}
        table = task.report(folder, data, evaluator.tally, facts, world)
        if world.is_main:
            if table:
                logger.info("\n" + table)
            logger.info(f"labels, overlays and metrics.json are in {folder}")
