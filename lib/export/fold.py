"""Batch norm folded into the convolutions before it."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib.models.standard import plan_blocks

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def fold_norms(network: nn.Module, image: Tensor) -> int:
    """Replace every convolution whose output goes through a batch norm by the two in one, the norm by nothing.

    Args:
        network: in evaluation mode, changed in place. A convolution that anything else reads as well stays no use for
            it: the caller compares the outputs.
        image: an input, of whose shape alone anything is made.

    Returns:
        How many norms there are no more.
    """
    pairs = _pairs(network, image)
    for conv_name, norm_name in pairs.items():
        conv, norm = network.get_submodule(conv_name), network.get_submodule(norm_name)
        # In float64: no more than one rounding from the exact weights.
        fused = fuse_conv_bn_eval(copy.deepcopy(conv).double(), copy.deepcopy(norm).double())
        network.set_submodule(conv_name, fused.to(conv.weight.dtype))
        network.set_submodule(norm_name, nn.Identity())
    return len(pairs)


def _pairs(network: nn.Module, image: Tensor) -> dict[str, str]:
    """Names of convolutions and of the batch norms that take their outputs as they are, each called once."""
    shadow = copy.deepcopy(network).to("meta")
    made_by: dict[int, str] = {}
    calls: dict[str, int] = {}
    pairs: dict[str, str] = {}
    kept = []

    def after_convolution(name: str, output: Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1
        # Kept, so that no later tensor has its place in memory.
        kept.append(output)
        made_by[id(output)] = name

    def before_norm(name: str, given: Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1
        if id(given) in made_by:
            pairs[made_by[id(given)]] = name

    for name, layer in shadow.named_modules():
        if type(layer) in CONVOLUTIONS:
            layer.register_forward_hook(lambda _, given, output, name=name: after_convolution(name, output))
        elif isinstance(layer, _BatchNorm) and layer.track_running_stats:
            layer.register_forward_pre_hook(lambda _, given, name=name: before_norm(name, given[0]))
    with plan_blocks(1 << 40):
        shadow(image.to("meta"))
    return {conv: norm for conv, norm in pairs.items() if calls[conv] == calls[norm] == 1}
