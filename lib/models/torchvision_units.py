"""torchvision's residual units up to their last ReLU."""

from torch import Tensor
from torchvision.models.resnet import BasicBlock, Bottleneck


class OpenBasicBlock(BasicBlock):
    """``BasicBlock`` whose output is not rectified yet.

    torchvision's uses one ReLU twice, so that the last one cannot be taken out.
    """

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return out


class OpenBottleneck(Bottleneck):
    """The same of ``Bottleneck``, which uses its ReLU three times."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return out


OPEN = {BasicBlock: OpenBasicBlock, Bottleneck: OpenBottleneck}
