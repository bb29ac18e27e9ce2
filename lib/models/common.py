"""Small layers that backbones, blocks and heads share."""

from collections import OrderedDict

from torch import nn


class ConvNormRelu(nn.Sequential):
    """A square convolution without bias, batch norm, ReLU; padded so that only ``stride`` changes the size.

    Takes B x ``in_channels`` x H x W to B x ``out_channels`` x ceil(H / stride) x ceil(W / stride).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, *, stride: int = 1, dilation: int = 1
    ) -> None:
        padding = dilation * (kernel_size // 2)
        super().__init__(
            OrderedDict(
                conv=nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False),
                norm=nn.BatchNorm2d(out_channels),
                relu=nn.ReLU(inplace=True),
            )
        )
