"""Training: the story of a run from the first iteration to the last, with stops and resumes in between."""

import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.base.errors import UserError
from lib.base.processes import catch_signals
from lib.config import Config
from lib.engine.board import Board
from lib.engine.checkpoint import CheckpointFiles, random_state, restore_random_state
from lib.engine.compiler import require_compiler
from lib.engine.distribute import World, join_world, use_bfloat16
from lib.engine.ema import WeightAverage
from lib.engine.evaluate import Evaluator
from lib.engine.loader import eval_loader, first_at_hand, train_loader
from lib.engine.log import MetricsFile, Progress, log_to, logger, memory_gib
from lib.engine.norms import explain_single_values
from lib.engine.optimizer import build_optimizer, build_schedule
from lib.engine.restoring import optimizer_state, read_run
from lib.engine.runs import RunFolder
from lib.engine.step import Step, placed
from lib.engine.task import Task
from lib.weights.loading import start_from


def train(task: Task, config: Config, folder: RunFolder, note: str = "") -> None:
    """Train a new run, ``note`` in its log; what torchrun restarts goes on from the last checkpoint it left, if any."""
    with folder.claim(), join_world(config.device) as world:
        launches = [launch for launch in world.gather(os.environ.get("LAUNCH_ID")) if launch]
        # One process looks for all: to the others, the folder may already show what this one makes next.
        checkpoint = world.gather(folder.restart(launches) if world.is_main else None)[0]
        trainer = Trainer(task, config, folder, world, pretrained="" if checkpoint else config.pretrained)
        trainer.notes += [note] if note else []
        if checkpoint:
            trainer.restore(checkpoint)
        trainer.run(None if checkpoint else launches)


def resume(task: Task, config: Config, folder: RunFolder) -> None:
    """Continue a run, which is claimed, from its last checkpoint, or from ``checkpoint=FILE``."""
    path = folder.checkpoint(("latest",))
    with join_world(config.device) as world:
        trainer = Trainer(task, config, folder, world)
        trainer.restore(path)
        trainer.run()


class Trainer:
    """One run in one process: data, model, optimiser, and the files it leaves.

    Args:
        task: what is trained.
        config: read here and nowhere later: how it is trained.
        folder: of the run.
        world: the job's processes.
        pretrained: file of weights to start from, if any.

    Raises:
        UserError: from whichever part the user's configuration, data or files make impossible.
    """

    def __init__(self, task: Task, config: Config, folder: RunFolder, world: World, *, pretrained: str = ""):
        self.task, self.folder, self.world = task, folder, world
        self.settings = settings = config.train
        if any(other != settings for other in world.gather(settings)):
            raise UserError("the processes of this job differ in train.*: give every machine the same words")
        self.validation = config.val
        self.log_interval, self.save_interval = config.log.interval, config.checkpoint.interval
        if settings.compile:
            require_compiler()
        self.train_data = task.train_data()
        self.val_data = task.eval_data("val") if config.val.interval else None
        self.loss = task.loss(world).to(world.device)
        self.model = task.network()
        self.notes = []
        if pretrained:
            self.notes.append(start_from(self.model, pretrained, task.options))
        placed(self.model, world, settings)
        self.bfloat16 = use_bfloat16(settings.amp, world.device)
        self.average = WeightAverage(self.model, settings.ema) if settings.ema else None
        self.evaluator = Evaluator(task, self.average.network if self.average else self.model, world, settings)
        self.optimizer = build_optimizer(settings, self.model)
        self.schedule = build_schedule(settings, self.optimizer)
        loading = {
            "rank": world.rank,
            "world_size": world.size,
            "workers": config.data.workers,
            "pin_memory": world.device.type == "cuda",
        }
        self.batches_from = partial(
            train_loader,
            self.train_data,
            batch_size=settings.batch_size,
            micro_batch=settings.micro_batch,
            iterations=settings.max_iters,
            seed=config.seed,
            **loading,
        )
        self.val_batches = partial(eval_loader, self.val_data, **loading)
        self.checkpoints = CheckpointFiles(folder.checkpoints, config.checkpoint.keep)
        self.texts = {"config": folder.recorded, **task.texts}
        self.iteration = 0
        self.has_begun = False
        self.best_score = -1.0
        self.validation_is_due = False
        # Losses of the steps since the last row: still on the device, and already checked.
        self.unchecked: list[tuple[int, list[str], Tensor]] = []
        self.unlogged: list[list[float]] = []
        self.loss_names: list[str] = []
        torch.manual_seed(config.seed + 1 + world.rank)
        self.random_state = random_state(world.device)

    @property
    def _best_key(self) -> str:
        """What a checkpoint calls the best score so far: ``best_miou``, for one."""
        return f"best_{self.task.best}"

    def restore(self, path: Path) -> None:
        """Take everything from a checkpoint: the next iteration is the one that would have followed."""
        # Learning rates and the like follow the configuration, which the user may have changed.
        found = read_run(path, self.model, self.optimizer, self._best_key, self.task.compare)
        self.model.load_state_dict(found.model)
        if self.average:
            self.average.network.load_state_dict(found.average)
        self.iteration = found.iteration
        self.optimizer.load_state_dict(found.optimizer)
        self.schedule = build_schedule(self.settings, self.optimizer, self.iteration)
        self.best_score = found.best_score
        self.validation_is_due = found.validation_is_due
        self.unlogged, self.loss_names = found.unlogged, found.loss_names
        if self.world.rank < len(found.random):
            self.random_state = found.random[self.world.rank]
        self.notes.append(f"resumed from {path} at iteration {self.iteration}")

    def run(self, launches: Sequence[str] | None = None) -> None:
        """Train until ``train.max_iters``, or until a signal asks to stop; a checkpoint is left either way.

        Args:
            launches: of a new run, whose folder is yet to be made: ids of the job's launchers.
        """
        total, validation = self.settings.max_iters, self.validation
        with ExitStack() as stack:
            caught = stack.enter_context(catch_signals())
            stack.enter_context(self.world.stop_with_others(caught))
            loader = stack.enter_context(self.batches_from(start_iteration=self.iteration))
            batches = first_at_hand(loader, self.world)
            stack.enter_context(self._opened_folder(launches))
            self._open_outputs(stack)
            self._open_network()
            stack.enter_context(explain_single_values(self.model))
            # Setting up drew random numbers; the run's own stream starts, or goes on, here.
            restore_random_state(self.random_state, self.world.device)
            if self.iteration == 0 and validation.interval and validation.at_start:
                self.validation_is_due = True
            self.images_since, self.clock_since = 0, time.perf_counter()
            if self.validation_is_due:
                is_best = self._validate(caught)
                # After the last iteration no other checkpoint would tell that this is done.
                if is_best or (self.iteration == total and not self.validation_is_due):
                    self._save(is_best)
            while self.iteration < total and not self.world.any(bool(caught)):
                self._step(batches)
                self._settle()
                is_last, is_best = self.iteration == total, False
                if self.iteration % self.log_interval == 0 or is_last:
                    self._log()
                if validation.interval and (self.iteration % validation.interval == 0 or is_last):
                    # Saved first: a validation image that cannot be read must not cost what was learnt so far.
                    self.validation_is_due = True
                    self._save(is_best=False)
                    is_best = self._validate(caught)
                if self.iteration % self.save_interval == 0 or is_last or is_best:
                    self._save(is_best)
            if self.iteration < total or self.validation_is_due:
                self._save(is_best=False)
                logger.info(f"stopped at iteration {self.iteration}: checkpoint saved, resume continues from here")
                sys.exit(128 + (caught[0] if caught else signal.SIGTERM))
            logger.info(f"finished {total} iterations; the run is in {self.folder.path}")

    @contextmanager
    def _opened_folder(self, launches: Sequence[str] | None) -> Iterator[None]:
        """Make the folder of a new run, or record what a continued one uses now; and log there.

        A new run that fails before its first iteration is through leaves no folder.
        """
        folder, is_new = self.folder, launches is not None
        if not self.world.is_main:
            with log_to(None):
                yield
            return
        try:
            if is_new:
                folder.create(launches)
            elif self.iteration < self.settings.max_iters:
                folder.record(self.iteration)
            with log_to(folder.log):
                yield
        except Exception:
            if is_new and not self.has_begun:
                folder.withdraw()
            raise

    def _settle(self) -> None:
        """The run has begun: it has done an iteration, or has a checkpoint."""
        if not self.has_begun and self.world.is_main:
            self.folder.settle()
        self.has_begun = True

    def _open_outputs(self, stack: ExitStack) -> None:
        world = self.world
        self.progress = Progress(self.iteration, self.settings.max_iters, is_shown=world.is_main)
        stack.callback(self.progress.close)
        self.metrics = self.board = None
        if world.is_main:
            self.metrics = MetricsFile(self.folder.metrics, self.task.best)
            self.metrics.rewind(self.iteration, self.validation_is_due)
            self.board = Board(self.folder.path, first_iteration=self.iteration + 1)
            stack.callback(self.board.close)
        for note in self.notes:
            logger.info(note)
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        logger.info(
            f"{self.folder.recipe}: {parameters / 1e6:.1f} M parameters, {len(self.train_data)} training images, "
            f"{world.size} x {world.device.type}, {'bfloat16' if self.bfloat16 else 'float32'}"
        )

    def _open_network(self) -> None:
        self.step = Step(self.model, self.loss, self.optimizer, self.average, self.world, self.settings)

    def _step(self, batches: Iterator[dict]) -> None:
        """One optimiser step, and what is to be told of it."""
        done = self.step(batches, self.iteration + 1)
        self.lr = self.schedule.get_last_lr()[0]
        self.schedule.step()
        self.iteration += 1
        if done.names != self.loss_names:
            # What a resumed run has not logged yet is of other losses than the user asks for now.
            self.unlogged.clear()
        self.loss_names = done.names
        self.images_since += self.settings.batch_size
        self.unchecked.append((self.iteration, done.files, done.losses))
        self.progress.advance()
        # Looking at a loss waits for the device: on a GPU only before a row, a validation or a checkpoint.
        if self.world.device.type == "cpu":
            self._check_losses()

    def _check_losses(self) -> None:
        """Bring the losses of the steps since the last call to the host; raises UserError where one is not finite."""
        if not self.unchecked:
            return
        values = self.world.sum(torch.stack([losses for _, _, losses in self.unchecked])) / self.world.size
        for (iteration, files, _), losses in zip(self.unchecked, values.tolist(), strict=True):
            if not math.isfinite(losses[0]):
                names = [name for share in self.world.gather(files) for name in share]
                raise UserError(
                    f"the loss became {losses[0]} at iteration {iteration} with {', '.join(names)}: "
                    f"look at these files or lower train.lr; {self._last_checkpoint()}"
                )
            self.unlogged.append(losses)
        self.unchecked.clear()

    def _last_checkpoint(self) -> str:
        latest = self.folder.checkpoints / "latest.pth"
        return f"{latest} is from before" if latest.exists() else "no checkpoint was due before"

    def _log(self) -> None:
        """A row of ``metrics.jsonl``: the mean losses since the last row, and how fast it went."""
        self._check_losses()
        rate = self.images_since / (time.perf_counter() - self.clock_since)
        means = torch.tensor(self.unlogged, dtype=torch.float64).mean(0).tolist()
        self.unlogged.clear()
        batch_size = self.settings.batch_size
        row = {
            "iter": self.iteration,
            "epoch": round(self.iteration * batch_size / len(self.train_data), 4),
            **dict(zip(self.loss_names, means, strict=True)),
            "lr": self.lr,
            "images_per_s": round(rate, 3),
            "memory_gib": round(memory_gib(self.world.device), 3),
            "left_s": round((self.settings.max_iters - self.iteration) * batch_size / rate, 1),
        }
        if self.world.is_main:
            self.progress.show(row, self.loss_names[1:])
            self.metrics.append(row)
            named = {f"train/{name}": row[name] for name in (*self.loss_names, "lr", "images_per_s")}
            self.board.scalars(named, self.iteration)
        self.images_since, self.clock_since = 0, time.perf_counter()

    def _validate(self, caught: list[int]) -> bool:
        """Score the validation images; returns whether this is the best score so far."""
        self._check_losses()
        started = time.perf_counter()
        world = self.world
        pictures = []

        def keep_picture(meta: dict, image: Tensor, prediction: Any) -> None:
            if world.is_main and len(pictures) < self.validation.pictures:
                pictures.append((meta["name"], self.task.picture(image, prediction)))

        with self.val_batches() as loader:
            self.validation_is_due = not self.evaluator(loader, keep_picture, stop=caught)
        if self.validation_is_due:
            return False
        result = self.task.describe(self.evaluator.tally.scores())
        is_best = result.best > self.best_score
        self.best_score = max(self.best_score, result.best)
        if world.is_main:
            self.metrics.append({"iter": self.iteration, **result.row})
            self.board.scalars(result.curves, self.iteration)
            for name, picture in pictures:
                self.board.picture(f"val/{name}", picture, self.iteration)
        seconds = time.perf_counter() - started
        logger.info(
            f"iter {self.iteration}  val {result.headline}{' (best so far)' if is_best else ''}  "
            f"{result.details}  {len(self.val_data)} images in {seconds:.1f} s"
        )
        self.clock_since += seconds
        return is_best

    def _save(self, is_best: bool) -> None:
        """Write a checkpoint; every process takes part, the main one writes."""
        self._check_losses()
        started = time.perf_counter()
        random = self.world.gather(random_state(self.world.device))
        if self.world.is_main:
            state = {
                "model": self.model.state_dict(),
                "optimizer": optimizer_state(self.optimizer),
                "schedule": self.schedule.state_dict(),
                "iteration": self.iteration,
                **self.texts,
                "sampler": {"position": self.iteration * self.settings.batch_size},
                "random": random,
                self._best_key: self.best_score,
                "validation_is_due": self.validation_is_due,
                "unlogged": self.unlogged,
                "loss_names": self.loss_names,
            }
            if self.average:
                state["ema"] = self.average.network.state_dict()
            self.checkpoints.save(state, self.iteration, is_best)
        self._settle()
        self.world.wait()
        self.clock_since += time.perf_counter() - started
