"""The layer: batch norm whose batch is that of all processes, and the activation after it."""

import os
import warnings
from functools import cache
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from exts.sync_bn.ops import COMPILED, NormaliseInPlace
from lib.base.errors import UserError

ACTIVATIONS = ("none", "relu", "leaky_relu")


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation (Ioffe and Szegedy, 2015) over the batches of all processes, and an activation.

    Takes the place of ``nn.BatchNorm1d``, ``2d`` and ``3d``: the same parameters, buffers and state-dict keys, the same
    behaviour in training and evaluation. Each process may have a batch of another size, or an empty one. In training,
    the processes exchange their statistics in one collective forward and one backward; alone, in evaluation, and in a
    group of one they exchange nothing. Backward needs the input and two vectors of C, no more. Every process's
    parameters get the gradient of its own batch, which ``DistributedDataParallel`` averages as for any layer.

    Args:
        num_features: C, the number of channels.
        eps: added to the variance.
        momentum: share of the batch in the running statistics; None for the mean over all batches so far.
        affine: whether there are a scale and a shift for each channel.
        track_running_stats: whether evaluation uses running statistics; if not, those of its own batch.
        process_group: the processes that share statistics; all of them if None.
        activation: ``none``, ``relu`` or ``leaky_relu``, applied to the output.
        inplace: write the output over the input and let backward recover the input from it (Rota Bulò et al.,
            "In-Place Activated BatchNorm", 2018), so that the input need not be kept. Scales must not be 0: such a
            channel's input cannot be recovered, and its scale gets no gradient.
        slope: of ``leaky_relu`` for negative numbers.

    Raises:
        UserError: if the activation does not exist, or is not invertible and ``inplace`` is set.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any | None = None,
        activation: Literal["none", "relu", "leaky_relu"] = "none",
        *,
        inplace: bool = False,
        slope: float = 0.01,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise UserError(f"there is no activation {activation!r}: choose {', '.join(ACTIVATIONS)}")
        if inplace and (activation == "relu" or (activation == "leaky_relu" and slope <= 0)):
            raise UserError(
                f"inplace=True cannot undo {activation}: use activation='none', or 'leaky_relu' with a positive slope"
            )
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.process_group = process_group
        self.activation = activation
        self.inplace = inplace
        self.slope = slope
        _say_what_is_missing()

    def forward(self, x: Tensor) -> Tensor:
        """Takes and returns N x C or N x C x ...; float32, bfloat16, float16 or float64, in any memory format."""
        self._check_input_dim(x)
        group = self._group_name() if self.training else ""
        if not group and x.device.type not in COMPILED:
            return self._activate(super().forward(x))
        slope = {"none": 1.0, "relu": 0.0, "leaky_relu": self.slope}[self.activation]
        normalise = NormaliseInPlace.apply if self.inplace else torch.ops.sync_bn.normalise
        return normalise(x, self.weight, self.bias, *self._moments(x.detach(), group), slope, group)

    def _moments(self, x: Tensor, group: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Mean, inverse standard deviation and, where they are the batch's own, the number of values behind them."""
        if not self.training and self.running_mean is not None and self.running_var is not None:
            return self.running_mean.double(), (self.running_var.double() + self.eps).rsqrt(), None
        if not group and x.numel() == x.shape[1]:
            raise ValueError(f"statistics need more than one value a channel: the input is {tuple(x.shape)}")
        row = torch.ops.sync_bn.statistics(x)
        rows = torch.ops.sync_bn.gather(row, group) if group else row[None]
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            running = (self.running_mean, self.running_var, self.momentum, self.num_batches_tracked)
        else:
            running = (None, None, None, None)
        return torch.ops.sync_bn.finish(rows, self.eps, *running)

    def _group_name(self) -> str:
        """The name of the processes that share statistics; empty where this one is alone."""
        if not dist.is_available() or not dist.is_initialized():
            return ""
        group = self.process_group or dist.group.WORLD
        return group.group_name if dist.get_world_size(group) > 1 else ""

    def _activate(self, x: Tensor) -> Tensor:
        if self.activation == "relu":
            return F.relu(x, inplace=True)
        return F.leaky_relu(x, self.slope, inplace=True) if self.activation == "leaky_relu" else x

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"expected N x {self.num_features} x ..., got {' x '.join(map(str, x.shape))}")

    def extra_repr(self) -> str:
        slope = f", slope={self.slope}" if self.activation == "leaky_relu" else ""
        return f"{super().extra_repr()}, activation={self.activation}{slope}, inplace={self.inplace}"


@cache
def _say_what_is_missing() -> None:
    wanted = {"cpu", "cuda"} if torch.cuda.is_available() else {"cpu"}
    missing = sorted(wanted - COMPILED)
    if missing and int(os.environ.get("RANK", 0)) == 0:
        warnings.warn(
            f"exts/sync_bn is not built for {' and '.join(missing)}: PyTorch's own operations take its place, which is "
            "slower (bash exts/make.sh builds it)",
            stacklevel=3,
        )
