"""The head of non-local networks: the FCN head with a context block between its first two convolutions."""

from collections.abc import Callable, Sequence

from torch import nn

from lib.models.heads.fcn import FCNHead


class NonLocalHead(FCNHead):
    """3x3 convolution, context block, 3x3 convolution, their output joined to the input, 3x3 convolution, classifier.

    Args:
        channels: of the backbone's stages; the head reads the last one.
        num_classes: K.
        block: makes the context block for its number of channels.
        inner: channels of the block; default a quarter of the input's.
        width: channels of the third convolution.
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
        dropout: float = 0.1,
    ) -> None:
        super().__init__(channels, num_classes, inner=inner, width=width, dropout=dropout)
        self.block = block(self.reduce.conv.out_channels)
