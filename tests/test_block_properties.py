"""What every block has in common: exact gradients, independent images, positions without order, any dimension."""

import inspect
import itertools

import pytest
import torch

from lib.models.blocks import BLOCKS

SPECTRAL_UNITS = (
    {"order": 1},
    {"order": 4},
    {"order": 3, "chebyshev_of": "laplacian"},
    {"unit": "arma", "order": 1, "iterations": 1},
    {"unit": "arma", "order": 2, "iterations": 3},
    {"unit": "cayley", "order": 1},
    {"unit": "cayley", "order": 3},
    {"unit": "nonlocal"},
    {"unit": "laplacian"},
    {"unit": "disentangled"},
    {"unit": "squared_laplacian"},
)

OPTIONS = {
    "nonlocal": (
        *({"mode": mode, "mask": True} for mode in ("embedded_gaussian", "gaussian", "dot_product", "concatenation")),
        {"mode": "gaussian", "subsample": "projection", "output_conv": True, "output_bias": True},
        {"mode": "concatenation", "subsample": "input", "whitening": ("instance",), "whiten_variance": True},
        {"mode": "dot_product", "output_conv": True, "output_norm": True, "mask": True},
        {"learned_temperature": True, "query_mean": True, "whitening": ("batch_norm_affine", "layer"), "gain": False},
        {"whitening": ("position", "batch_norm"), "subsample": "projection", "mask": True},
        {"whitening": ("per_channel",)},
    ),
    "disentangled": (
        {},
        {"whitening": "instance", "subsample": True},
        {"whitening": "layer", "whiten_variance": True, "output_conv": True, "output_norm": True},
        {"whitening": "batch", "unary": False},
        {"pairwise": False},
    ),
    "unary": ({}, {"subsample": True}, {"output_conv": True, "output_norm": True}),
    "global_context": tuple(
        {"pooling": pooling, "add": add, "multiply": multiply, "layers": layers}
        for pooling, (add, multiply), layers in itertools.product(
            ("attention", "average"), ((True, False), (False, True), (True, True)), (1, 2)
        )
    ),
    "asymmetric_pyramid": ({"pyramid": (1, 2)}, {"pyramid": (2,), "branches": 2, "value_channels": 3}),
    "spectral": (
        *({"width": 3, "units": 2, **unit} for unit in SPECTRAL_UNITS),
        *({"unit": "disentangled", "affinity": "softmax", "symmetric": symmetric} for symmetric in (True, False)),
        {"affinity": "relu", "symmetric": False, "relu": False},
    ),
    "double_attention": ({},),
    "compact_generalized": (
        {},
        {"groups": 2, "order": 1},
        {"groups": 2, "order": 3, "gamma": 0.3},
        {"order": 4, "gamma": 0.2, "scale": True},
        {"kernel": "dot", "groups": 2},
        {"kernel": "dot", "scale": True},
    ),
    "criss_cross": ({"recurrence": 1}, {}),
}

CASES = [(name, options) for name, choices in OPTIONS.items() for options in choices]

# Blocks for which it matters where a position is: they pool cells, or look along rows and columns.
ORDERED = ("asymmetric_pyramid", "criss_cross")
# Whitenings with one mean for all images
ACROSS_IMAGES = ("batch", ("per_channel",))


def make(name, options, **others):
    """A block in float64 whose parameters are not what they start as: near, or at, 0 or 1."""
    torch.manual_seed(0)
    block = BLOCKS[name](6, embedding=4, **options, **others).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, mean=0.1, std=0.6)
    return block


def data(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def subsamples(options):
    return options.get("subsample", "none") not in ("none", False)


def with_dimensions():
    """Cases of blocks that take other inputs than images; where they pool, not every dimension alike."""
    return [
        (name, options)
        for name, options in CASES
        if "dimensions" in inspect.signature(BLOCKS[name]).parameters and not subsamples(options)
    ]


def test_every_block_is_here():
    assert OPTIONS.keys() == BLOCKS.keys()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_gradients_equal_finite_differences(name, options):
    block, x = make(name, {"dropout": 0.0, **options} if name == "asymmetric_pyramid" else options), data(2, 6, 4, 4)
    inputs = (x.requires_grad_(), *(parameter for parameter in block.parameters() if parameter.requires_grad))
    assert torch.autograd.gradcheck(lambda x, *_: block(x), inputs, fast_mode=True)


@pytest.mark.parametrize(("name", "options"), [case for case in CASES if case[1].get("whitening") not in ACROSS_IMAGES])
def test_images_do_not_touch_one_another(name, options):
    block, x = make(name, options).eval(), data(3, 6, 4, 6)
    torch.testing.assert_close(block(x), torch.cat([block(image[None]) for image in x]))


@pytest.mark.parametrize(
    ("name", "options"), [case for case in CASES if case[0] not in ORDERED and not subsamples(case[1])]
)
def test_positions_have_no_order(name, options):
    block, x, order = make(name, options), data(2, 6, 3, 4), torch.randperm(12)
    shuffled = x.flatten(2)[..., order].view_as(x)
    torch.testing.assert_close(block(shuffled).flatten(2), block(x).flatten(2)[..., order])


@pytest.mark.parametrize(("dimensions", "shape"), [(1, (2, 6, 12)), (3, (2, 6, 2, 2, 3))])
@pytest.mark.parametrize(("name", "options"), with_dimensions())
def test_other_dimensions_equal_two(dimensions, shape, name, options):
    flat, other = make(name, options), make(name, options, dimensions=dimensions)
    names = other.state_dict()
    other.load_state_dict({entry: value.view(names[entry].shape) for entry, value in flat.state_dict().items()})
    x = data(2, 6, 3, 4)
    torch.testing.assert_close(other(x.view(shape)), flat(x).view(shape))
