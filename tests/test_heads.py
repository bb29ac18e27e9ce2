"""Heads read the stages they should and put the block where the paper has it."""

import torch
import torch.nn.functional as F
from torch import nn

from lib.models.heads import HEADS
from lib.models.heads.fcn import AuxiliaryHead, FCNHead
from lib.models.heads.nonlocal_head import NonLocalHead

CHANNELS = (4, 8, 16, 32)
FEATURES = [torch.randn(2, channels, 6, 5) for channels in CHANNELS]


def norm_relu(x, layer):
    x = F.conv2d(x, layer.conv.weight, padding=1)
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    return ((x - mean) / (variance + 1e-5).sqrt()).clamp(min=0)


def test_the_head_is_conv_block_conv_joined_to_its_input():
    class Shift(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.channels = channels

        def forward(self, x):
            return x + 2

    head = NonLocalHead(CHANNELS, 3, block=Shift, width=10, dropout=0.0)
    assert head.block.channels == 8
    context = norm_relu(norm_relu(FEATURES[3], head.reduce) + 2, head.refine)
    joined = norm_relu(torch.cat([FEATURES[3], context], dim=1), head.fuse)
    expected = F.conv2d(joined, head.classifier.weight, head.classifier.bias)
    torch.testing.assert_close(head(FEATURES), expected, rtol=1e-4, atol=1e-5)


def test_the_fcn_head_is_the_nonlocal_head_without_its_block():
    nonlocal_head = NonLocalHead(CHANNELS, 3, block=lambda channels: nn.Identity()).eval()
    fcn = FCNHead(CHANNELS, 3).eval()
    fcn.load_state_dict(nonlocal_head.state_dict())
    torch.testing.assert_close(fcn(FEATURES), nonlocal_head(FEATURES))


def test_the_auxiliary_head_reads_its_stage_alone():
    head = AuxiliaryHead(CHANNELS, 3, stage=2).eval()
    assert head.reduce.conv.weight.shape == (4, 8, 3, 3)
    others = [features if stage == 2 else features + 1 for stage, features in enumerate(FEATURES, 1)]
    torch.testing.assert_close(head(others), head(FEATURES))


def test_dropout_drops_whole_channels_in_training_only():
    for name in ("nonlocal", "fcn", "auxiliary"):
        make = HEADS[name]
        options = {"block": lambda channels: nn.Identity()} if name == "nonlocal" else {}
        head = make(CHANNELS, 3, dropout=0.5, **options)
        seen = []
        head.dropout.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output))
        head(FEATURES)
        head.eval()(FEATURES)
        training, evaluation = ((output.flatten(2).abs().amax(2) == 0).float().mean() for output in seen)
        assert training > evaluation + 0.2
