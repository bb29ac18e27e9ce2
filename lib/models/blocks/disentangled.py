"""The disentangled non-local block (Yin et al., "Disentangled Non-Local Neural Networks", ECCV 2020)."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lib.errors import UserError
from lib.models.blocks.attention import attend

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOLS = {1: (nn.MaxPool1d, 2), 2: (nn.MaxPool2d, 2), 3: (nn.MaxPool3d, (1, 2, 2))}

# What a mean is taken over, as dimensions of B x C x N.
WHITENED_DIMENSIONS = {"instance": (2,), "layer": (1, 2), "batch": (0, 1, 2)}

Projection = Literal["query", "key", "value", "mask", "output"]


def whiten(x: Tensor, over: str, *, variance: bool = False, eps: float = 1e-5) -> Tensor:
    """Subtract the mean and, with ``variance``, divide by sqrt(variance + eps), the unbiased one.

    Args:
        x: B x C x N.
        over: ``instance``: positions, for each channel; ``layer``: channels and positions; ``batch``: everything.

    Returns:
        B x C x N of ``x``'s type. The arithmetic is at least float32: a mean rounded to bfloat16 would not be the mean.
    """
    dims = WHITENED_DIMENSIONS[over]
    wide = torch.promote_types(x.dtype, torch.float32)
    centred = x - x.mean(dims, keepdim=True, dtype=wide)
    if variance:
        centred = centred * (x.to(wide).var(dims, keepdim=True) + eps).rsqrt()
    return centred.to(x.dtype)


class DisentangledNonLocal(nn.Module):
    """Attention split into a whitened pairwise term and a unary one, added to the input.

    With q, k and v the projections of positions i and j, the DNL paper's disentangled form (its section 4) is

        y_i = sum_j [ gamma * softmax_j((q_i - mean q)^T (k_j - mean k)) + softmax_j(m_j) ] v_j,    out = x + y,

    where the first softmax is the whitened pairwise term, m = mask(x) gives the unary term, the same for every i, and
    the gain gamma starts at 0. The keys' mean adds the same number to a whole row of affinities, so that the softmax
    cancels it; it is subtracted all the same because smaller affinities lose less when they are rounded to bfloat16.

    Args:
        channels: of the input and the output.
        embedding: channels of query and key; default channels // 2.
        dimensions: of the input: 1 (B x C x L), 2 (B x C x H x W) or 3 (B x C x T x H x W).
        whitening: what the means of query and key are taken over, see ``whiten``; ``none`` leaves them as they are.
        whiten_variance: whether whitening also divides by the standard deviation.
        pairwise, unary: whether the terms exist; at least one must.
        scale: whether affinities are divided by sqrt(embedding).
        subsample: whether keys, values and mask are taken from the input max-pooled by 2 (by 1, 2, 2 in 3-D).
        output_conv: whether values have ``embedding`` channels and a 1x1 convolution leads y back to ``channels``.
        output_norm: whether y passes a batch norm.
        no_decay: projections that ``no_decay_parameters`` yields: query, key, value, mask, output.
        init_scale: factor of the convolutions' initial standard deviation, 0.01.
        eps: added to the variance.

    Raises:
        UserError: if an argument is outside its range.
    """

    def __init__(
        self,
        channels: int,
        *,
        embedding: int | None = None,
        dimensions: Literal[1, 2, 3] = 2,
        whitening: Literal["none", "instance", "layer", "batch"] = "none",
        whiten_variance: bool = False,
        pairwise: bool = True,
        unary: bool = True,
        scale: bool = False,
        subsample: bool = False,
        output_conv: bool = False,
        output_norm: bool = False,
        no_decay: Sequence[Projection] = ("query", "key"),
        init_scale: float = 1.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if not (pairwise or unary):
            raise UserError("a disentangled block needs its pairwise term, its unary term or both")
        if whitening != "none" and whitening not in WHITENED_DIMENSIONS:
            raise UserError(f"whitening is {whitening!r}: choose none, {', '.join(WHITENED_DIMENSIONS)}")
        embedding = embedding or channels // 2
        conv = CONVS[dimensions]
        self.whitening, self.whiten_variance, self.eps = whitening, whiten_variance, eps
        self.scale = embedding**-0.5 if scale else 1.0
        self.no_decay = tuple(no_decay)
        pool, factor = POOLS[dimensions]
        self.pool = pool(factor) if subsample else nn.Identity()
        self.value = conv(channels, embedding if output_conv else channels, 1, bias=output_conv)
        self.query = conv(channels, embedding, 1) if pairwise else None
        self.key = conv(channels, embedding, 1) if pairwise else None
        self.mask = conv(channels, 1, 1) if unary else None
        self.output = conv(embedding, channels, 1, bias=False) if output_conv else None
        self.output_norm = NORMS[dimensions](channels) if output_norm else None
        self.gamma = nn.Parameter(torch.zeros(1))
        self._initialise(0.01 * init_scale)

    def _initialise(self, std: float) -> None:
        for projection in (self.query, self.key, self.value, self.mask, self.output):
            if projection is not None:
                nn.init.normal_(projection.weight, std=std)
                if projection.bias is not None:
                    nn.init.zeros_(projection.bias)

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that the recipe trains without weight decay."""
        for name in self.no_decay:
            projection = getattr(self, name)
            if projection is not None:
                yield from projection.parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Takes B x C x (positions of ``dimensions`` dimensions) and returns the same shape."""
        source = self.pool(x)
        # B x E x ... -> B x M x E
        value = self.value(source).flatten(2).mT
        context = 0.0
        # The unary term first: what comes last comes first in backward, and the pairwise term's is the one that needs
        # memory, so that it should not find the other's gradients there.
        if self.mask is not None:
            # B x 1 x M; the term is the same for every query: B x 1 x E
            mask = self.mask(source).flatten(2)
            context = mask.softmax(dim=2).to(value.dtype) @ value
        if self.query is not None:
            query, key = self.embed(x, source)
            # the gain in the values' type: one of float32 would widen every tensor that follows under autocast
            context = attend(query, key, value, scale=self.scale) * self.gamma.to(value.dtype) + context
        # B x N x E -> B x E x ..., N being 1 where there is only the unary term
        shape = x.shape[2:] if self.query is not None else (1,) * (x.dim() - 2)
        context = context.mT.unflatten(2, shape)
        if self.output is not None:
            context = self.output(context)
        if self.output_norm is not None:
            context = self.output_norm(context.expand(-1, -1, *x.shape[2:]))
        return x + context

    def embed(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened queries B x N x D of ``x`` and keys B x M x D of ``source``."""
        query, key = self.query(x).flatten(2), self.key(source).flatten(2)
        if self.whitening != "none":
            options = {"variance": self.whiten_variance, "eps": self.eps}
            query = whiten(query, self.whitening, **options)
            key = whiten(key, self.whitening, **options)
        return query.mT, key.mT
