"""The non-local block equals its formula in every mode and option, also published ones."""

import itertools
import shutil

import pytest
import torch
import torch.nn.functional as F

from lib.base.errors import UserError
from lib.models.blocks.nonlocal_block import NonLocal, aggregate_products, aggregate_sums, whiten
from lib.weights.nonlocal_blocks import (
    mmcv_nonlocal_options,
    mmseg_disentangled_options,
    nonlocal_options,
)

MODES = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
MEANS = {"instance": (2,), "position": (1,), "layer": (1, 2), "per_channel": (0, 2), "batch": (0, 1, 2)}


def randomise(block):
    """In float64 with random parameters (they start near or at 0)."""
    torch.manual_seed(0)
    for parameter in block.double().parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return block


def make(**options):
    return randomise(NonLocal(6, **{"embedding": 4, **options}))


def data(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written_out(block, x, *, mode, scale=True, temperature=1.0, whitening=(), variance=False):
    """The block by its definition, with the whole affinity map; whitening by means only."""

    def project(name):
        layer = block.get_submodule(name)
        bias = 0 if layer.bias is None else layer.bias[:, None]
        return layer.weight.flatten(1) @ x.flatten(2) + bias

    query = key = x.flatten(2)
    if mode != "gaussian":
        query, key = project("query"), project("key")
    value, query_mean = project("value"), None
    for kind in whitening:
        query_mean = query.mean(MEANS[kind], keepdim=True)
        query, key = (
            (z - z.mean(MEANS[kind], keepdim=True))
            / ((z.var(MEANS[kind], keepdim=True) + 1e-5) ** 0.5 if variance else 1)
            for z in (query, key)
        )
    positions = x.flatten(2).shape[2]
    if mode == "dot_product":
        affinity = query.mT @ key / positions
    elif mode == "concatenation":
        pairs = torch.cat(torch.broadcast_tensors(query[:, :, :, None], key[:, :, None]), dim=1)  # B x 2D x N x N
        affinity = torch.einsum("c,bcij->bij", block.concatenated.weight.flatten(), pairs).relu() / positions
    else:
        affinity = torch.softmax(query.mT @ key / (query.shape[1] ** 0.5 if scale else 1) / temperature, dim=2)
    out = value @ affinity.mT * (1 if block.gamma is None else block.gamma)
    if block.query_mean:
        weights = torch.softmax((query_mean.expand(*query.shape[:2], 1) * key).sum(1), dim=1)
        out = out + (value * weights[:, None]).sum(2, keepdim=True)
    if block.mask is not None:
        out = out + value @ project("mask").softmax(2).mT
    if block.output is not None:
        bias = 0 if block.output.bias is None else block.output.bias[:, None]
        out = block.output.weight.flatten(1) @ out + bias
    return x + out.view_as(x)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 4), (9, 16)])
def test_output_and_gradient_are_the_formula(mode, size):
    block, x = make(mode=mode, mask=True, output_conv=True), data(2, 6, *size).requires_grad_()
    cotangent = data(*x.shape, seed=2)
    ours, expected = block(x), written_out(block, x, mode=mode)
    torch.testing.assert_close(ours, expected)
    inputs = (x, *block.parameters())
    gradients = [torch.autograd.grad(out, inputs, cotangent, retain_graph=True) for out in (ours, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize("mode", ["embedded_gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("whitening", [*((kind,) for kind in MEANS), ("instance", "position"), ("position", "layer")])
def test_whitening_is_the_formula(whitening, mode, variance):
    block = make(mode=mode, whitening=whitening, whiten_variance=variance)
    x = data(3, 6, 3, 4)
    expected = written_out(block, x, mode=mode, whitening=whitening, variance=variance)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    "whitening", [("instance",), ("layer",), ("batch",), ("per_channel",), ("position", "instance")]
)
def test_the_query_mean_makes_a_unary_term_of_its_own(whitening):
    block, x = make(whitening=whitening, query_mean=True, mask=True), data(3, 6, 3, 4)
    torch.testing.assert_close(block(x), written_out(block, x, mode="embedded_gaussian", whitening=whitening))


@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm_whitening_normalises_queries_and_keys(affine):
    kind = "batch_norm_affine" if affine else "batch_norm"
    block, x = make(whitening=(kind,)), data(3, 6, 3, 4)
    plain = make()
    plain.load_state_dict(block.state_dict(), strict=False)
    for name in ("query", "key"):
        norm, projection = getattr(block, f"{name}_norms")[kind], getattr(plain, name)
        assert (norm.weight is not None) == affine
        weight, bias = (norm.weight, norm.bias) if affine else (1.0, 0.0)
        # The same as a projection whose weight and bias are those of the normalised one, by the batch's own moments.
        projected = getattr(block, name)(x).transpose(0, 1).flatten(1)
        factor = weight / (projected.var(1, unbiased=False) + 1e-5).sqrt()
        with torch.no_grad():
            projection.bias.copy_((projection.bias - projected.mean(1)) * factor + bias)
            projection.weight.mul_(factor[:, None, None, None])
    torch.testing.assert_close(block(x), plain(x))


@pytest.mark.parametrize("mode", ["embedded_gaussian", "gaussian"])
@pytest.mark.parametrize(("scale", "temperature"), [(False, 1.0), (True, 0.05), (False, 3.0)])
def test_scale_and_temperature_divide_affinities(mode, scale, temperature):
    options = {"mode": mode, "scale": scale, "temperature": temperature}
    fixed, learned = make(**options), make(learned_temperature=True, **options)
    learned.load_state_dict(fixed.state_dict(), strict=False)
    with torch.no_grad():
        learned.sharpness.copy_(NonLocal(6, learned_temperature=True, **options).sharpness)
    x = data(2, 6, 3, 4)
    expected = written_out(fixed, x, **options)
    torch.testing.assert_close(fixed(x), expected)
    torch.testing.assert_close(learned(x), expected, rtol=1e-5, atol=1e-6)  # the parameter starts as float32
    with torch.no_grad():
        learned.sharpness.fill_(-0.4)
    options["temperature"] = 1 / F.softplus(torch.tensor(-0.4, dtype=torch.float64))
    torch.testing.assert_close(learned(x), written_out(learned, x, **options))


@pytest.mark.parametrize("mode", MODES)
def test_subsampling_pools_the_input_or_the_projections(mode):
    x = data(2, 6, 4, 6)
    pool = torch.nn.MaxPool2d(2)
    for subsample in ("input", "projection"):
        block = make(mode=mode, subsample=subsample, mask=True)
        plain = make(mode=mode, mask=True)
        plain.load_state_dict(block.state_dict())
        for name in ("key", "value", "mask"):
            if (projection := getattr(plain, name)) is None:
                continue
            if subsample == "input":
                projection.register_forward_pre_hook(lambda _, args: pool(args[0]))
            else:
                projection.register_forward_hook(lambda _, __, out: pool(out))
        if mode == "gaussian":
            plain.embed = lambda x, source: (x.flatten(2).mT, pool(source).flatten(2).mT, None)
        torch.testing.assert_close(block(x), plain(x))


@pytest.mark.parametrize("mode", MODES)
def test_chosen_rows_are_those_of_the_affinities(mode):
    block, x = make(mode=mode, gain=False, learned_temperature=True).float(), data(2, 6, 3, 4).float()
    rows = block.affinity_rows(x, range(12))
    assert rows.dtype == torch.float32 and rows.shape == (2, 12, 12)
    torch.testing.assert_close(block.affinity_rows(x, [7, 2]), rows[:, [7, 2]])
    values = rows @ block.value(x).flatten(2).mT
    torch.testing.assert_close(x + values.mT.view_as(x), block(x), rtol=1e-4, atol=1e-5)


def test_a_block_without_pairwise_term_has_no_rows_to_show():
    with pytest.raises(UserError, match="without a pairwise term"):
        make(mode="none", mask=True).affinity_rows(data(1, 6, 3, 4), [0])


def test_a_batch_of_one_trains_through_the_norm_of_a_unary_term():
    block = make(mode="none", output_norm=True, mask=True)
    assert block(data(1, 6, 3, 4)).isfinite().all()


@pytest.mark.parametrize("options", [{}, {"gain": False, "output_norm": True}, {"gain": False, "output_conv": True}])
def test_a_new_block_returns_its_input(options):
    x = torch.randn(2, 8, 3, 4)
    torch.testing.assert_close(NonLocal(8, **options)(x), x)


def test_a_new_block_without_zero_init_changes_its_input():
    x = torch.randn(2, 8, 3, 4)
    assert not NonLocal(8, gain=False, output_conv=True, zero_init=False)(x).equal(x)


def sums_by_definition(left, right, value):
    return torch.relu(left[:, :, None] + right[:, None]) @ value / right.shape[1]


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 9), (300, 70), (40, 257)])
def test_sorted_sums_are_the_definition(queries, keys):
    inputs = [tensor.requires_grad_() for tensor in (data(2, queries), data(2, keys, seed=2), data(2, keys, 3, seed=3))]
    ours, expected = aggregate_sums(*inputs), sums_by_definition(*inputs)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), inputs) for out in (ours, expected)))


def test_sorted_sums_have_the_formula_s_kinks_and_ties():
    left, right = torch.tensor([[0.0, -1.0, -3.0]]), torch.tensor([[1.0, 1.0, -2.0, 3.0]])
    for tensor in (left, right):
        tensor.requires_grad_()
    value = torch.tensor([[[1.0], [2.0], [4.0], [8.0]]])
    ours, expected = aggregate_sums(left, right, value), sums_by_definition(left, right, value)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(*(torch.autograd.grad(out.sum(), (left, right)) for out in (ours, expected)))


def test_sorted_sums_stand_an_offset_common_to_all_keys():
    left, right, value = data(1, 400) - 1000, data(1, 400, seed=2) + 1000, data(1, 400, 4, seed=3)
    exact = sums_by_definition(left, right, value)
    errors = [
        (function(left.float(), right.float(), value.float()).double() - exact).norm()
        for function in (aggregate_sums, sums_by_definition)
    ]
    assert errors[0] <= 1.5 * errors[1]


def products_by_definition(query, key, value):
    return (query @ key.mT / key.shape[1]) @ value


@pytest.mark.parametrize("fast", [aggregate_products, aggregate_sums])
def test_bfloat16_is_as_accurate_as_the_formula(fast):
    shapes = {aggregate_products: ((1, 500, 64), (1, 600, 64)), aggregate_sums: ((1, 500), (1, 600))}[fast]
    formula = {aggregate_products: products_by_definition, aggregate_sums: sums_by_definition}[fast]
    inputs = [data(*shape, seed=seed).bfloat16() for seed, shape in enumerate((*shapes, (1, 600, 32)))]
    exact = formula(*(tensor.double() for tensor in inputs))
    ours, plain = ((function(*inputs).double() - exact).norm() for function in (fast, formula))
    assert ours <= 1.1 * plain


def test_products_of_many_positions_stay_within_float16():
    query, key, value = (torch.full((1, 40_000, 2), 4.0).half() for _ in range(3))
    torch.testing.assert_close(aggregate_products(query[:, :1], key, value), torch.full((1, 1, 2), 128.0).half())


@pytest.mark.parametrize("function", [aggregate_products, aggregate_sums])
def test_no_intermediate_grows_with_the_square_of_the_positions(function):
    positions, width = 3000, 4
    shape = (1, positions, width) if function is aggregate_products else (1, positions)
    inputs = [torch.randn(shape, requires_grad=True) for _ in range(2)] + [torch.randn(1, positions, width)]
    with Largest() as largest:
        function(*inputs).sum().backward()
    assert 0 < largest.numel <= 4 * positions * width


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the size of the largest tensor that an operation returned."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


@pytest.mark.parametrize("mode", MODES)
def test_autocast_and_channels_last_stay_close_to_float32(mode):
    torch.manual_seed(0)
    block = NonLocal(32, mode=mode, whitening=("instance", "batch_norm_affine"), mask=True, learned_temperature=True)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 32, 12, 12)
    expected = block(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = block(x.to(memory_format=torch.channels_last))
    assert (out - expected).norm() < 0.02 * (expected - x).norm()


@pytest.mark.parametrize("kind", MEANS)
def test_whitened_data_have_no_mean_and_unit_variance(kind):
    whitened = whiten(data(3, 4, 50) * 3 + 7, kind, variance=True)
    torch.testing.assert_close(
        whitened.mean(MEANS[kind]), torch.zeros(()).double().expand_as(whitened.mean(MEANS[kind]))
    )
    torch.testing.assert_close(whitened.var(MEANS[kind]).mean(), torch.tensor(1.0).double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "cosine"},
        {"mode": "none"},
        {"mode": "none", "mask": True, "query_mean": True},
        {"mode": "none", "mask": True, "subsample": "projection"},
        {"whitening": ("channel",)},
        {"temperature": 0},
        {"query_mean": True},
        {"query_mean": True, "whitening": ("position",)},
        {"query_mean": True, "whitening": ("batch_norm",)},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError):
        NonLocal(8, **options)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_sorted_mode_compiles_without_a_graph_break():
    block = make(mode="concatenation", whitening=("instance",), query_mean=True).float()
    ours, expected = (data(1, 6, 5, 5).float().requires_grad_() for _ in range(2))
    torch.compile(block, fullgraph=True)(ours).square().sum().backward()
    block(expected).square().sum().backward()
    torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-4)


def test_published_options_translate():
    published = {"planes": 3, "downsample": True, "whiten_type": ["ln_nostd", "bn", "channel"], "temp": 0.5}
    block = NonLocal(8, **nonlocal_options(published | {"with_gc": True, "with_unary": True, "use_out": True}))
    assert block.whitening == ("instance", "batch_norm", "layer")  # in the published block's order, not the list's
    assert block.scale == pytest.approx(3**-0.5 / 0.5)
    names = {name.split(".")[0] for name, _ in block.named_parameters()}
    assert names == {"query", "key", "value", "mask", "output", "gamma"}
    mmcv = NonLocal(8, **mmcv_nonlocal_options({"in_channels": 8, "sub_sample": True, "norm_cfg": None}))
    assert isinstance(mmcv.pool_projection, torch.nn.MaxPool2d) and mmcv.output.bias is not None
    with pytest.raises(UserError):
        mmseg_disentangled_options({"in_channels": 8, "mode": "gaussian"})


def test_every_combination_of_published_options_builds_and_keeps_the_shape():
    x = torch.randn(2, 8, 4, 4)
    flags = ("downsample", "use_out", "out_bn", "with_gc")
    for values in itertools.product((False, True), repeat=len(flags)):
        case = dict(zip(flags, values, strict=True)) | {"planes": 4, "whiten_type": None}
        assert NonLocal(8, **nonlocal_options(case))(x).shape == x.shape
    for mode, sub_sample, norm in itertools.product(MODES, (False, True), (None, "BN")):
        case = {"in_channels": 8, "reduction": 4, "mode": mode, "sub_sample": sub_sample, "norm_cfg": norm}
        assert NonLocal(8, **mmcv_nonlocal_options(case))(x).shape == x.shape
