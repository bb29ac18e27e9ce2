"""How fast this machine trains and predicts, measured on the parts that training and validation themselves use."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lib.base.machine import peak_bytes
from lib.config import Config
from lib.engine.compiler import require_compiler
from lib.engine.distribute import World
from lib.engine.ema import WeightAverage
from lib.engine.evaluate import Evaluator
from lib.engine.loader import eval_loader, train_loader
from lib.engine.optimizer import build_optimizer
from lib.engine.step import Step, placed
from lib.engine.task import Task

PREFETCHED = 2
"""Batches that each worker of a loader keeps ready."""
LEAST_TURNS = 2
"""Of whatever is timed."""
SYNCHRONISED = 10
"""Turns after which a GPU is waited for: the default of ``log.interval``."""
MATRICES = {"cuda": 8192, "cpu": 2048}
"""Sides of the square matrices whose product is the machine's peak."""


@dataclass(frozen=True)
class TrainingFigures:
    """What training costs.

    Attributes:
        first_iteration_s: from the program's start to the end of the first step, in seconds.
        images_per_s: with images read and augmented as in training.
        images_per_s_without_data: the same batch again and again.
        peak_bytes: of memory, while training: of the GPU's allocator, or of this process (not its workers) on a CPU.
        flops_per_image: floating-point operations of convolutions and matrix products, forward and backward; a
            multiplication and an addition are two.
        bfloat16: whether the network ran in bfloat16.
    """

    first_iteration_s: float
    images_per_s: float
    images_per_s_without_data: float
    peak_bytes: int
    flops_per_image: float
    bfloat16: bool

    @property
    def flops_per_s(self) -> float:
        """What the device achieves, data aside."""
        return self.flops_per_image * self.images_per_s_without_data


def measure_training(
    task: Task, config: Config, world: World, seconds: float, began: float
) -> tuple[TrainingFigures, nn.Module]:
    """Train for ``seconds`` with data and as long without; returns the figures and the network.

    Args:
        task, config, world: as for a run; nothing is written.
        seconds: of either measurement; ``LEAST_TURNS`` steps are taken whatever they last.
        began: ``time.perf_counter()`` at the program's start.

    Raises:
        UserError: as the run itself would.
    """
    settings = config.train
    if settings.compile:
        require_compiler()
    data = task.train_data()
    loss = task.loss(world).to(world.device)
    model = placed(task.network(), world, settings)
    optimizer = build_optimizer(settings, model)
    average = WeightAverage(model, settings.ema) if settings.ema else None
    step = Step(model, loss, optimizer, average, world, settings)
    workers, batch_size = config.data.workers, settings.batch_size
    with train_loader(
        data,
        batch_size=batch_size,
        micro_batch=settings.micro_batch,
        iterations=settings.max_iters + 1_000_000_000,
        seed=config.seed,
        workers=workers,
        pin_memory=world.device.type == "cuda",
    ) as loader:
        batches = _remembered(iter(loader))
        numbers = itertools.count(1)
        step(batches, next(numbers))
        synchronise(world.device)
        first = time.perf_counter() - began
        # What the workers made meanwhile would count as made in no time.
        turns(lambda: step(batches, next(numbers)), world.device, seconds / 2, most=PREFETCHED * max(1, workers))
        rate = batch_size * turns(lambda: step(batches, next(numbers)), world.device, seconds)
    same = itertools.repeat(batches.last)
    rate_without = batch_size * turns(lambda: step(same, next(numbers)), world.device, seconds)
    peak = peak_bytes(world.device.type)
    flops = step_flops(Step(model, loss, optimizer, None, world, replace(settings, compile=False)), same)
    network = average.network if average else model
    return TrainingFigures(first, rate, rate_without, peak, flops / batch_size, step.bfloat16), network


def step_flops(step: Step, batches: Iterator[dict]) -> int:
    """Floating-point operations of the convolutions and matrix products of one step, which is not a compiled one."""
    with FlopCounterMode(display=False) as counter:
        step(batches, 1)
    return counter.get_total_flops()


def measure_inference(task: Task, network: nn.Module, config: Config, world: World, seconds: float) -> float:
    """Images/s of validation, with the first image of ``val``, which lies in memory; its scores are not counted."""
    evaluate = Evaluator(task, network, world, config.train)
    with eval_loader(task.eval_data("val"), workers=0) as loader:
        image = next(iter(loader))
    image.pop("label", None)
    return turns(lambda: evaluate([image], lambda *result: None), world.device, seconds)


@torch.inference_mode()
def matmul_flops(device: torch.device, bfloat16: bool, seconds: float, side: int = 0) -> float:
    """Floating-point operations a second of the best of many products of two square matrices.

    Args:
        device: where.
        bfloat16: in that precision rather than float32, both as training has it.
        seconds: for how long to try.
        side: of the matrices; ``MATRICES`` has one for each device.
    """
    side, dtype = side or MATRICES[device.type], torch.bfloat16 if bfloat16 else torch.float32
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    shortest = float("inf")
    end = time.perf_counter() + seconds
    for turn in itertools.count():
        begin = time.perf_counter()
        torch.matmul(one, other)
        synchronise(device)
        # The first one prepares what all others use.
        shortest = min(shortest, time.perf_counter() - begin) if turn else shortest
        if turn >= LEAST_TURNS and time.perf_counter() > end:
            return 2 * side**3 / shortest


def turns(act: Callable[[], object], device: torch.device, seconds: float, most: int = 0) -> float:
    """How often a second ``act`` can be done, found in ``seconds`` and at least ``LEAST_TURNS`` turns (or ``most``)."""
    synchronise(device)
    begin, done = time.perf_counter(), 0
    while (done < LEAST_TURNS or time.perf_counter() - begin < seconds) and not (most and done >= most):
        act()
        done += 1
        # Training lets a GPU fall behind what it was told for as long, and then waits for the losses.
        if done % SYNCHRONISED == 0:
            synchronise(device)
    synchronise(device)
    return done / (time.perf_counter() - begin)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _remembered:
    """An iterator that keeps what it gave last."""

    def __init__(self, batches: Iterator[dict]) -> None:
        self.batches, self.last = batches, None

    def __iter__(self) -> "_remembered":
        return self

    def __next__(self) -> dict:
        self.last = next(self.batches)
        return self.last
