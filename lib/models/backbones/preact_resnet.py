"""Pre-activation ResNet for 32 x 32 images (He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016)."""

from typing import Literal

from torch import Tensor, nn

from lib.base.errors import UserError
from lib.models.common import initialise_convolutions

DEPTHS = (20, 32, 44, 56, 110)


class PreActivationUnit(nn.Module):
    """Norm, ReLU and convolution, two or three times, and a shortcut.

    Args:
        in_channels: of the input.
        width: channels between the convolutions; the output has ``expansion`` times as many.
        expansion: 1: two 3x3 convolutions; 4: 1x1, 3x3 and 1x1.
        stride: of the first 3x3 convolution, and of the shortcut.
    """

    def __init__(self, in_channels: int, width: int, *, expansion: Literal[1, 4], stride: int) -> None:
        super().__init__()
        out_channels = width * expansion
        if expansion == 1:
            shapes = [(in_channels, width, 3, stride), (width, width, 3, 1)]
        else:
            shapes = [(in_channels, width, 1, 1), (width, width, 3, stride), (width, out_channels, 1, 1)]
        layers = []
        for fan_in, fan_out, size, step in shapes:
            conv = nn.Conv2d(fan_in, fan_out, size, step, size // 2, bias=False)
            layers.append(nn.Sequential(nn.BatchNorm2d(fan_in), nn.ReLU(inplace=True), conv))
        self.residual = nn.Sequential(*layers)
        self.shortcut = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


class PreActivationResNet(nn.Module):
    """Three stages of (depth - 2) / 6 units at full, half and quarter resolution, without a classifier.

    Args:
        depth: 20, 32, 44, 56 or 110, counted with two convolutions a unit.
        in_channels: of the image.
        bottleneck: whether units have three convolutions and four times the channels. The spectral non-local paper's
            code builds its networks 56 and 110 so, with the number of units of the paper's.

    Raises:
        UserError: if there is no network of that depth.

    Attributes:
        channels: the channels of the three outputs.
    """

    def __init__(self, depth: int, in_channels: int = 3, *, bottleneck: bool = False) -> None:
        super().__init__()
        if depth not in DEPTHS:
            known = ", ".join(map(str, DEPTHS))
            raise UserError(f"there is no pre-activation ResNet of depth {depth}: choose one of {known}")
        expansion = 4 if bottleneck else 1
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        in_channels = 16
        for stage, width in enumerate((16, 32, 64)):
            units = []
            for position in range((depth - 2) // 6):
                stride = 2 if stage > 0 and position == 0 else 1
                units.append(PreActivationUnit(in_channels, width, expansion=expansion, stride=stride))
                in_channels = width * expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*units))
        self.norm = nn.BatchNorm2d(in_channels)
        self.channels = tuple(width * expansion for width in (16, 32, 64))
        initialise_convolutions(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Takes B x C x H x W, returns the outputs of the three stages, finest first, the last one after norm, ReLU."""
        x = self.stem(image)
        outputs = []
        for layer in (self.layer1, self.layer2, self.layer3):
            x = layer(x)
            outputs.append(x)
        outputs[-1] = self.norm(x).relu()
        return outputs
