"""The convolutional segmentation head and the auxiliary one."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lib.base.errors import UserError
from lib.models.common import ConvNormRelu


class FCNHead(nn.Module):
    """Two 3x3 convolutions, their output joined to the input, a third 3x3 convolution, dropout, classifier.

    Args:
        channels: of the backbone's stages; the head reads the last one.
        num_classes: K.
        inner: channels of the first convolutions; default a quarter of the input's.
        width: channels of the convolution after the join.
        convs: number of convolutions before the join, at least 1.
        kernel_size: of all convolutions but the classifier.
        dilation: of the convolutions before the join, at least 1.
        concat_input: whether there are a join and a convolution after it; the classifier reads the first ones if not.
        dropout: probability with which a channel is dropped before the classifier.

    Raises:
        UserError: if ``convs`` or ``dilation`` is less than 1.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        inner: int | None = None,
        width: int = 512,
        convs: int = 2,
        kernel_size: Literal[1, 3] = 3,
        dilation: int = 1,
        concat_input: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if convs < 1:
            raise UserError(f"convs is {convs}: a head needs at least 1 convolution")
        _check_dilation(dilation)
        inner = inner or channels[-1] // 4
        self.reduce = ConvNormRelu(channels[-1], inner, kernel_size, dilation=dilation)
        self.block = nn.Identity()
        refine = [ConvNormRelu(inner, inner, kernel_size, dilation=dilation) for _ in range(convs - 1)]
        self.refine = refine[0] if convs == 2 else nn.Sequential(*refine)
        self.fuse = ConvNormRelu(channels[-1] + inner, width, kernel_size) if concat_input else None
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width if concat_input else inner, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Takes the stages' outputs, returns logits B x K x H x W of the last one's size."""
        x = features[-1]
        context = self.refine(self.block(self.reduce(x)))
        if self.fuse is not None:
            context = self.fuse(torch.cat((x, context), dim=1))
        return self.classifier(self.dropout(context))


class AuxiliaryHead(nn.Module):
    """A 3x3 convolution that halves the channels, dropout and a classifier, for a loss on an earlier stage.

    Args:
        channels: of the backbone's stages.
        num_classes: K.
        stage: which stage it reads, counted from 1.
        width: channels of the convolution; default half of the stage's.
        bias: whether the convolution has a bias, which the norm after it makes redundant (published ANN, DeepLab).
        dilation: of the convolution, at least 1.
        dropout: probability with which a channel is dropped before the classifier.

    Raises:
        UserError: if ``dilation`` is less than 1.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        stage: int = 3,
        width: int | None = None,
        bias: bool = False,
        dilation: int = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        _check_dilation(dilation)
        self.stage = stage
        width = width or channels[stage - 1] // 2
        self.reduce = ConvNormRelu(channels[stage - 1], width, bias=bias, dilation=dilation)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Takes the stages' outputs, returns logits B x K x H x W of its stage's size."""
        return self.classifier(self.dropout(self.reduce(features[self.stage - 1])))


def _check_dilation(dilation: int) -> None:
    if dilation < 1:
        raise UserError(f"dilation is {dilation}: it must be at least 1")
