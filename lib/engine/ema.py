"""The moving average of a network's weights, which a run with ``train.ema`` validates, tests and hands on."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of all parameters and buffers of a network, batch norm's statistics among them.

    After iteration n, counted from 1, it is ``d * average + (1 - d) * weights`` with ``d = min(decay, (1 + n) / (10 +
    n))``, so that the random weights of the start are soon forgotten. Counters are taken over as they are.

    Args:
        network: whose weights are the first average.
        decay: 0 up to but without 1.

    Attributes:
        network: a copy of it with the averaged weights, in evaluation mode.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, iteration: int) -> None:
        """Add the weights that ``network`` has after ``iteration``; nothing waits for the device."""
        pairs = list(zip(_tensors(self.network), _tensors(network), strict=True))
        averages, weights = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, counter in pairs:
            if not average.is_floating_point():
                average.copy_(counter)


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()
