"""The unary block (Yin et al., "Disentangled Non-Local Neural Networks", ECCV 2020)."""

from typing import Literal

from lib.models.blocks.nonlocal_block import NonLocal


class Unary(NonLocal):
    """Adds to every position the same mixture of all positions' values, x_i + output(sum_j softmax_j(m_j) v_j).

    The term that is left of the disentangled block without its pairwise one (the paper's section 4); m = mask(x). Cost
    and memory are linear in the positions.

    Args:
        channels: of the input and the output.
        embedding: channels of the values where there is an output convolution; default channels // 2.
        dimensions: of the input: 1 (B x C x L), 2 (B x C x H x W) or 3 (B x C x T x H x W).
        subsample: whether values and mask are taken from the input max-pooled by 2 (by 1, 2, 2 in 3-D).
        output_conv: whether values have ``embedding`` channels and a 1x1 convolution leads back to ``channels``.
        output_norm: whether what is added to the input passes a batch norm first.
    """

    def __init__(
        self,
        channels: int,
        *,
        embedding: int | None = None,
        dimensions: Literal[1, 2, 3] = 2,
        subsample: bool = False,
        output_conv: bool = False,
        output_norm: bool = False,
    ) -> None:
        super().__init__(
            channels,
            embedding=embedding,
            dimensions=dimensions,
            mode="none",
            subsample="input" if subsample else "none",
            mask=True,
            gain=False,
            output_conv=output_conv,
            output_norm=output_norm,
            zero_init=False,
        )
