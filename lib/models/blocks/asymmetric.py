"""The ANN blocks (Zhu et al., "Asymmetric Non-local Neural Networks for Semantic Segmentation", ICCV 2019)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.base.errors import UserError
from lib.models.blocks.attention import attend
from lib.models.blocks.terms import AttentionTerms, Term, added, widen
from lib.models.common import ConvNormRelu
from lib.models.standard import adaptive_mean

PYRAMID = (1, 3, 6, 8)


def pool_pyramid(x: Tensor, pyramid: Sequence[int]) -> Tensor:
    """Average B x C x H x W over n x n bins for every n of ``pyramid``: B x C x M x 1 with M the sum of n squared."""
    return torch.cat([adaptive_mean(x, bins).flatten(2) for bins in pyramid], dim=2).unsqueeze(3)


def spread_pyramid(rows: Tensor, pyramid: Sequence[int], size: Sequence[int]) -> Tensor:
    """Weights of bins as weights of positions: B x Q x M -> B x Q x HW, the transpose of ``pool_pyramid``."""
    spread = 0
    for weights, bins in zip(rows.split([bins**2 for bins in pyramid], dim=2), pyramid, strict=True):
        # side x bins each: which share a position has in a bin
        down, across = (
            F.adaptive_avg_pool1d(torch.eye(side, dtype=rows.dtype, device=rows.device), bins) for side in size
        )
        spread = spread + down @ weights.unflatten(2, (bins, bins)) @ across.mT
    return spread.flatten(2)


class PyramidAttention(nn.Module):
    """Attention of every position to the M bins of a pyramid instead of to all N positions (the paper's section 3.2).

    With P the pyramid pooling, q, k and v the projections and d the embedding,

        context = output(softmax(q(high) P(k(low))^T / sqrt(d)) P(v(low))).

    What follows the softmax is linear and the softmax's rows sum to 1, so pooling comes before v, and ``output`` and
    the caller's ``fusion`` are applied to the M bins, not to the N positions.

    Args:
        low_channels: of the map that gives keys and values.
        high_channels: of the map that gives queries; None makes key and query one projection of the same map.
        embedding: channels of query and key.
        value_channels: of the values.
        out_channels: of the context.
        pyramid: bins along a side, for every level.
        bias: whether the convolutions of key and query have a bias.
    """

    def __init__(
        self,
        low_channels: int,
        high_channels: int | None,
        *,
        embedding: int,
        value_channels: int,
        out_channels: int,
        pyramid: Sequence[int],
        bias: bool = True,
    ) -> None:
        super().__init__()
        if not pyramid or min(pyramid) < 1:
            raise UserError(f"pyramid {list(pyramid)} must be one or more positive integers")
        self.pyramid, self.scale = tuple(pyramid), embedding**-0.5
        self.key = ConvNormRelu(low_channels, embedding, 1, bias=bias)
        self.query = None if high_channels is None else ConvNormRelu(high_channels, embedding, 1, bias=bias)
        self.value = nn.Conv2d(low_channels, value_channels, 1)
        self.output = nn.Conv2d(value_channels, out_channels, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, low: Tensor, high: Tensor, fusion: Tensor, bias: Tensor | None) -> Tensor:
        """B x Cl x H' x W', B x Ch x H x W and a 1x1 convolution's F x O x 1 x 1 and F, or None, to B x HW x F."""
        key = self.key(low)
        query = key if self.query is None else self.query(high)
        value = F.conv2d(self.output(self.value(pool_pyramid(low, self.pyramid))), fusion, bias)
        # B x E x ... -> B x (positions or bins) x E
        tokens = (x.flatten(2).mT for x in (query, pool_pyramid(key, self.pyramid), value))
        return attend(*tokens, scale=self.scale)

    def term(self, low: Tensor, high: Tensor) -> Term:
        """The attention from B x Cl x H' x W' to B x Ch x H x W; a bin's weight lies evenly on the bin's region."""
        key = self.key(low)
        query = widen(key if self.query is None else self.query(high)).flatten(2).mT
        anchors = widen(pool_pyramid(key, self.pyramid)).flatten(2).mT

        def rows(positions: Sequence[int]) -> Tensor:
            weights = (self.scale * query[:, positions] @ anchors.mT).softmax(dim=2)
            return spread_pyramid(weights, self.pyramid, low.shape[2:])

        def apply(values: Tensor) -> Tensor:
            pooled = pool_pyramid(values.mT.unflatten(2, low.shape[2:]), self.pyramid)
            return attend(query, anchors, pooled.flatten(2).mT.to(query.dtype), scale=self.scale)

        return Term(rows, apply)


class AsymmetricFusion(nn.Module):
    """The fusion block (AFNB): a deep map attends to a shallower one, their join is projected and normalised.

        out = norm(fuse([sum of the branches' contexts, high]))

    Args:
        low_channels: of the shallower map, which gives keys and values.
        high_channels: of the deeper map, which gives queries.
        out_channels: of the output; default ``high_channels``.
        embedding: channels of query and key.
        value_channels: of the values; default ``embedding``.
        pyramid: bins along a side, for every level of the pyramid: 1, 3, 6, 8 make 110 bins.
        branches: how many attentions with weights of their own are added up.
        bias: whether convolutions before a norm have a bias, which the norm makes redundant.
        dropout: probability with which a channel of the output is dropped.
        shared: whether key and query are one projection; both maps then have as many channels.

    Raises:
        UserError: if the pyramid is not made of positive integers.
    """

    def __init__(
        self,
        low_channels: int,
        high_channels: int,
        *,
        out_channels: int | None = None,
        embedding: int = 256,
        value_channels: int | None = None,
        pyramid: Sequence[int] = PYRAMID,
        branches: int = 1,
        bias: bool = True,
        dropout: float = 0.05,
        shared: bool = False,
    ) -> None:
        super().__init__()
        out_channels = out_channels or high_channels
        self.branches = nn.ModuleList(
            PyramidAttention(
                low_channels,
                None if shared else high_channels,
                embedding=embedding,
                value_channels=value_channels or embedding,
                out_channels=out_channels,
                pyramid=pyramid,
                bias=bias,
            )
            for _ in range(branches)
        )
        self.fuse = nn.Conv2d(out_channels + high_channels, out_channels, 1, bias=bias)
        self.norm = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Takes B x Cl x H' x W' and B x Ch x H x W, returns B x ``out_channels`` x H x W."""
        return self.dropout(self.norm(self._join(low, high)))

    def attention(self, low: Tensor, high: Tensor) -> AttentionTerms:
        """The mean of the branches' attentions, whose values are not the same."""
        count = len(self.branches)
        term = added([(1 / count, branch.term(low, high)) for branch in self.branches])
        terms = {"pairwise": term, "applied": term}
        return AttentionTerms(terms, tuple(high.shape[2:]), tuple(low.shape[2:]))

    def _join(self, low: Tensor, high: Tensor) -> Tensor:
        """``fuse`` of the branches' added contexts joined to ``high``, without making either."""
        fusion, direct = self.fuse.weight.split([self.fuse.in_channels - high.shape[1], high.shape[1]], dim=1)
        bias = None if self.fuse.bias is None else self.fuse.bias / len(self.branches)
        context = sum(branch(low, high, fusion, bias) for branch in self.branches)
        # One product that adds to the context: in bfloat16 a sum of two maps would be rounded once more.
        weight = direct.flatten(1).mT.expand(high.shape[0], -1, -1)
        return torch.baddbmm(context, high.flatten(2).mT, weight).mT.unflatten(2, high.shape[2:])


class AsymmetricPyramid(AsymmetricFusion):
    """The pyramid block (APNB): a map attends to its own pyramid, with one projection as key and as query.

        out = relu(norm(fuse([sum of the branches' contexts, x])))

    Args:
        channels: of the input and the output.
        embedding: channels of the projection that is key and query; default channels // 2.
        value_channels, pyramid, branches, bias, dropout: as in ``AsymmetricFusion``.

    Raises:
        UserError: if the pyramid is not made of positive integers.
    """

    def __init__(
        self,
        channels: int,
        *,
        embedding: int | None = None,
        value_channels: int | None = None,
        pyramid: Sequence[int] = PYRAMID,
        branches: int = 1,
        bias: bool = True,
        dropout: float = 0.05,
    ) -> None:
        super().__init__(
            channels,
            channels,
            embedding=embedding or channels // 2,
            value_channels=value_channels,
            pyramid=pyramid,
            branches=branches,
            bias=bias,
            dropout=dropout,
            shared=True,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Takes B x C x H x W and returns the same shape."""
        return super().forward(x, x).relu()

    def attention(self, x: Tensor) -> AttentionTerms:
        """The mean of the branches' attentions for ``x``."""
        return super().attention(x, x)
