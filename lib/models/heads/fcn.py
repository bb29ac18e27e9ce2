"""The convolutional segmentation head and the auxiliary one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.models.common import ConvNormRelu


class FCNHead(nn.Module):
    """Two 3x3 convolutions, their output joined to the input, a third 3x3 convolution, dropout, classifier.

    Args:
        channels: of the backbone's stages; the head reads the last one.
        num_classes: K.
        inner: channels of the two convolutions; default a quarter of the input's.
        width: channels of the third one.
        dropout: probability with which a channel is dropped before the classifier.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        inner: int | None = None,
        width: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        inner = inner or channels[-1] // 4
        self.reduce = ConvNormRelu(channels[-1], inner)
        self.block = nn.Identity()
        self.refine = ConvNormRelu(inner, inner)
        self.fuse = ConvNormRelu(channels[-1] + inner, width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Takes the stages' outputs, returns logits B x K x H x W of the last one's size."""
        x = features[-1]
        context = self.refine(self.block(self.reduce(x)))
        return self.classifier(self.dropout(self.fuse(torch.cat((x, context), dim=1))))


class AuxiliaryHead(nn.Module):
    """A 3x3 convolution that halves the channels, dropout and a classifier, for a loss on an earlier stage.

    Args:
        channels: of the backbone's stages.
        num_classes: K.
        stage: which stage it reads, 1 to 4.
        dropout: probability with which a channel is dropped before the classifier.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, *, stage: int = 3, dropout: float = 0.1) -> None:
        super().__init__()
        self.stage = stage
        width = channels[stage - 1] // 2
        self.reduce = ConvNormRelu(channels[stage - 1], width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Takes the stages' outputs, returns logits B x K x H x W of its stage's size."""
        return self.classifier(self.dropout(self.reduce(features[self.stage - 1])))
