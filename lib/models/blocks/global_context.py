"""The GCNet block (Cao et al., "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", 2019)."""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from lib.base.errors import UserError
from lib.models.blocks.terms import AttentionTerms, unary_term, widen


class GlobalContext(nn.Module):
    """Pools all positions into one vector, transforms it, and adds it to every position or multiplies channels by it.

    The pooled context c is sum_j softmax_j(m_j) x_j with m = mask(x) a 1x1 convolution (the paper's section 3) or
    the mean over positions. With t and s transforms of c, each 1x1 convolution - layer norm - ReLU - 1x1 convolution,

        out = x * sigmoid(s(c)) + t(c).

    Cost and memory are linear in the positions. A new block returns its input, halved where it multiplies.

    Args:
        channels: of the input and the output.
        embedding: channels between the two convolutions of a transform; default channels // 4.
        pooling: ``attention``: positions count by the softmax of the mask; ``average``: all alike.
        add: whether the context, transformed by t, is added to every position.
        multiply: whether it, transformed by s, multiplies the channels; at least one of add and multiply must be.
        layers: convolutions of a transform: 2, or 1, which keeps the channels and ends with the layer norm.

    Raises:
        UserError: if there is neither t nor s, or an argument is outside its range.
    """

    def __init__(
        self,
        channels: int,
        *,
        embedding: int | None = None,
        pooling: Literal["attention", "average"] = "attention",
        add: bool = True,
        multiply: bool = False,
        layers: Literal[1, 2] = 2,
    ) -> None:
        super().__init__()
        if not (add or multiply):
            raise UserError("a global context block needs add, multiply or both")
        if pooling not in ("attention", "average"):
            raise UserError(f"pooling is {pooling!r}: choose attention or average")
        embedding = channels if layers == 1 else embedding or max(channels // 4, 1)
        self.mask = nn.Conv2d(channels, 1, 1) if pooling == "attention" else None
        self.add = _make_transform(channels, embedding, layers) if add else None
        self.multiply = _make_transform(channels, embedding, layers) if multiply else None
        if self.mask is not None:
            nn.init.kaiming_normal_(self.mask.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(self.mask.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Takes B x C x H x W and returns the same shape."""
        context = self.pool(x)
        if self.multiply is not None:
            x = x * torch.sigmoid(self.multiply(context))
        if self.add is not None:
            x = x + self.add(context)
        return x

    def attention(self, x: Tensor) -> AttentionTerms:
        """The weights of the pooling, for ``x``: they are all that the block attends with."""
        count = x[0, 0].numel()
        logits = x.new_zeros(len(x), 1, count) if self.mask is None else self.mask(x).flatten(2)
        term = unary_term(widen(logits).softmax(dim=2), count)
        return AttentionTerms({"unary": term, "applied": term}, tuple(x.shape[2:]), tuple(x.shape[2:]))

    def pool(self, x: Tensor) -> Tensor:
        """B x C x H x W -> B x C x 1 x 1."""
        if self.mask is None:
            return x.mean((2, 3), keepdim=True)
        attention = self.mask(x).flatten(2).softmax(dim=2).to(x.dtype)
        return (x.flatten(2) @ attention.mT).unsqueeze(3)


def _make_transform(channels: int, embedding: int, layers: int) -> nn.Sequential:
    transform = OrderedDict(conv=nn.Conv2d(channels, embedding, 1), norm=nn.LayerNorm([embedding, 1, 1]))
    if layers == 2:
        transform |= OrderedDict(relu=nn.ReLU(inplace=True), expand=nn.Conv2d(embedding, channels, 1))
    # The last layer starts at 0, so that the block begins without context.
    for parameter in transform["expand" if layers == 2 else "norm"].parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(transform)
