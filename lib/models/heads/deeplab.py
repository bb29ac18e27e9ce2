"""The DeepLab v3 head (Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017)."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.common import ConvNormRelu


class DeepLabHead(nn.Module):
    """Atrous spatial pyramid pooling: image average, 1x1 and dilated 3x3 convolutions side by side; then a classifier.

    Args:
        channels: of the backbone's stages; the head reads the last one.
        num_classes: K.
        dilations: of the 3x3 convolutions; the paper has 12, 24, 36 at output stride 8 and half of these at 16.
        inner: channels of every branch.
        width: channels of the convolution that fuses the branches.
        fuse_size: kernel of that convolution: 1 as in the paper, 3 in mmsegmentation.
        dropout: probability with which a channel is dropped before the classifier.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        dilations: Sequence[int] = (12, 24, 36),
        inner: int = 512,
        width: int = 512,
        fuse_size: Literal[1, 3] = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.image = ConvNormRelu(channels[-1], inner, 1)
        self.point = ConvNormRelu(channels[-1], inner, 1)
        self.atrous = nn.ModuleList(ConvNormRelu(channels[-1], inner, dilation=rate) for rate in dilations)
        self.fuse = ConvNormRelu((2 + len(dilations)) * inner, width, fuse_size)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Takes the stages' outputs, returns logits B x K x H x W of the last one's size."""
        x = features[-1]
        image = self.image(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, *x.shape[2:])
        branches = [image, self.point(x), *(branch(x) for branch in self.atrous)]
        return self.classifier(self.dropout(self.fuse(torch.cat(branches, dim=1))))
