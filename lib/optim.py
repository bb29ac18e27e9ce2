"""The recipes' optimiser and learning-rate schedule: SGD with parameter groups, poly decay at every iteration."""

import torch
from torch import nn


def build_optimizer(
    segmentor: nn.Module, *, lr: float, momentum: float, weight_decay: float, head_lr_factor: float = 1.0
) -> torch.optim.SGD:
    """SGD without Nesterov momentum over up to four groups: backbone and the rest, with and without weight decay.

    Args:
        segmentor: the network; ``segmentor.backbone`` learns at ``lr``, everything else at ``lr * head_lr_factor``.
            Parameters that a submodule's ``no_decay_parameters()`` yields get no weight decay.
        lr: learning rate at the start.
        momentum: of the heavy-ball kind, 0 to 1.
        weight_decay: of the L2 kind, added to the gradient.
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
    return torch.optim.SGD(
        [
            {
                "params": parameters,
                "lr": lr if in_backbone else lr * head_lr_factor,
                "weight_decay": 0.0 if is_undecayed else weight_decay,
            }
            for (in_backbone, is_undecayed), parameters in groups.items()
        ],
        lr=lr,
        momentum=momentum,
        fused=True,
    )


def poly_schedule(
    optimizer: torch.optim.Optimizer, max_iters: int, power: float, iteration: int = 0
) -> torch.optim.lr_scheduler.LambdaLR:
    """``lr = base_lr * (1 - iteration / max_iters) ** power``; step it once after every iteration.

    Args:
        iteration: where to start; other than 0, the optimiser must have had a schedule before.
    """
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda iteration: max(0.0, 1 - iteration / max_iters) ** power, last_epoch=iteration - 1
    )
