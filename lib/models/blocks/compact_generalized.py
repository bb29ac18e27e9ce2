"""The compact generalized non-local block (Yue et al., "Compact Generalized Non-local Network", NeurIPS 2018)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from lib.base.errors import UserError
from lib.models.blocks.nonlocal_block import CONVS


class CompactGeneralizedNonLocal(nn.Module):
    """Attention between all pairs of entries, of every position and channel of a group, added to the input.

    With t, p and g the entries of query, key and value in one group, entry a of the group becomes

        y_a = sum_b f(t_a, p_b) g_b,    f(t, p) = sum_k c_k (t p)^k,

    with c_1 = 1 alone for the kernel ``dot`` and c_k = exp(-2 gamma) (2 gamma)^k / k!, k = 0..order, for ``rbf``, the
    Taylor expansion of a Gaussian of unit vectors. So y_a is a polynomial in t_a whose coefficients
    c_k sum_b p_b^k g_b are the same for the whole group: time and memory grow linearly with the entries.

    Args:
        channels: of the input and the output.
        embedding: channels of query, key and value; default channels // 2.
        groups: number of groups of channels; divides ``channels`` and ``embedding``.
        kernel: the function f.
        order: of the Taylor expansion of the kernel ``rbf``; at least 1.
        gamma: of the Gaussian exp(-gamma |t - p|^2).
        scale: whether y is divided by the square root of the group's number of entries.
        dimensions: of the input: 1 (B x C x L), 2 (B x C x H x W) or 3 (B x C x T x H x W).

    Raises:
        UserError: if the groups do not divide the channels, or the order is below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        embedding: int | None = None,
        groups: int = 1,
        kernel: Literal["rbf", "dot"] = "rbf",
        order: int = 2,
        gamma: float = 1e-4,
        scale: bool = False,
        dimensions: Literal[1, 2, 3] = 2,
    ) -> None:
        super().__init__()
        embedding = embedding or channels // 2
        if groups < 1 or channels % groups or embedding % groups:
            raise UserError(f"groups is {groups}: it must divide channels {channels} and embedding {embedding}")
        if order < 1:
            raise UserError(f"order is {order}: a Taylor expansion below order 1 makes all entries of a group equal")
        taylor = [math.exp(-2 * gamma) * (2 * gamma) ** k / math.factorial(k) for k in range(order + 1)]
        conv = CONVS[dimensions]
        self.groups, self.scale = groups, scale
        self.coefficients = taylor if kernel == "rbf" else [0.0, 1.0]
        self.query = conv(channels, embedding, 1, bias=False)
        self.key = conv(channels, embedding, 1, bias=False)
        self.value = conv(channels, embedding, 1, bias=False)
        self.output = conv(embedding, channels, 1, groups=groups, bias=False)
        self.norm = nn.GroupNorm(groups, channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Takes B x C x (positions of ``dimensions`` dimensions) and returns the same shape."""
        # B x E x ... -> B x G x (entries of a group), at least float32
        wide = torch.promote_types(x.dtype, torch.float32)
        query, key, value = (
            layer(x).to(wide).unflatten(1, (self.groups, -1)).flatten(2) for layer in (self.query, self.key, self.value)
        )
        constant, *moments = self.moments(key, value)
        # Horner's scheme, without the constant term
        varying = moments.pop() * query
        while moments:
            varying = varying.add_(moments.pop()).mul_(query)
        context = self.project(varying, constant).reshape(x.shape)
        return x + self.norm(context.to(self.norm.weight.dtype)).to(x.dtype)

    def project(self, varying: Tensor, constant: Tensor) -> Tensor:
        """The output convolution of y: B x G x (entries of a group) and a group's constant B x G x 1 to B x C x N.

        The constant is some thousand times what varies about it. Through the convolution in bfloat16 the sum of both
        would be the constant alone.
        """
        # G x C/G x E/G
        weight = self.output.weight.flatten(1).unflatten(0, (self.groups, -1))
        context = weight @ varying.unflatten(2, (weight.shape[2], -1)).to(weight.dtype)
        return context.to(varying.dtype).add_(constant[:, :, None] * weight.sum(2, keepdim=True)).flatten(1, 2)

    def moments(self, key: Tensor, value: Tensor) -> list[Tensor]:
        """c_k sum_b p_b^k g_b for every k: B x G x 1 each."""
        factor = key.shape[2] ** -0.5 if self.scale else 1.0
        moments = [value.sum(2, keepdim=True)]
        for _ in self.coefficients[1:]:
            value = value * key
            moments.append(value.sum(2, keepdim=True))
        return [factor * coefficient * moment for coefficient, moment in zip(self.coefficients, moments, strict=True)]
