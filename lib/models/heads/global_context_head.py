"""The GCNet head (Cao et al., "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", 2019)."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from lib.models.blocks.global_context import GlobalContext
from lib.models.heads.nonlocal_head import NonLocalHead


class GlobalContextHead(NonLocalHead):
    """3x3 convolution, global context block, 3x3 convolution, their output joined to the input, 3x3, classifier.

    The block's options are those of ``GlobalContext``, whose docstring has the formula.

    Args:
        channels: of the backbone's stages; the head reads the last one.
        num_classes: K.
        embedding, pooling, add, multiply, layers: see ``GlobalContext``.
        inner: channels of the block; default a quarter of the input's.
        width: channels of the convolution after the join.
        kernel_size: of all convolutions but the classifier.
        dilation: of the first two convolutions, at least 1.
        concat_input: whether there are a join and a convolution after it; the classifier reads the second one if not.
        dropout: probability with which a channel is dropped before the classifier.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        embedding: int | None = None,
        pooling: Literal["attention", "average"] = "attention",
        add: bool = True,
        multiply: bool = False,
        layers: Literal[1, 2] = 2,
        inner: int | None = None,
        width: int = 512,
        kernel_size: Literal[1, 3] = 3,
        dilation: int = 1,
        concat_input: bool = True,
        dropout: float = 0.1,
    ) -> None:
        block = partial(GlobalContext, embedding=embedding, pooling=pooling, add=add, multiply=multiply, layers=layers)
        super().__init__(
            channels,
            num_classes,
            block=block,
            inner=inner,
            width=width,
            kernel_size=kernel_size,
            dilation=dilation,
            concat_input=concat_input,
            dropout=dropout,
        )
