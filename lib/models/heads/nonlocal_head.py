"""The head of non-local networks: the FCN head with a context block after its first convolution."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn

from lib.models.heads.fcn import FCNHead


class NonLocalHead(FCNHead):
    """3x3 convolution, context block, 3x3 convolution, their output joined to the input, 3x3 convolution, classifier.

    Args:
        channels: of the backbone's stages; the head reads the last one.
        num_classes: K.
        block: makes the context block for its number of channels.
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
        block: Callable[[int], nn.Module],
        inner: int | None = None,
        width: int = 512,
        kernel_size: Literal[1, 3] = 3,
        dilation: int = 1,
        concat_input: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(
            channels,
            num_classes,
            inner=inner,
            width=width,
            kernel_size=kernel_size,
            dilation=dilation,
            concat_input=concat_input,
            dropout=dropout,
        )
        self.block = block(self.reduce.conv.out_channels)
