"""A backbone takes an image and returns the outputs of its four stages."""

from functools import partial

from lib.models.backbones import hrnet, preact_resnet, resnet
from lib.models.backbones.mobilenet import MobileNetV2

BACKBONES = {
    **{f"resnet{depth}": partial(resnet.ResNet, depth) for depth in resnet.DEPTHS},
    **{f"hrnet_w{width}": partial(hrnet.HRNet, width) for width in hrnet.WIDTHS},
    "mobilenet_v2": MobileNetV2,
}

CIFAR_BACKBONES = {
    f"preact_resnet{depth}": partial(preact_resnet.PreActivationResNet, depth) for depth in preact_resnet.DEPTHS
}
"""Networks for images of 32 x 32 pixels, with three stages: for classification, not for a ``Segmentor``."""
