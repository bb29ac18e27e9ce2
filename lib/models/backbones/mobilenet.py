"""MobileNetV2 (Sandler et al., "Inverted Residuals and Linear Bottlenecks", 2018), dilated for dense prediction."""

from typing import Literal

from torch import Tensor, nn

from lib.base.errors import UserError
from lib.models.common import ConvNorm, initialise_convolutions

# The paper's table 2: expansion, channels, number of units, stride of the first one.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

# The units, counted from 0, whose outputs the backbone returns. The third is the first of 160 channels: torchcv's
# auxiliary head reads it there.
RETURNED = (2, 5, 13, 16)


class ConvNormRelu6(ConvNorm):
    """``ConvNorm`` and ReLU6."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, **options: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **options)
        self.relu = nn.ReLU6(inplace=True)


class InvertedResidual(nn.Module):
    """1x1 convolution that expands, depthwise 3x3 one, 1x1 one that projects; a shortcut where the shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int, stride: int, dilation: int) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand = nn.Identity() if expansion == 1 else ConvNormRelu6(in_channels, width, 1)
        self.depthwise = ConvNormRelu6(width, width, stride=stride, dilation=dilation, groups=width)
        self.project = ConvNorm(width, out_channels, 1)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.shortcut else out


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1 without its last convolution and its classifier.

    From where a stride was given up, the depthwise convolutions have the dilation 2, and 4 after the second such place.

    Args:
        in_channels: of the image.
        output_stride: input size over the size of the last output.

    Raises:
        UserError: if ``output_stride`` is another number.

    Attributes:
        channels: the channels of the four outputs.
    """

    def __init__(self, in_channels: int = 3, *, output_stride: Literal[8, 16, 32] = 8) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise UserError(f"output_stride is {output_stride}: choose 8, 16 or 32")
        self.stem = ConvNormRelu6(in_channels, 32, stride=2)
        units, widths = [], []
        in_channels, reached, dilation = 32, 2, 1
        for expansion, channels, count, wanted in STAGES:
            stride = wanted if reached * wanted <= output_stride else 1
            reached *= stride
            dilation *= wanted // stride
            for position in range(count):
                units.append(
                    InvertedResidual(
                        in_channels,
                        channels,
                        expansion=expansion,
                        stride=stride if position == 0 else 1,
                        dilation=dilation,
                    )
                )
                widths.append(channels)
                in_channels = channels
        self.units = nn.ModuleList(units)
        self.channels = tuple(widths[index] for index in RETURNED)
        initialise_convolutions(self)

    @property
    def stages(self) -> list[list[nn.Module]]:
        """The stem, and the units up to each of the four outputs."""
        ends = [index + 1 for index in RETURNED]
        return [[self.stem], *(list(self.units[first:end]) for first, end in zip([0, *ends], ends, strict=False))]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Takes B x C x H x W, returns four outputs of 24, 32, 160 and 320 channels, finest first."""
        x = self.stem(image)
        outputs = []
        for index, unit in enumerate(self.units):
            x = unit(x)
            if index in RETURNED:
                outputs.append(x)
        return outputs
