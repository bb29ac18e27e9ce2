"""The DenseASPP head (Yang et al., "DenseASPP for Semantic Segmentation in Street Scenes", CVPR 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DenseASPPHead(nn.Module):
    """Dilated 3x3 convolutions of growing rates, each reading the input and all before it; then a classifier.

    The paper's y_l = H_l([y_{l-1}, ..., y_0]) (its section 3), where H is norm, ReLU, 1x1 convolution, norm, ReLU,
    dilated 3x3 convolution and dropout, without the first norm in the first layer.

    Args:
        channels: of the backbone's stages; the head reads the last one.
        num_classes: K.
        dilations: of the layers' 3x3 convolutions, in order.
        inner: channels of the 1x1 convolutions; half of the paper's 512 input channels.
        growth: channels that every layer adds; an eighth of the paper's 512 input channels.
        dropout: probability with which a channel is dropped after every layer and before the classifier.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        dilations: Sequence[int] = (3, 6, 12, 18, 24),
        inner: int = 256,
        growth: int = 64,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        widths = [channels[-1] + growth * index for index in range(len(dilations) + 1)]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(width) if index else nn.Identity(),
                nn.ReLU(),
                nn.Conv2d(width, inner, 1),
                nn.BatchNorm2d(inner),
                nn.ReLU(inplace=True),
                nn.Conv2d(inner, growth, 3, padding=rate, dilation=rate),
                nn.Dropout2d(dropout),
            )
            for index, (width, rate) in enumerate(zip(widths, dilations, strict=False))
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(widths[-1], num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Takes the stages' outputs, returns logits B x K x H x W of the last one's size."""
        x = features[-1]
        for layer in self.layers:
            x = torch.cat((layer(x), x), dim=1)
        return self.classifier(self.dropout(x))
