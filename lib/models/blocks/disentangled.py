"""The disentangled non-local block (Yin et al., "Disentangled Non-Local Neural Networks", ECCV 2020)."""

from collections.abc import Iterator, Sequence
from typing import Literal

from torch import nn

from lib.base.errors import UserError
from lib.models.blocks.nonlocal_block import NonLocal

WHITENINGS = ("none", "instance", "layer", "batch")

Projection = Literal["query", "key", "value", "mask", "output"]


class DisentangledNonLocal(NonLocal):
    """Attention split into a whitened pairwise term and a unary one, added to the input.

    With q, k and v the projections of positions i and j, the DNL paper's disentangled form (its section 4) is

        y_i = sum_j [ gamma * softmax_j((q_i - mean q)^T (k_j - mean k)) + softmax_j(m_j) ] v_j,    out = x + y,

    where the first softmax is the whitened pairwise term, m = mask(x) gives the unary term, the same for every i, and
    the gain gamma starts at 0. This is a ``NonLocal`` with fewer options, which says how it is computed. It has been
    published in two parametrisations: that of the defaults, and one of ``whitening="instance"``, ``scale=True``,
    ``temperature=0.05``, ``gain=False``, ``output_conv=True``, ``output_norm=True``.

    Args:
        channels: of the input and the output.
        embedding: channels of query and key; default channels // 2.
        dimensions: of the input: 1 (B x C x L), 2 (B x C x H x W) or 3 (B x C x T x H x W).
        mode: the pairwise affinity of the whitened queries and keys: the softmax above (``embedded_gaussian``),
            q_i^T k_j / M (``dot_product``) or relu(w_q^T q_i + w_k^T k_j) / M (``concatenation``), M keys in all.
        whitening: the mean taken from query and key: each channel's over the positions (``instance``), the one over
            channels and positions (``layer``) or over the whole batch (``batch``); ``none`` leaves them as they are.
        whiten_variance: whether whitening also divides by the standard deviation.
        pairwise: whether there is the pairwise term.
        unary: whether there is the unary term; at least one of the two must be.
        scale: whether the softmax's affinities are divided by sqrt(embedding).
        temperature: what the softmax's affinities are divided by, above 0.
        subsample: whether keys, values and mask are taken from the input max-pooled by 2 (by 1, 2, 2 in 3-D).
        gain: whether the pairwise term has the factor gamma, learned, 0 at the start.
        output_conv: whether values have ``embedding`` channels and a 1x1 convolution leads y back to ``channels``.
        output_bias: whether the output convolution has a bias.
        output_norm: whether y passes a batch norm.
        no_decay: projections that are trained without weight decay.
        init_scale: factor of the standard deviation, 0.01, with which weights of query and key are drawn.
        eps: added to the variance when whitening.

    Raises:
        UserError: if an argument is outside its range.
    """

    def __init__(
        self,
        channels: int,
        *,
        embedding: int | None = None,
        dimensions: Literal[1, 2, 3] = 2,
        mode: Literal["embedded_gaussian", "dot_product", "concatenation"] = "embedded_gaussian",
        whitening: Literal["none", "instance", "layer", "batch"] = "none",
        whiten_variance: bool = False,
        pairwise: bool = True,
        unary: bool = True,
        scale: bool = False,
        temperature: float = 1.0,
        subsample: bool = False,
        gain: bool = True,
        output_conv: bool = False,
        output_bias: bool = False,
        output_norm: bool = False,
        no_decay: Sequence[Projection] = ("query", "key"),
        init_scale: float = 1.0,
        eps: float = 1e-5,
    ) -> None:
        if not (pairwise or unary):
            raise UserError("a disentangled block needs its pairwise term, its unary term or both")
        if whitening not in WHITENINGS:
            raise UserError(f"whitening is {whitening!r}: choose {', '.join(WHITENINGS)}")
        super().__init__(
            channels,
            embedding=embedding,
            dimensions=dimensions,
            mode=mode if pairwise else "none",
            scale=scale,
            temperature=temperature,
            subsample="input" if subsample else "none",
            whitening=() if whitening == "none" else (whitening,),
            whiten_variance=whiten_variance,
            mask=unary,
            gain=gain,
            output_conv=output_conv,
            output_bias=output_bias,
            output_norm=output_norm,
            init_scale=init_scale,
            eps=eps,
        )
        self.no_decay = tuple(no_decay)

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that the recipe trains without weight decay."""
        for name in self.no_decay:
            projection = getattr(self, name)
            if projection is not None:
                yield from projection.parameters()
