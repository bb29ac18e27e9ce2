"""A block's attention is what its output is made of: rows and operators equal the N x N matrices written out."""

import pytest
import torch
from test_block_properties import CASES, make

from lib.models.blocks.asymmetric import AsymmetricFusion
from lib.models.blocks.spectral import SpectralStage

SIZE = (5, 4)
COUNT = SIZE[0] * SIZE[1]
SHOWN = [case for case in CASES if case[0] != "compact_generalized"]


def written_out(term):
    """The N x M matrix of a term, row by row."""
    return torch.cat([term.rows([position]) for position in range(COUNT)], dim=1)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(2, 6, *SIZE, dtype=torch.float64)


def block_of(name, options):
    block = make(name, options).eval().requires_grad_(False)
    for module in block.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return block


@pytest.mark.parametrize(("name", "options"), SHOWN, ids=str)
def test_applying_is_the_product_with_all_rows(x, name, options):
    attention = block_of(name, options).attention(x)
    values = torch.randn(2, COUNT, 3, dtype=torch.float64)
    assert attention.queries == attention.sources == SIZE
    for term in attention.terms.values():
        matrix = written_out(term)
        assert matrix.dtype == torch.float64 and matrix.shape == (2, COUNT, COUNT)
        close(term.apply(values), matrix @ values)
        close(term.rows([7, 2]), matrix[:, [7, 2]])
        assert term.constant == bool((matrix == matrix[:, :1]).all())
        assert term.signed or (matrix >= 0).all()
    assert "applied" in attention.terms and {"pairwise", "unary"} & attention.terms.keys()


@pytest.mark.parametrize(
    ("name", "options"), [case for case in SHOWN if case[0] in ("nonlocal", "disentangled", "unary")], ids=str
)
def test_a_non_local_block_adds_what_its_attention_takes_of_the_values(x, name, options):
    block = block_of(name, options)
    matrix = written_out(block.attention(x).terms["applied"])
    if "subsample" in options:
        # Cells of 2 x 2: the block takes maxima where it has one weight, so that the weight is compared cell by cell.
        weights = torch.nn.functional.avg_pool2d(matrix.unflatten(2, SIZE), 2).flatten(2) * 4
        value = block._rows(block.value(block.pool_input(x)))
    else:
        weights, value = matrix, block.value(x).flatten(2).mT
    added = (weights @ value).mT.unflatten(2, SIZE)
    added = added if block.output is None else block.output(added)
    close(block(x), x + (added if block.output_norm is None else block.output_norm(added)))


def test_odd_sizes_leave_no_weight_where_no_cell_is(x):
    block = block_of("disentangled", {"whitening": "instance", "subsample": True, "gain": False})
    attention = block.attention(x)
    matrix = written_out(attention.terms["pairwise"]).unflatten(2, SIZE)
    assert (matrix[:, :, 4] == 0).all() and (matrix[:, :, :4] > 0).all()
    close(matrix.sum((2, 3)), torch.ones(2, COUNT, dtype=torch.float64))
    close(matrix[:, :, 0, 0], matrix[:, :, 1, 1])
    assert attention.gamma is None


def test_terms_have_their_factors(x):
    block = block_of("disentangled", {})
    attention = block.attention(x)
    pairwise, unary, applied = (written_out(attention.terms[name]) for name in ("pairwise", "unary", "applied"))
    assert attention.gamma == block.gamma.item()
    close(applied, block.gamma * pairwise + unary)
    plain = block_of("disentangled", {"whitening": "instance"})
    whitened = written_out(plain.attention(x).terms["pairwise"])
    query, key = (z.flatten(2) - z.flatten(2).mean(2, keepdim=True) for z in (plain.query(x), plain.key(x)))
    close(whitened, (query.mT @ key).softmax(2))
    close(unary, block.mask(x).flatten(2).softmax(2).expand(-1, COUNT, -1))


@pytest.mark.parametrize("pooling", ["attention", "average"])
def test_global_context_pools_by_its_unary_term(x, pooling):
    block = block_of("global_context", {"pooling": pooling})
    pooled = written_out(block.attention(x).terms["applied"]) @ x.flatten(2).mT
    close(pooled[:, :1].mT.unsqueeze(3), block.pool(x))


def test_double_attention_takes_gathered_values(x):
    block = block_of("double_attention", {})
    context = written_out(block.attention(x).terms["applied"]) @ block.gather(x).flatten(2).softmax(2).mT
    close(block(x), x + block.output(context.mT.unflatten(2, SIZE)))


@pytest.mark.parametrize("branches", [1, 2])
def test_a_pyramids_bins_are_regions_of_their_own_map(x, branches):
    low = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    torch.manual_seed(0)
    block = AsymmetricFusion(3, 6, embedding=4, pyramid=(1, 3), branches=branches).double().eval().requires_grad_(False)
    for branch in block.branches:
        torch.nn.init.normal_(branch.output.weight)
    attention = block.attention(low, x)
    assert attention.queries == SIZE and attention.sources == (7, 8)
    context = 0
    for branch in block.branches:
        matrix = torch.cat([branch.term(low, x).rows([position]) for position in range(COUNT)], dim=1)
        context = context + branch.output((matrix @ branch.value(low).flatten(2).mT).mT.unflatten(2, SIZE))
    close(block(low, x), block.norm(block.fuse(torch.cat([context, x], 1))))
    values = torch.randn(2, 56, 3, dtype=torch.float64)
    close(attention.terms["applied"].apply(values), written_out(attention.terms["applied"]) @ values)


@pytest.mark.parametrize(
    "unit", ["nonlocal", "laplacian", "disentangled", "chebyshev", "squared_laplacian", "arma", "cayley"]
)
def test_a_stages_filter_is_what_its_unit_does_where_one_matrix_mixes_all(x, unit):
    """With mixing matrices that are multiples of one, the filter found times that matrix is the unit's own."""
    torch.manual_seed(0)
    stage = SpectralStage(6, unit=unit, embedding=4, relu=False, order=2 if unit in ("chebyshev", "cayley") else 1)
    stage = stage.double().eval().requires_grad_(False)
    unit = stage.units[0]
    base = torch.randn(6, 4, 1, 1, dtype=torch.float64)
    unit.output.weight.copy_(torch.cat([(0.7 - k) * base for k in range(unit.responses)], 1))
    if unit.skip is not None:
        unit.skip.weight.copy_(0.4 * base)
    for name in ("mix", "recursion", "drive"):
        if hasattr(unit, name):
            getattr(unit, name).weight.copy_(0.6 * torch.eye(4, dtype=torch.float64)[:, :, None, None])
    attention = stage.attention(x)
    assert not attention.note or "100 % of the unit's" in attention.note
    response = written_out(attention.terms["applied"]) @ unit.value(x).flatten(2).mT
    found = unit.norm((base.flatten(1) @ response.mT).unflatten(2, SIZE))
    # up to the factor that coefficients are normalised by
    expected = stage(x) - x
    factor = (found * expected).sum() / found.square().sum()
    close(factor * found, expected)
    assert attention.terms.keys() == {"pairwise", "applied"} | ({"unary"} if hasattr(unit, "mask") else set())


def test_criss_cross_shows_one_pass_and_the_product_of_two(x):
    block = block_of("criss_cross", {})
    attention = block.attention(x)
    once, through = attention.terms["pairwise"], attention.terms["applied"]
    single = block_of("criss_cross", {"recurrence": 1})
    single.load_state_dict(block.state_dict())
    second = written_out(single.attention(single(x)).terms["pairwise"])
    close(written_out(through), second @ written_out(once))
    values = block.value(x).flatten(2).mT
    close(single(x), x + block.gamma * (written_out(once) @ values).mT.unflatten(2, SIZE))
    assert attention.gamma == block.gamma.item()
