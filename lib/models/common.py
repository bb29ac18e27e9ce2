"""Small layers that backbones, blocks and heads share."""

from collections import OrderedDict

from torch import nn


class ConvNorm(nn.Sequential):
    """A square convolution and batch norm; padded so that only ``stride`` changes the size.

    Takes B x ``in_channels`` x H x W to B x ``out_channels`` x ceil(H / stride) x ceil(W / stride).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        padding = dilation * (kernel_size // 2)
        super().__init__(
            OrderedDict(
                conv=nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias),
                norm=nn.BatchNorm2d(out_channels),
            )
        )


class ConvNormRelu(ConvNorm):
    """``ConvNorm`` and ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, bias=bias)
        self.relu = nn.ReLU(inplace=True)


def initialise_convolutions(module: nn.Module) -> None:
    """Draw the weights of every convolution in ``module`` from He et al.'s normal distribution (fan-out, ReLU)."""
    for layer in module.modules():
        # Drawing for the meta device, which holds no numbers, would take seconds.
        if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
