"""Spectral stages equal the graph filters' formulas, written out with N x N matrices."""

import pytest
import torch
import torch.nn.functional as F
from numpy.polynomial import chebyshev

from lib.base.errors import UserError
from lib.models.blocks import affinities
from lib.models.blocks.linear import normalised_affinity
from lib.models.blocks.spectral import SpectralStage
from lib.weights.spectral_blocks import spectral_options

AFFINITIES = [(kind, symmetric) for kind in ("normalised", "relu", "softmax") for symmetric in (True, False)]
UNITS = {
    "chebyshev": [{"order": 1}, {"order": 4}, {"order": 3, "chebyshev_of": "laplacian"}],
    "arma": [{"order": 1, "iterations": 1}, {"order": 2, "iterations": 3}],
    "cayley": [{"order": 1}, {"order": 3}],
    "nonlocal": [{}],
    "laplacian": [{}],
    "disentangled": [{}],
    "squared_laplacian": [{}],
}
LINEAR = [(unit, options) for unit, choices in UNITS.items() for options in choices]
EVERYTHING = [
    (unit, options, affinity, symmetric)
    for unit, options in LINEAR
    for affinity, symmetric in AFFINITIES
    if unit != "cayley" or (symmetric and affinity != "softmax")
]


def make(dtype=torch.float64, **options):
    """A stage whose norms and, in float64, zoom are not what they start as."""
    torch.manual_seed(0)
    stage = SpectralStage(6, embedding=4, width=3, **options).to(dtype)
    for name, parameter in stage.named_parameters():
        if "norm" in name or "zoom" in name:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
    return stage


def signal(height=3, width=4):
    torch.manual_seed(1)
    return torch.randn(2, 6, height, width, dtype=torch.float64)


def matrix(stage, x, kind, symmetric):
    """The affinity, B x N x N, by its definition."""
    query, key = (
        torch.einsum("ec,bcn->ben", layer.weight.flatten(1), x.flatten(2)) for layer in (stage.query, stage.key)
    )
    if kind != "softmax":
        query, key = query.clamp(min=0), key.clamp(min=0)
    products = torch.einsum("bei,bej->bij", query, key)
    if symmetric:
        products = (products + products.transpose(1, 2)) / 2
    if kind == "softmax":
        return products.softmax(dim=2)
    if kind == "normalised":
        degree = products.sum(2)
        root = torch.where(degree == 0, 0, degree.rsqrt())
        products = root[:, :, None] * products * root[:, None, :]
    return products


def written_out(stage, x, kind, symmetric, unit, *, order=1, iterations=2, chebyshev_of="affinity"):
    """The stage by the formulas of its units' documentation, with matrices over all pairs of positions."""
    affinity = matrix(stage, x, kind, symmetric)
    identity = torch.eye(affinity.shape[1], dtype=x.dtype)
    laplacian = identity - affinity
    flat = x.flatten(2)
    for layers in stage.units:

        def conv(layer, z):
            return torch.einsum("oc,bcn->bon", layer.weight.flatten(1), z)

        def spread(operator, z):
            return torch.einsum("bij,bej->bei", operator, z)

        g = conv(layers.value, flat)
        skip = 0 if layers.skip is None else conv(layers.skip, g)
        if unit == "chebyshev":
            base = laplacian - identity if chebyshev_of == "laplacian" else affinity
            powers = torch.stack([torch.linalg.matrix_power(base, k) for k in range(order + 1)])
            filtered = []
            for k in range(1, order + 1):
                coefficients = chebyshev.cheb2poly([0] * k + [1])
                polynomial = sum(c * power for c, power in zip(coefficients, powers, strict=False))
                filtered.append(spread(polynomial, g))
        elif unit == "arma":
            filtered = []
            for k in range(order):
                recursion = layers.recursion.weight.flatten(1).view(order, 3, 3)[k]
                drive = layers.drive.weight.flatten(1).view(order, 3, 3)[k] @ g
                closed = torch.linalg.matrix_power(recursion, iterations) @ spread(
                    torch.linalg.matrix_power(affinity, iterations), g
                )
                for t in range(iterations):
                    power = torch.linalg.matrix_power(affinity, t)
                    closed = closed + torch.linalg.matrix_power(recursion, t) @ spread(power, drive)
                filtered.append(closed)
        elif unit == "cayley":
            scaled = layers.log_zoom.exp() * laplacian
            transform = (scaled - 1j * identity) @ torch.linalg.inv(scaled + 1j * identity)
            powers = [torch.linalg.matrix_power(transform, j) for j in range(1, order + 1)]
            filtered = [spread(part, g) for power in powers for part in (power.real, power.imag)]
        elif unit == "disentangled":
            unary = torch.einsum("ben,bn->be", g, conv(layers.mask, flat)[:, 0].softmax(dim=1))
            filtered = [spread(affinity, g) + unary[:, :, None]]
        elif unit == "squared_laplacian":
            filtered = [conv(layers.mix, g) + spread(laplacian @ laplacian, g)]
        else:
            filtered = [spread({"nonlocal": affinity, "laplacian": laplacian}[unit], g)]
        context = conv(layers.output, torch.cat(filtered, dim=1)) + skip
        flat = flat + layers.relu(layers.norm(context.view(x.shape))).flatten(2)
    return flat.view(x.shape)


@pytest.mark.parametrize(("unit", "options", "affinity", "symmetric"), EVERYTHING)
def test_output_is_the_formula(unit, options, affinity, symmetric):
    for height, width, units in ((3, 4, 1), (7, 5, 2), (1, 2, 1)):
        stage = make(unit=unit, affinity=affinity, symmetric=symmetric, units=units, **options)
        x = signal(height, width)
        expected = written_out(stage, x, affinity, symmetric, unit, **options)
        torch.testing.assert_close(stage(x), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("affinity", "symmetric"), AFFINITIES)
def test_chosen_rows_are_those_of_the_affinity(affinity, symmetric):
    stage, x = make(affinity=affinity, symmetric=symmetric, unit="nonlocal"), signal()
    rows = stage.affinity_rows(x, [7, 2])
    assert rows.dtype == torch.float32
    expected = matrix(stage, x, affinity, symmetric)[:, [7, 2]]
    torch.testing.assert_close(rows.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unit", ["chebyshev", "arma", "laplacian", "squared_laplacian", "disentangled"])
def test_units_leave_an_attention_as_it_is_that_its_kernel_keeps_for_backward(unit, monkeypatch):
    def fused(query, key, value, *, scale):
        heads = (tensor.unsqueeze(1).contiguous() for tensor in (query, key, value))
        return F.scaled_dot_product_attention(*heads, scale=scale).squeeze(1)

    options = {"order": 3 if unit == "chebyshev" else 1, "affinity": "softmax", "symmetric": False}
    stage = SpectralStage(6, unit=unit, embedding=4, width=4, **options)  # of equal widths, or it is not fused
    x = signal().float().requires_grad_()
    expected = torch.autograd.grad(stage(x).square().sum(), x)
    monkeypatch.setattr(affinities, "attend", fused)
    torch.testing.assert_close(torch.autograd.grad(stage(x).square().sum(), x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_position_of_degree_zero_has_no_neighbours_and_finite_gradients(symmetric):
    torch.manual_seed(0)
    query, key = torch.randn(1, 4, 9).double(), torch.randn(1, 4, 9).double()
    query[:, :, 2] = key[:, :, 2] = -1
    query.requires_grad_()
    out = normalised_affinity(query, key, symmetric=symmetric)(torch.eye(9).double()[None])
    assert out[0, 2].eq(0).all() and out[0, :, 2].eq(0).all()
    out.sum().backward()
    assert query.grad.isfinite().all()


def test_the_spectrum_of_the_symmetric_affinity_is_within_one():
    torch.manual_seed(0)
    query, key = torch.randn(3, 8, 40).double(), torch.randn(3, 8, 40).double()
    affinity = normalised_affinity(query, key, symmetric=True)(torch.eye(40).double().expand(3, -1, -1))
    torch.testing.assert_close(affinity, affinity.mT)
    eigenvalues = torch.linalg.eigvalsh(affinity)
    assert eigenvalues.abs().max() <= 1 + 1e-12
    torch.testing.assert_close(eigenvalues[:, -1], torch.ones(3).double())


def test_the_cayley_filter_is_all_pass():
    stage = make(unit="cayley")
    x = signal()
    unit, affinity = stage.units[0], stage.affinity(stage.query(x), stage.key(x), symmetric=True)
    value = unit.value(x)
    real, imaginary = unit.filter(x, value, affinity).chunk(2, dim=1)
    energy = (real.square() + imaginary.square()).sum((2, 3))
    torch.testing.assert_close(energy, value.square().sum((2, 3)))  # C is unitary


def test_more_iterations_of_the_arma_filter_approach_its_rational_response():
    stage = make(unit="arma", iterations=60)
    x = signal()
    unit, affinity = stage.units[0], matrix(stage, x, "normalised", True)
    value = unit.value(x)
    recursion, drive = unit.recursion.weight.flatten(1), unit.drive(value).flatten(2)
    # vec((I - P A)^-1 Q g) for every image
    system = torch.eye(36).double() - torch.stack([torch.kron(recursion, image) for image in affinity.contiguous()])
    expected = torch.linalg.solve(system, drive.flatten(1)).view(value.shape)
    out = unit.filter(x, value, stage.affinity(stage.query(x), stage.key(x), symmetric=True))
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


def test_chebyshev_of_order_one_is_the_same_for_affinity_and_laplacian_up_to_a_sign():
    classification, segmentation = make(), make(chebyshev_of="laplacian")
    segmentation.load_state_dict(classification.state_dict())
    with torch.no_grad():
        segmentation.units[0].output.weight.neg_()
    torch.testing.assert_close(segmentation(signal()), classification(signal()))


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float32, 2**-20)])
def test_degrees_are_not_rounded_to_bfloat16(dtype, rounding):
    torch.manual_seed(0)
    query, key = torch.rand(1, 32, 900).to(dtype), torch.rand(1, 32, 900).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = normalised_affinity(query, key, symmetric=True).left
    products = query.double().mT @ key.double()
    truth = query.double() * ((products + products.mT) / 2).sum(1).rsqrt()
    assert ours.dtype == dtype
    assert ((ours - truth).abs() <= 1.001 * rounding * truth).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_overlap_has_the_eigenvalues_of_the_affinity_even_under_autocast(symmetric):
    torch.manual_seed(0)
    affinity = normalised_affinity(torch.randn(1, 4, 50), torch.randn(1, 4, 50), symmetric=symmetric)
    whole = affinity(torch.eye(50)[None])[0].double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        overlap = affinity.overlap()[0]
    traces = [torch.linalg.matrix_power(square, k).trace() for square in (overlap.double(), whole) for k in (1, 2, 3)]
    torch.testing.assert_close(traces[:3], traces[3:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("affinity", ["normalised", "relu"])
def test_bfloat16_is_no_worse_than_written_out(affinity):
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, channels, 900).bfloat16() for channels in (32, 32, 16))
    stage = SpectralStage(4, affinity=affinity)
    ours = stage.affinity(query, key, symmetric=True)(value).double()

    def written(query, key, value):
        products = query.relu().mT @ key.relu()
        products = (products + products.mT) / 2
        if affinity == "normalised":
            root = products.sum(2).rsqrt()
            products = root[:, :, None] * products * root[:, None, :]
        return value @ products.mT

    truth = written(query.double(), key.double(), value.double())
    assert (ours - truth).norm() <= 1.1 * (written(query, key, value).double() - truth).norm()


@pytest.mark.parametrize(("unit", "options"), LINEAR)
def test_autocast_and_channels_last_stay_close_to_float32(unit, options):
    torch.manual_seed(0)
    stage = SpectralStage(32, unit=unit, **options)
    x = torch.randn(2, 32, 12, 12)
    expected = stage(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = stage(x.to(memory_format=torch.channels_last))
    assert (out - expected).norm() < 0.05 * (expected - x).norm()


@pytest.mark.parametrize(
    "options",
    [
        {"unit": "fourier"},
        {"affinity": "dot"},
        {"order": 0},
        {"unit": "nonlocal", "order": 2},
        {"unit": "cayley", "affinity": "softmax"},
        {"unit": "cayley", "symmetric": False},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError):
        SpectralStage(8, **options)


@pytest.mark.parametrize(
    ("published", "affinity", "symmetric"),
    [
        ({"nl_type": "snl", "is_norm": False, "is_sys": False}, "normalised", True),
        ({"nl_type": "ns"}, "softmax", False),
        ({"nl_type": "caylay", "is_sys": True}, "softmax", True),
        ({"nl_type": "dnl", "is_norm": True}, "normalised", False),
        ({"nl_type": "a2", "is_sys": True}, "relu", True),
        ({"nl_type": "a2", "is_sys": True, "is_norm": True}, "normalised", True),
    ],
)
def test_published_options_choose_the_affinity(published, affinity, symmetric):
    options = spectral_options({"family": "snl/stage", "inplanes": 8, "planes": 4, **published})
    assert (options["affinity"], options["symmetric"]) == (affinity, symmetric)


def test_published_options_that_never_ran_are_refused():
    stage = {"family": "snl/stage", "inplanes": 8, "planes": 4, "nl_type": "arma"}
    with pytest.raises(UserError):
        spectral_options(stage)
    with pytest.raises(UserError):
        spectral_options({"family": "snl/seg_stage", "inplanes": 8, "planes": 4, "use_scale": True})


@pytest.mark.parametrize("unit", ["chebyshev", "cayley"])
def test_the_stage_compiles_without_a_graph_break(unit):
    stage = make(torch.float32, unit=unit, order=2)
    compiled = torch.compile(stage, fullgraph=True, backend="aot_eager")
    x = signal().float()
    ours, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    compiled(ours).square().sum().backward()
    stage(expected).square().sum().backward()
    torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-4)
