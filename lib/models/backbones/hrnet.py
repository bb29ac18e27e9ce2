"""HRNetV2 (Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", TPAMI 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.base.errors import UserError
from lib.models.backbones.resnet import BasicBlock, Bottleneck
from lib.models.common import ConvNorm, ConvNormRelu, initialise_convolutions

WIDTHS = (18, 32, 48)
"""Channels of the finest branch in the published networks."""


def _upsample(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


class Exchange(nn.Module):
    """Four residual units on every branch, after which every branch gets the sum of all of them at its resolution.

    Args:
        widths: channels of the branches, finest first; each has half the resolution of the one before.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width, stride=1, dilations=(1, 1)) for _ in range(4))) for width in widths
        )
        self.paths = nn.ModuleList(
            nn.ModuleList(_path(widths, source=source, target=target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        """Takes and returns one B x C_i x H_i x W_i for every branch."""
        branches = [units(x) for units, x in zip(self.branches, branches, strict=True)]
        outputs = []
        for target, paths in enumerate(self.paths):
            messages = [path(branch) for path, branch in zip(paths, branches, strict=True)]
            coarse = [_upsample(message, branches[target]) for message in messages[target + 1 :]]
            outputs.append(sum(messages[1 : target + 1] + coarse, messages[0]).relu())
        return outputs


def _path(widths: tuple[int, ...], *, source: int, target: int) -> nn.Module:
    """What one branch passes before it joins another: strided convolutions downwards, a 1x1 convolution upwards."""
    if source == target:
        return nn.Identity()
    if source > target:
        return ConvNorm(widths[source], widths[target], 1)
    halvings = [ConvNormRelu(widths[source], widths[source], stride=2) for _ in range(target - source - 1)]
    return nn.Sequential(*halvings, ConvNorm(widths[source], widths[target], stride=2))


class HRNet(nn.Module):
    """HRNetV2 without its classifier: branches of strides 4, 8, 16 and 32 side by side, joined at stride 4 at the end.

    Args:
        width: channels of the finest branch: 18, 32 or 48; the others have 2, 4 and 8 times as many.
        in_channels: of the image.

    Raises:
        UserError: if there is no network of that width.

    Attributes:
        channels: the channels of the four outputs: 256, width, width, 15 * width.
    """

    def __init__(self, width: int, in_channels: int = 3) -> None:
        super().__init__()
        if width not in WIDTHS:
            raise UserError(f"there is no HRNet of width {width}: choose one of {', '.join(map(str, WIDTHS))}")
        widths = tuple(width * 2**branch for branch in range(4))
        self.stem = nn.Sequential(ConvNormRelu(in_channels, 64, stride=2), ConvNormRelu(64, 64, stride=2))
        self.layer1 = nn.Sequential(
            *(Bottleneck(64 if index == 0 else 256, 64, stride=1, dilations=(1, 1)) for index in range(4))
        )
        self.transition1 = nn.ModuleList([ConvNormRelu(256, widths[0]), ConvNormRelu(256, widths[1], stride=2)])
        self.stage2 = nn.Sequential(Exchange(widths[:2]))
        self.transition2 = ConvNormRelu(widths[1], widths[2], stride=2)
        self.stage3 = nn.Sequential(*(Exchange(widths[:3]) for _ in range(4)))
        self.transition3 = ConvNormRelu(widths[2], widths[3], stride=2)
        self.stage4 = nn.Sequential(*(Exchange(widths) for _ in range(3)))
        self.channels = (256, width, width, sum(widths))
        initialise_convolutions(self)

    @property
    def stages(self) -> list[list[nn.Module]]:
        """The layers of the stem and of the four stages; a stage begins with the transition to its new branch."""
        later = ([getattr(self, f"transition{index}"), getattr(self, f"stage{index + 1}")] for index in (1, 2, 3))
        return [[self.stem], [self.layer1], *later]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Takes B x C x H x W, returns four maps of stride 4: of stages 1 to 3 the finest branch, of stage 4 all."""
        stage1 = self.layer1(self.stem(image))
        stage2 = self.stage2([transition(stage1) for transition in self.transition1])
        stage3 = self.stage3([*stage2, self.transition2(stage2[-1])])
        stage4 = self.stage4([*stage3, self.transition3(stage3[-1])])
        joined = torch.cat([stage4[0], *(_upsample(x, stage4[0]) for x in stage4[1:])], dim=1)
        return [stage1, stage2[0], stage3[0], joined]
