"""The double attention block (Chen et al., "A^2-Nets: Double Attention Networks", NeurIPS 2018)."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from lib.models.blocks.nonlocal_block import CONVS
from lib.models.blocks.terms import AttentionTerms, Term, widen


class DoubleAttention(nn.Module):
    """Features gathered into a few global descriptors and handed back to every position, added to the input.

    With a = features(x), b and d the softmax of gather(x) and distribute(x) over the positions,

        G = a b^T,    y_n = G^T d_n,    out = x + output(y),

    as torchcv computes it; the paper takes the softmax of d over the channels, and y_n = G d_n. G has embedding x
    embedding entries, so that time and memory grow linearly with the positions.

    Args:
        channels: of the input and the output.
        embedding: channels of the features and number of attention maps; default channels // 2.
        dimensions: of the input: 1 (B x C x L), 2 (B x C x H x W) or 3 (B x C x T x H x W).
    """

    def __init__(self, channels: int, *, embedding: int | None = None, dimensions: Literal[1, 2, 3] = 2) -> None:
        super().__init__()
        embedding = embedding or channels // 2
        conv = CONVS[dimensions]
        self.features = conv(channels, embedding, 1)
        self.gather = conv(channels, embedding, 1)
        self.distribute = conv(channels, embedding, 1)
        self.output = conv(embedding, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Takes B x C x (positions of ``dimensions`` dimensions) and returns the same shape."""
        # One attention after the other, so that the first is gone when the second is made
        descriptors = self.features(x).flatten(2) @ _attention(self.gather(x)).mT
        context = descriptors.mT @ _attention(self.distribute(x))
        return x + self.output(context.unflatten(2, x.shape[2:]))

    def attention(self, x: Tensor) -> AttentionTerms:
        """The block's attention for ``x``: y = sum_j (d_n^T a_j) b_j, so weights are d_n^T a_j and values b_j.

        The weights may be negative and have any sum.
        """
        distributed, features = widen(_attention(self.distribute(x))), widen(self.features(x).flatten(2))

        def rows(positions: Sequence[int]) -> Tensor:
            return distributed[:, :, positions].mT @ features

        def apply(values: Tensor) -> Tensor:
            return distributed.mT @ (features @ values)

        term = Term(rows, apply, signed=True)
        return AttentionTerms({"pairwise": term, "applied": term}, tuple(x.shape[2:]), tuple(x.shape[2:]))


def _attention(logits: Tensor) -> Tensor:
    """The softmax over the positions: B x E x ... -> B x E x N of the same type."""
    return logits.flatten(2).softmax(dim=2).to(logits.dtype)
