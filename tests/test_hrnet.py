"""HRNet has the published sizes, and its branches exchange what the paper's formula says."""

import pytest
import torch
import torch.nn.functional as F

from lib.base.errors import UserError
from lib.models.backbones.hrnet import Exchange, HRNet


@pytest.mark.parametrize(("width", "height", "length"), [(18, 64, 96), (32, 33, 65), (48, 32, 32)])
def test_outputs_have_stride_4_and_the_last_joins_four_branches(width, height, length):
    network = HRNet(width).eval()
    with torch.no_grad():
        outputs = network(torch.randn(1, 3, height, length))
    assert network.channels == (256, width, width, 15 * width)
    size = (-(-height // 4), -(-length // 4))
    assert [output.shape for output in outputs] == [(1, channels, *size) for channels in network.channels]


def test_w48_with_the_published_head_has_the_65_9_million_parameters_of_the_paper():
    # table 3 of the TPAMI paper: HRNetV2-W48 for Cityscapes, whose head is two 1x1 convolutions
    head = 720 * 720 + 3 * 720 + 720 * 19 + 19
    count = sum(parameter.numel() for parameter in HRNet(48).parameters()) + head
    assert round(count / 1e6, 1) == 65.9


def test_every_branch_gets_the_sum_of_all():
    torch.manual_seed(0)
    exchange = Exchange((4, 6, 8)).double().eval()
    branches = [torch.randn(2, *shape, dtype=torch.float64) for shape in ((4, 9, 13), (6, 5, 7), (8, 3, 4))]
    deep = [units(x) for units, x in zip(exchange.branches, branches, strict=True)]

    def convolve(x, layer, **options):
        # a new batch norm has mean 0, variance 1
        return F.conv2d(x, layer.conv.weight, **options) / (1 + 1e-5) ** 0.5

    def widen(x, like):
        return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)

    paths = exchange.paths
    halved = {"stride": 2, "padding": 1}
    fine = deep[0] + sum(widen(convolve(deep[j], paths[0][j]), deep[0]) for j in (1, 2))
    middle = convolve(deep[0], paths[1][0][0], **halved) + deep[1] + widen(convolve(deep[2], paths[1][2]), deep[1])
    twice = convolve(convolve(deep[0], paths[2][0][0], **halved).relu(), paths[2][0][1], **halved)
    coarse = twice + convolve(deep[1], paths[2][1][0], **halved) + deep[2]
    for ours, expected in zip(exchange(branches), (fine, middle, coarse), strict=True):
        torch.testing.assert_close(ours, expected.relu())


def test_images_of_a_batch_do_not_mix():
    torch.manual_seed(0)
    network = HRNet(18).eval()
    images = torch.randn(2, 3, 33, 40)
    with torch.no_grad():
        together, alone = network(images)[3], network(images[1:])[3]
    assert (together[1:] - alone).norm() < 1e-4 * alone.norm()


def test_other_widths_are_refused():
    with pytest.raises(UserError, match="width"):
        HRNet(40)
