"""The configuration that every task has: its keys, their types, defaults, allowed values and meaning.

A task adds its own in its file in ``lib/tasks``. A recipe is a YAML file that names only what differs from these
defaults; ``lib.recipes`` merges it with its parents and with ``key=value`` from the command line.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from lib.keys import (
    Allowed,
    ascending_iterations,
    at_least,
    at_most_entries,
    between,
    entries_between,
    key,
    must,
    name_of_a_folder,
    one_of,
    short_name,
)

MOST = 1_000_000_000
"""Iterations: more than any run has, and few enough for all that is computed from them."""


@dataclass(frozen=True)
class Fitted:
    """Settings that a task found out, which come over those of the recipe's files and below the command line."""

    source: str
    """Where they come from, as ``explain`` tells it."""
    values: dict[str, Any]
    """By the names of their keys."""
    record: dict[str, Any]
    """What is set after everything else: that this is done, so that what a run records is taken as it stands."""
    remedy: str
    """What to do where a value is none that its key takes."""


@dataclass
class DataConfig:
    root: str = key("")
    """DATA_DIR: the prepared dataset, ``{train,val,test}/{image,label}``, as a folder or as one ``.zip`` of it."""
    dataset: str = key("")
    """Whose classes and labels; also the folder of its runs."""
    workers: int = key(4, between(0, 256))
    """Loader processes for each training process; 0 loads in the training process itself."""


@dataclass
class TrainConfig:
    max_iters: int = key(60_000, between(1, MOST))
    """Optimiser steps of the whole run."""
    batch_size: int = key(8, between(1, 65_536))
    """Images of one optimiser step, over all processes together."""
    micro_batch: int = key(0, between(0, 65_536))
    """Images that one process takes at a time; gradients are accumulated to ``batch_size``. 0: all of its share."""
    amp: str = key("auto", one_of("auto", "true", "false"))
    """bfloat16 autocast: ``auto`` (where the device is fast at it), ``true`` or ``false``."""
    channels_last: bool = key(True)
    """Whether feature maps lie in memory with the channels last."""
    compile: bool = key(False)
    """Whether ``torch.compile`` compiles the network for training."""
    optimizer: str = key("sgd", one_of("sgd", "adamw"))
    """``sgd`` (heavy-ball momentum) or ``adamw``."""
    lr: float = key(0.01, at_least(0))
    """Learning rate at the start, after the warm-up."""
    head_lr_factor: float = key(1.0, between(0, 1_000_000))
    """Times this for everything that is not the backbone."""
    momentum: float = key(0.9, between(0, 1))
    """Of SGD."""
    betas: list[float] = key(
        [0.9, 0.999],
        must(
            "must be two numbers from 0 up to but without 1",
            lambda betas: len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
        ),
    )
    """Of AdamW: decay of the averages of the gradient and of its square."""
    weight_decay: float = key(5e-4, between(0, 1_000_000))
    """Not applied to the projections that the block's ``no_decay`` names."""
    schedule: str = key(
        "poly",
        one_of("poly", "linear", "cosine", "step", "constant", "range"),
        Allowed(
            "with step, name the iterations at which the learning rate falls in train.steps",
            lambda name, config: name != "step" or config.train.steps,
        ),
    )
    """How the learning rate falls: ``poly``, ``linear``, ``cosine``, ``step``, ``constant`` or ``range``."""
    power: float = key(0.9, between(0, 1000))
    """Of the poly schedule ``(lr - min_lr) * (1 - t) ** power + min_lr``, t = iteration / max_iters, and of ``range``,
    which has ``power * t`` in its place."""
    min_lr: float = key(
        0.0,
        at_least(0),
        Allowed(
            lambda config: f"must be at most train.lr={config.train.lr}, from which it falls",
            lambda value, config: value <= config.train.lr,
        ),
    )
    """The learning rate at the end of a poly, linear, cosine or range schedule, of backbone and head alike."""
    hold_iters: int = key(
        0,
        between(0, MOST),
        Allowed(
            lambda config: f"must be below train.max_iters={config.train.max_iters}, where the fall ends",
            lambda value, config: value < config.train.max_iters,
        ),
    )
    """Iterations during which these four keep ``lr`` before they fall; t counts from there to ``max_iters``."""
    steps: list[int] = key([], ascending_iterations(), at_most_entries(256), entries_between(1, MOST))
    """Iterations at which the step schedule multiplies the learning rate by ``step_factor``."""
    step_factor: float = key(0.1, between(0, 10))
    """What the step schedule multiplies by."""
    warmup_iters: int = key(0, between(0, MOST))
    """Iterations over which the learning rate rises linearly from ``warmup_start`` of the schedule's to all of it."""
    warmup_start: float = key(0.001, must("is a part of the learning rate, from 0 to 1", lambda part: 0 <= part <= 1))
    """The part of the schedule's learning rate with which the warm-up begins."""
    clip_grad_norm: float = key(0.0, at_least(0))
    """Gradients whose common norm is larger are scaled down to this one; 0 leaves them."""
    ema: float = key(0.0, must("must be from 0 (no average) up to but without 1", lambda decay: 0 <= decay < 1))
    """Decay of the moving average of the weights, such as 0.999; the average is what is validated and tested and what
    ``pretrained`` takes from a checkpoint. 0 for none."""
    freeze_stages: int = key(
        -1, at_least(-1), must("a backbone has 4 stages: choose -1 to 4", lambda stages: stages <= 4)
    )
    """The backbone's stem (0), or its stem and first n stages, keep their weights and statistics; -1: none."""
    freeze_norm: bool = key(False)
    """Whether the backbone's batch norm keeps its statistics, scales and shifts."""


@dataclass
class ValConfig:
    interval: int = key(1000, between(0, MOST))
    """Validate every so many iterations and at the end; 0: never while training."""
    at_start: bool = key(False)
    """Whether to validate before the first iteration too, so that the log shows where the run came from."""
    pictures: int = key(4, between(0, 1000))
    """Predictions shown in TensorBoard at each validation."""


@dataclass
class CheckpointConfig:
    file: str = key("")
    """What to resume, validate or test instead of the run's own checkpoint: a file, a run folder, which stands for
    its best one (to resume: its latest), or a published folder. ``checkpoint=FILE`` is short for it."""
    interval: int = key(1000, between(1, MOST))
    """Save every so many iterations (and at the end, at the best score, and when stopped)."""
    keep: int = key(1, between(1, 1_000_000))
    """How many of the latest ``iter_<n>.pth`` stay on the disk."""


@dataclass
class LogConfig:
    interval: int = key(10, between(1, MOST))
    """Iterations between two rows of ``metrics.jsonl``."""


@dataclass
class Config:
    task: str = key("seg", name_of_a_folder(), short_name())
    """What is trained, ``seg`` for segmentation: a file in ``lib/tasks``; and the first folder of its runs."""
    recipe: str = key("", name_of_a_folder(), short_name())
    """Name of the recipe; the name of the configuration file unless set."""
    tag: str = key("", name_of_a_folder(), short_name())
    """Name of the run."""
    seed: int = key(0, between(0, 2**63 - 1))
    """Everything random follows from it."""
    device: str = key("auto", one_of("auto", "cpu", "cuda"))
    """``auto`` (a GPU if there is one), ``cpu`` or ``cuda``."""
    pretrained: str = key("")
    """File of ImageNet weights for the backbone, or a checkpoint of a whole network to start from, whose classes may
    be others; or a run folder, which stands for its best checkpoint, or a published folder; or an address
    (``https://...``), ``torchvision:NAME`` or ``timm:NAME``."""
    overwrite: bool = key(False)
    """Whether ``train`` may replace a run of the same tag."""
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    val: ValConfig = field(default_factory=ValConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def fitted(self, given: Collection[str]) -> Fitted | None:
        """Settings that follow from what this configuration names, such as the data; a task's schema may know some.

        Args:
            given: the keys that the command line sets.

        Raises:
            UserError: they cannot be found out.
        """
        return None
