"""The recipes' optimisers, with parameter groups, and learning-rate schedules, stepped at every iteration."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


def build_optimizer(
    segmentor: nn.Module,
    name: str = "sgd",
    *,
    lr: float,
    momentum: float = 0.9,
    betas: Sequence[float] = (0.9, 0.999),
    weight_decay: float,
    head_lr_factor: float = 1.0,
) -> torch.optim.Optimizer:
    """SGD without Nesterov momentum, or AdamW, over up to four groups: backbone and the rest, with and without decay.

    Args:
        segmentor: the network; ``segmentor.backbone`` learns at ``lr``, everything else at ``lr * head_lr_factor``.
            Parameters that a submodule's ``no_decay_parameters()`` yields get no weight decay; those without gradient
            are left out.
        name: "sgd" or "adamw".
        lr: learning rate at the start.
        momentum: of SGD, of the heavy-ball kind, 0 to 1.
        betas: of AdamW: decay of the means of the gradient and of its square, 0 up to but without 1.
        weight_decay: of SGD: of the L2 kind, added to the gradient; of AdamW: decoupled (Loshchilov and Hutter, 2019).
    """
    undecayed = {
        id(parameter)
        for module in segmentor.modules()
        if hasattr(module, "no_decay_parameters")
        for parameter in module.no_decay_parameters()
    }
    backbone = {id(parameter) for parameter in segmentor.backbone.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in segmentor.parameters():
        if parameter.requires_grad:
            key = (id(parameter) in backbone, id(parameter) in undecayed)
            groups.setdefault(key, []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": lr if in_backbone else lr * head_lr_factor,
            "weight_decay": 0.0 if is_undecayed else weight_decay,
        }
        for (in_backbone, is_undecayed), parameters in groups.items()
    ]
    if name == "adamw":
        return torch.optim.AdamW(settings, lr=lr, betas=tuple(betas), fused=True)
    return torch.optim.SGD(settings, lr=lr, momentum=momentum, fused=True)


def build_schedule(
    optimizer: torch.optim.Optimizer,
    name: str = "poly",
    *,
    max_iters: int,
    power: float = 0.9,
    min_lr: float = 0.0,
    hold_iters: int = 0,
    steps: Sequence[int] = (),
    step_factor: float = 0.1,
    warmup_iters: int = 0,
    warmup_start: float = 0.001,
    iteration: int = 0,
) -> LambdaLR:
    """The learning rate of every iteration; step it once after each.

    With t = iteration / max_iters, "poly" is ``(base_lr - min_lr) * (1 - t) ** power + min_lr`` (Liu et al., "ParseNet:
    Looking Wider to See Better", 2015; bounded as in mmsegmentation); "linear" the same with power 1; "cosine" with
    ``(1 + cos(pi t)) / 2`` in place of the power (Loshchilov and Hutter, "SGDR", 2017); "range" with the growing power
    ``power * t``. Where they are held first, t rises from 0 to 1 after ``hold_iters``. "step" is ``base_lr *
    step_factor ** n`` after n of the steps; "constant" is ``base_lr``. During the warm-up all of them are multiplied by
    a factor that rises linearly from ``warmup_start`` to 1.

    Args:
        optimizer: the learning rates of its groups are the ``base_lr``.
        name: one of these six.
        max_iters: iterations of the whole run.
        min_lr: the same for all groups.
        hold_iters: iterations before poly, linear, cosine and range begin to fall, less than ``max_iters``.
        steps: iterations, ascending.
        warmup_iters: iterations of the warm-up; 0 for none.
        iteration: where to start; other than 0, the optimiser must have had a schedule before.
    """

    def part(iteration: int) -> float:
        return min(1.0, max(0, iteration - hold_iters) / (max_iters - hold_iters))

    falls: dict[str, Callable[[int], float]] = {
        "poly": lambda iteration: (1 - part(iteration)) ** power,
        "linear": lambda iteration: 1 - part(iteration),
        "cosine": lambda iteration: (1 + math.cos(math.pi * part(iteration))) / 2,
        "range": lambda iteration: (1 - part(iteration)) ** (power * part(iteration)),
        "step": lambda iteration: step_factor ** bisect_right(steps, iteration),
        "constant": lambda iteration: 1.0,
    }
    fall = falls[name]
    reaches_the_least = name in ("poly", "linear", "cosine", "range")

    def factor_of(base_lr: float) -> Callable[[int], float]:
        least = min_lr / base_lr if base_lr and reaches_the_least else 0.0

        def factor(iteration: int) -> float:
            value = (1 - least) * fall(iteration) + least
            if iteration < warmup_iters:
                value *= warmup_start + (1 - warmup_start) * iteration / warmup_iters
            return value

        return factor

    factors = [factor_of(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    return LambdaLR(optimizer, factors, last_epoch=iteration - 1)
