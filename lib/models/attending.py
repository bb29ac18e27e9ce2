"""The blocks of a network that attend, and what reaches one of them."""

import torch
from torch import Tensor, nn


def attending_blocks(network: nn.Module) -> dict[str, nn.Module]:
    """The modules with an attention of their own, by their names in ``network``, in order.

    Those have a method ``attention``, which takes what ``forward`` takes and returns ``AttentionTerms``.
    """
    return {name: module for name, module in network.named_modules() if hasattr(module, "attention")}


class _Reached(Exception):
    """The block was reached, and the rest of the network is of no interest."""


@torch.no_grad()
def inputs_of(network: nn.Module, block: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    """What ``block`` is given when ``network`` is shown ``image``, B x C x H x W; nothing after it is computed."""
    found: tuple[Tensor, ...] = ()

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal found
        found = given
        raise _Reached

    handle = block.register_forward_pre_hook(keep)
    try:
        network(image)
    except _Reached:
        pass
    finally:
        handle.remove()
    return found
