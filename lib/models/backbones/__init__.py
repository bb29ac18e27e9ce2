"""Backbones: an image in, the outputs of four stages out."""

from functools import partial

from lib.models.backbones.resnet import DEPTHS, ResNet

BACKBONES = {f"resnet{depth}": partial(ResNet, depth) for depth in DEPTHS}
