"""The optimiser of a run and its learning rates, from the settings of its training."""

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from lib import optim
from lib.config import TrainConfig


def build_optimizer(train: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of what is not frozen in ``network``."""
    return optim.build_optimizer(
        network,
        train.optimizer,
        lr=train.lr,
        momentum=train.momentum,
        betas=train.betas,
        weight_decay=train.weight_decay,
        head_lr_factor=train.head_lr_factor,
    )


def build_schedule(train: TrainConfig, optimizer: torch.optim.Optimizer, iteration: int = 0) -> LambdaLR:
    """The learning rates from ``iteration`` on."""
    return optim.build_schedule(
        optimizer,
        train.schedule,
        max_iters=train.max_iters,
        power=train.power,
        min_lr=train.min_lr,
        hold_iters=train.hold_iters,
        steps=train.steps,
        step_factor=train.step_factor,
        warmup_iters=train.warmup_iters,
        warmup_start=train.warmup_start,
        iteration=iteration,
    )
