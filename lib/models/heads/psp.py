"""The pyramid pooling head (Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.base.errors import UserError
from lib.models.common import ConvNormRelu
from lib.models.standard import adaptive_mean


class PSPHead(nn.Module):
    """Averages over grids of several sizes, each projected, upsampled and joined to the input; convolution, classifier.

    Args:
        channels: of the backbone's stages; the head reads the last one.
        num_classes: K.
        pyramid: bins along a side, for every level of the pyramid.
        inner: channels of every level's projection.
        width: channels of the 3x3 convolution after the join.
        align_corners: how the levels are upsampled: whether corners or edges coincide.
        dropout: probability with which a channel is dropped before the classifier.

    Raises:
        UserError: if the pyramid is not made of positive integers.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        pyramid: Sequence[int] = (1, 2, 3, 6),
        inner: int = 512,
        width: int = 512,
        align_corners: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not pyramid or min(pyramid) < 1:
            raise UserError(f"pyramid {list(pyramid)} must be one or more positive integers")
        self.pyramid, self.align_corners = tuple(pyramid), align_corners
        self.levels = nn.ModuleList(ConvNormRelu(channels[-1], inner, 1) for _ in pyramid)
        self.fuse = ConvNormRelu(channels[-1] + len(pyramid) * inner, width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Takes the stages' outputs, returns logits B x K x H x W of the last one's size."""
        x = features[-1]
        size = x.shape[2:]
        joined = [x]
        for bins, project in zip(self.pyramid, self.levels, strict=True):
            level = project(adaptive_mean(x, bins))
            joined.append(F.interpolate(level, size, mode="bilinear", align_corners=self.align_corners))
        return self.classifier(self.dropout(self.fuse(torch.cat(joined, dim=1))))
