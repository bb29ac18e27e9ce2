"""Asymmetric blocks equal the paper's formula, which pools, attends and joins step by step."""

import pytest
import torch
import torch.nn.functional as F

from lib.base.errors import UserError
from lib.models.blocks.asymmetric import AsymmetricFusion, AsymmetricPyramid, pool_pyramid


def randomised(block):
    """The block in float64 and eval mode, nothing of it 0 or 1."""
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    for name, buffer in block.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return block.double().eval()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def written_out(block, low, high):
    """The paper's steps in its order: project, pool, attend with the whole map, project back, join, project."""

    def bins(x):
        cells = []
        for count in block.branches[0].pyramid:
            for row in range(count):
                for column in range(count):
                    top, bottom = row * x.shape[2] // count, -(-(row + 1) * x.shape[2] // count)
                    left, right = column * x.shape[3] // count, -(-(column + 1) * x.shape[3] // count)
                    cells.append(x[:, :, top:bottom, left:right].mean((2, 3)))
        return torch.stack(cells, dim=2)

    contexts = []
    for branch in block.branches:
        query = (branch.key if branch.query is None else branch.query)(high).flatten(2)
        key, value = bins(branch.key(low)), bins(branch.value(low))
        attention = torch.softmax(torch.einsum("bdn,bdm->bnm", query, key) / key.shape[1] ** 0.5, dim=2)
        context = torch.einsum("bnm,bem->ben", attention, value).unflatten(2, high.shape[2:])
        contexts.append(branch.output(context))
    out = block.norm(block.fuse(torch.cat([torch.stack(contexts).sum(0), high], dim=1)))
    return out.relu() if isinstance(block, AsymmetricPyramid) else out


@pytest.mark.parametrize("pyramid", [(1, 3, 6, 8), (2,), (1, 5)])
@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("size", [(9, 11), (4, 5), (1, 7)])
def test_output_is_the_formula(pyramid, branches, size):
    options = {"embedding": 4, "value_channels": 3, "pyramid": pyramid, "branches": branches}
    x, low = torch.randn(2, 6, *size, dtype=torch.float64), torch.randn(2, 5, 7, 4, dtype=torch.float64)
    block = randomised(AsymmetricPyramid(6, **options))
    torch.testing.assert_close(block(x), written_out(block, x, x))
    fusion = randomised(AsymmetricFusion(5, 6, out_channels=10, **options))
    torch.testing.assert_close(fusion(low, x), written_out(fusion, low, x))


def test_gradients_of_a_fusion_equal_finite_differences():
    low, high = (torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True) for size in ((3, 6), (5, 4)))
    fusion = randomised(AsymmetricFusion(4, 4, embedding=2, value_channels=3, pyramid=(1, 2), branches=2))
    inputs = (low, high, *fusion.parameters())
    assert torch.autograd.gradcheck(lambda low, high, *_: fusion(low, high), inputs, fast_mode=True)


def test_images_of_a_fusion_do_not_mix():
    fusion = randomised(AsymmetricFusion(5, 6))
    low, high = torch.randn(3, 5, 4, 6, dtype=torch.float64), torch.randn(3, 6, 7, 5, dtype=torch.float64)
    single = [fusion(*pair) for pair in zip(low.split(1), high.split(1), strict=True)]
    torch.testing.assert_close(fusion(low, high), torch.cat(single))


def test_keys_and_values_have_no_order():
    fusion = randomised(AsymmetricFusion(6, 6, embedding=4, pyramid=(4,)))
    low, high = torch.randn(2, 6, 4, 4, dtype=torch.float64), torch.randn(2, 6, 3, 5, dtype=torch.float64)
    shuffled = low.flatten(2)[..., torch.randperm(16)].view_as(low)
    torch.testing.assert_close(fusion(shuffled, high), fusion(low, high))


def test_a_pyramid_of_1_3_6_8_has_110_bins():
    assert pool_pyramid(torch.zeros(2, 5, 30, 40), (1, 3, 6, 8)).shape == (2, 5, 110, 1)


def test_a_new_block_has_no_context_yet():
    block = AsymmetricPyramid(6, embedding=4).eval()
    x = torch.randn(1, 6, 8, 8)
    direct = F.conv2d(x, block.fuse.weight[:, 6:], block.fuse.bias)
    torch.testing.assert_close(block(x), block.norm(direct).relu())


def test_bfloat16_is_not_worse_than_the_steps_in_bfloat16():
    ours, steps = 0.0, 0.0
    for _ in range(8):
        block, x = randomised(AsymmetricPyramid(32, embedding=16)), torch.randn(1, 32, 24, 24, dtype=torch.float64)
        exact = written_out(block, x, x)
        block.bfloat16()
        ours += (block(x.bfloat16()).double() - exact).norm() / exact.norm()
        steps += (written_out(block, x.bfloat16(), x.bfloat16()).double() - exact).norm() / exact.norm()
    assert ours <= steps


def test_autocast_stays_close_to_float32():
    block = randomised(AsymmetricPyramid(32, embedding=16)).float()
    x = torch.randn(2, 32, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        ours = block(x)
    assert (ours - block(x)).norm() < 0.03 * block(x).norm()


@pytest.mark.parametrize("pyramid", [(), (0, 3)])
def test_impossible_pyramids_are_refused(pyramid):
    with pytest.raises(UserError, match="pyramid"):
        AsymmetricPyramid(8, pyramid=pyramid)


def test_the_block_traces_without_a_graph_break():
    block = randomised(AsymmetricPyramid(6, embedding=4, pyramid=(1, 2)))
    x = torch.randn(1, 6, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(torch.compile(block, fullgraph=True, backend="aot_eager")(x), block(x))
