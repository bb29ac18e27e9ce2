"""How a segmentor's weights start, by name; the constructors' own start is ``default``."""

from torch import nn

from lib.models.backbones.resnet import BasicBlock, Bottleneck, ResNet
from lib.models.blocks.asymmetric import AsymmetricFusion
from lib.models.blocks.nonlocal_block import NonLocal
from lib.models.common import ConvNorm
from lib.models.segmentor import Segmentor


def leave(network: Segmentor) -> None:
    """``default``: what the constructors drew: PyTorch's own start in heads, He's normal distribution in backbones."""


def draw_as_mmsegmentation(network: Segmentor) -> None:
    """``mmseg``: mmsegmentation's start.

    In the heads, convolutions with a norm have He et al.'s normal weights (fan-out, ReLU) and biases 0; classifiers
    N(0, 0.01) and biases 0. A non-local block's query, key and value are N(0, 0.01), its output convolution is drawn
    like the others where a norm follows, which starts at 0; its mask has PyTorch's start. In a ResNet the last norm of
    every residual unit starts at 0. All else is as in ``default``, which is mmsegmentation's there: a backbone's
    convolutions, a global context block, a spectral stage.
    """
    if isinstance(network.backbone, ResNet):
        for unit in network.backbone.modules():
            if isinstance(unit, (BasicBlock, Bottleneck)):
                nn.init.zeros_((unit.bn3 if isinstance(unit, Bottleneck) else unit.bn2).weight)
    for head in (network.head, network.aux_head):
        if head is None:
            continue
        for layer in head.modules():
            if isinstance(layer, ConvNorm):
                _draw_convolution(layer.conv)
            elif isinstance(layer, AsymmetricFusion):
                _draw_convolution(layer.fuse)
            elif isinstance(layer, NonLocal):
                _draw_block(layer)
        nn.init.normal_(head.classifier.weight, std=0.01)
        nn.init.zeros_(head.classifier.bias)


def _draw_block(block: NonLocal) -> None:
    if block.mask is not None:
        block.mask.reset_parameters()
    if block.output is not None and block.output_norm is not None:
        _draw_convolution(block.output)


def _draw_convolution(conv: nn.Module) -> None:
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


INITIALISATIONS = {"default": leave, "mmseg": draw_as_mmsegmentation}
