"""Replacing the batch norm of a network."""

from collections import Counter
from itertools import pairwise
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from exts.sync_bn.module import SyncBatchNorm


def convert_sync_batchnorm(module: nn.Module, process_group: Any | None = None) -> nn.Module:
    """Replace every batch norm in ``module`` by a ``SyncBatchNorm`` with the very same parameters and buffers.

    A ReLU or leaky ReLU that follows is fused: one that comes next in an ``nn.Sequential``, or that the module around
    the two names in its attribute ``activations``, as in ``{"bn1": "relu1"}``. A ReLU has no state, so that the
    ``nn.Identity`` in its place changes no key of the state dict. Layers with hooks and layers used in several places
    are not fused.

    Args:
        module: the network, changed in place.
        process_group: the processes that share statistics; all of them if None.

    Returns:
        ``module``, or its replacement if it is a batch norm itself.
    """
    uses = Counter(id(child) for _, child in module.named_modules(remove_duplicate=False))
    replaced: dict[int, SyncBatchNorm] = {}

    def replace(norm: _BatchNorm) -> SyncBatchNorm:
        return replaced.setdefault(id(norm), _from_batch_norm(norm, process_group))

    for parent in list(module.modules()):
        followers = _followers(parent)
        for name, child in list(parent._modules.items()):
            if not isinstance(child, _BatchNorm) or isinstance(child, SyncBatchNorm):
                continue
            norm = replace(child)
            setattr(parent, name, norm)
            follower = parent._modules.get(followers.get(name, ""))
            if uses[id(child)] == 1 and not (_has_hooks(child) or _has_hooks(follower)) and _fuse(norm, follower):
                setattr(parent, followers[name], nn.Identity())
    return replace(module) if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm) else module


def _followers(parent: nn.Module) -> dict[str, str]:
    """For each child of which it is known, the name of the child that takes its output, and alone takes it."""
    if isinstance(parent, nn.Sequential) and type(parent).forward is nn.Sequential.forward:
        return dict(pairwise(parent._modules))
    return getattr(parent, "activations", {})


def _fuse(norm: SyncBatchNorm, follower: nn.Module | None) -> bool:
    """Let ``norm`` apply ``follower`` too; returns whether it can."""
    if type(follower) is nn.ReLU:
        norm.activation = "relu"
    elif type(follower) is nn.LeakyReLU:
        norm.activation, norm.slope = "leaky_relu", follower.negative_slope
    return norm.activation != "none"


def _has_hooks(layer: nn.Module | None) -> bool:
    return layer is not None and any(
        value for name, value in vars(layer).items() if name.endswith("_hooks") and "state_dict" not in name
    )


def _from_batch_norm(norm: _BatchNorm, process_group: Any | None) -> SyncBatchNorm:
    converted = SyncBatchNorm(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, process_group, device="meta"
    )
    for kind in ("_parameters", "_buffers"):
        setattr(converted, kind, getattr(norm, kind).copy())
    return converted.train(norm.training)
