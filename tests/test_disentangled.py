"""The disentangled block equals the paper's formula in every option."""

import itertools

import pytest
import torch

from lib.base.errors import UserError
from lib.models.blocks.disentangled import DisentangledNonLocal
from lib.models.blocks.nonlocal_block import whiten

WHITENINGS = ("none", "instance", "layer", "batch")


def make(**options):
    """A block in float64 with random parameters (they start near or at 0)."""
    torch.manual_seed(0)
    block = DisentangledNonLocal(6, embedding=4, **options).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return block


def reference(block, x, whitening, variance, scale):
    """The block by its definition, one image and one position at a time."""
    flat = x.flatten(2)  # B x C x N

    def project(layer):
        bias = 0 if layer.bias is None else layer.bias[:, None]
        return torch.stack([layer.weight.flatten(1) @ image + bias for image in flat])

    query, key, value = project(block.query), project(block.key), project(block.value)
    if whitening != "none":
        query, key = (by_definition(z, whitening, variance) for z in (query, key))
    out = torch.empty_like(flat)
    masks = project(block.mask)
    for image in range(len(flat)):
        unary = value[image] @ torch.softmax(masks[image, 0], dim=0)
        for i in range(flat.shape[2]):
            affinity = torch.stack([query[image, :, i] @ key[image, :, j] for j in range(flat.shape[2])])
            pairwise = value[image] @ torch.softmax(affinity / (2.0 if scale else 1.0), dim=0)
            out[image, :, i] = flat[image, :, i] + block.gamma * pairwise + unary
    return out.view_as(x)


def by_definition(z, whitening, variance):
    pieces = {"instance": itertools.product(range(z.shape[0]), range(z.shape[1])), "layer": range(z.shape[0])}
    out = z.clone()
    for index in pieces.get(whitening, [slice(None)]):
        piece = z[index].flatten().tolist()
        mean = sum(piece) / len(piece)
        spread = sum((entry - mean) ** 2 for entry in piece) / (len(piece) - 1)
        out[index] = (z[index] - mean) / ((spread + 1e-5) ** 0.5 if variance else 1.0)
    return out


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize("whitening", WHITENINGS)
def test_output_is_the_formula(whitening, variance, scale):
    block = make(whitening=whitening, whiten_variance=variance, scale=scale)
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(block(x), reference(block, x, whitening, variance, scale))


def test_terms_add_up():
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    both = make(whitening="instance")
    pairwise, unary = make(whitening="instance", unary=False), make(pairwise=False)
    for part in (pairwise, unary):
        part.load_state_dict(both.state_dict(), strict=False)
    torch.testing.assert_close(both(x), pairwise(x) + unary(x) - x)


def test_the_mean_of_the_keys_makes_no_difference():
    block = make(whitening="layer")
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    before = block(x)
    with torch.no_grad():
        block.key.bias += 5
    torch.testing.assert_close(block(x), before)


def test_a_new_block_gives_its_input_and_the_unary_term_only():
    block = DisentangledNonLocal(8, unary=False)
    x = torch.randn(1, 8, 5, 5)
    torch.testing.assert_close(block(x), x)


def test_subsampling_pools_space_but_not_time():
    flat, clip = make(subsample=True), make(subsample=True, dimensions=3)
    clip.load_state_dict({name: value.view(clip.state_dict()[name].shape) for name, value in flat.state_dict().items()})
    x = torch.randn(2, 6, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(clip(x[:, :, None])[:, :, 0], flat(x))
    keys = []
    clip.key.register_forward_hook(lambda _, __, output: keys.append(output.shape))
    clip(torch.randn(1, 6, 5, 4, 6, dtype=torch.float64))
    assert keys == [(1, 4, 5, 2, 3)]


def test_named_projections_have_no_weight_decay():
    block = DisentangledNonLocal(8, no_decay=("query", "mask"))
    expected = [block.query.weight, block.query.bias, block.mask.weight, block.mask.bias]
    assert [id(parameter) for parameter in block.no_decay_parameters()] == [id(parameter) for parameter in expected]
    assert list(DisentangledNonLocal(8, pairwise=False).no_decay_parameters()) == []


def test_whitening_in_bfloat16_subtracts_the_true_mean():
    x = (torch.randn(1, 4, 4096) * 0.1 + 3.01).bfloat16()
    expected = x.double() - x.double().mean(2, keepdim=True)
    assert (whiten(x, "instance").double() - expected).abs().max() < 0.002  # 3.01 rounds to 3.016


def test_autocast_and_channels_last_stay_close_to_float32():
    torch.manual_seed(0)
    block = DisentangledNonLocal(32, whitening="layer")
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 32, 12, 12)
    expected = block(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = block(x.to(memory_format=torch.channels_last))
    assert (out - expected).norm() < 0.02 * (expected - x).norm()


@pytest.mark.parametrize("options", [{"pairwise": False, "unary": False}, {"whitening": "channel"}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError):
        DisentangledNonLocal(8, **options)


def test_the_block_compiles_without_a_graph_break():
    block = make(whitening="layer").float()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")  # traces all, generates no C++
    x = torch.randn(1, 6, 5, 5)
    ours, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    compiled(ours).square().sum().backward()
    block(expected).square().sum().backward()
    torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-4)
