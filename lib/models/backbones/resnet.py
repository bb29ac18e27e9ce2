"""ResNet (He et al., "Deep Residual Learning for Image Recognition", 2016), dilated for dense prediction."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from lib.base.errors import UserError
from lib.models.common import ConvNormRelu, initialise_convolutions


def _conv3x3(in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, dilation, dilation, bias=False)


def _projection(in_channels: int, out_channels: int, *, stride: int) -> nn.Module | None:
    """The shortcut's 1x1 convolution, or None where the identity fits."""
    if in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ``dilations`` are those of the first and of the second one."""

    expansion = 1
    activations: ClassVar = {"bn1": "relu1"}
    """Which norm is followed by which ReLU; read by ``exts.sync_bn.convert_sync_batchnorm``."""

    def __init__(self, in_channels: int, width: int, *, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, width, stride=stride, dilation=dilations[0])
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(width, width, dilation=dilations[1])
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(in_channels, width, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out.add_(shortcut))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; stride and ``dilations[0]`` are those of the 3x3 one."""

    expansion = 4
    activations: ClassVar = {"bn1": "relu1", "bn2": "relu2"}
    """As in ``BasicBlock``."""

    def __init__(self, in_channels: int, width: int, *, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(width, width, stride=stride, dilation=dilations[0])
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(in_channels, out_channels, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out.add_(shortcut))


# depth: the residual unit and the number of units in each of the four stages
DEPTHS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}

# kind of a stem of three 3x3 convolutions: the channels of the first two; the third has twice as many
DEEP_STEMS = {"deep": 64, "v1c": 32}


class ResNet(nn.Module):
    """ResNet without its classifier, returning the outputs of its four stages.

    A stage that gave up its stride has the dilation d: 2, or 4 if the stage before it gave up its own too. Its 3x3
    convolutions get d, but the one that had the stride gets d // 2. The defaults are those of openseg's torchcv.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: of the image.
        stem: ``deep`` is three 3x3 convolutions of 64, 64 and 128 channels, ``v1c`` three of 32, 32 and 64
            (mmsegmentation), ``plain`` one 7x7 of 64.
        output_stride: input size over the size of the last stage's output.
        multi_grid: factors of the dilation in the units of stage 4, the first ones where there are fewer units.
        ceil_mode: whether the stem's max-pooling rounds sizes up (torchcv) or down (torchvision, mmsegmentation).
        contract_dilation: whether the convolution that gave up its stride gets d // 2; d if not.
        dilate_second: whether in ResNet-18 and 34 a unit's second convolution is dilated (torchcv) or not
            (mmsegmentation).

    Raises:
        UserError: if an argument is outside its range.

    Attributes:
        channels: the channels of the four outputs.
    """

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        *,
        stem: Literal["deep", "v1c", "plain"] = "deep",
        output_stride: Literal[8, 16, 32] = 8,
        multi_grid: Sequence[int] = (1, 1, 1),
        ceil_mode: bool = True,
        contract_dilation: bool = True,
        dilate_second: bool = True,
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise UserError(f"there is no ResNet of depth {depth}: choose one of {', '.join(map(str, DEPTHS))}")
        unit, counts = DEPTHS[depth]
        _check_multi_grid(multi_grid, units=counts[3], output_stride=output_stride)
        self.stem, in_channels = _make_stem(stem, in_channels)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=ceil_mode)
        reached = 4
        for index, count in enumerate(counts):
            wanted = 1 if index == 0 else 2
            stride = wanted if reached * wanted <= output_stride else 1
            reached *= stride
            dilation = 4 * 2**index // reached
            grid = multi_grid if index == 3 and dilation > 1 else (1,) * count
            width = 64 * 2**index
            units = []
            for position, factor in enumerate(grid[:count]):
                rate = dilation * factor
                contracted = contract_dilation and position == 0 and stride < wanted
                units.append(
                    unit(
                        in_channels,
                        width,
                        stride=stride if position == 0 else 1,
                        dilations=(rate // 2 if contracted else rate, rate if dilate_second else 1),
                    )
                )
                in_channels = width * unit.expansion
            self.add_module(f"layer{index + 1}", nn.Sequential(*units))
        self.channels = tuple(64 * 2**index * unit.expansion for index in range(4))
        initialise_convolutions(self)

    @property
    def stages(self) -> list[list[nn.Module]]:
        """The layers of the stem and of the four stages."""
        return [[self.stem], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Takes B x C x H x W, returns the four stages' outputs, finest first."""
        x = self.pool(self.stem(image))
        outputs = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            outputs.append(x)
        return outputs


def _make_stem(kind: str, in_channels: int) -> tuple[nn.Sequential, int]:
    """The stem of that kind, of stride 2, for images of ``in_channels``, and its number of output channels."""
    if kind == "plain":
        return nn.Sequential(ConvNormRelu(in_channels, 64, 7, stride=2)), 64
    if kind not in DEEP_STEMS:
        raise UserError(f"there is no stem {kind!r}: choose {', '.join(DEEP_STEMS)} or plain")
    width = DEEP_STEMS[kind]
    layers = (ConvNormRelu(in_channels, width, stride=2), ConvNormRelu(width, width), ConvNormRelu(width, 2 * width))
    return nn.Sequential(*layers), 2 * width


def _check_multi_grid(multi_grid: Sequence[int], *, units: int, output_stride: int) -> None:
    if output_stride not in (8, 16, 32):
        raise UserError(f"output_stride is {output_stride}: choose 8, 16 or 32")
    if len(multi_grid) < units or min(multi_grid) < 1:
        raise UserError(f"multi_grid {list(multi_grid)} must be {units} or more positive integers, one for each unit")
    if output_stride == 32 and any(factor != 1 for factor in multi_grid):
        raise UserError(f"multi_grid {list(multi_grid)} needs a dilated stage 4: output_stride 8 or 16, not 32")
