"""Statistics of attention equal those of the N x N matrix written out, one query at a time, in float64."""

import math

import numpy as np
import pytest
import torch
from test_block_properties import make

from lib.scores import attention as statistics_file
from lib.scores.attention import Scene, boundary_of, consistency, difference, statistics, unary_share

SIZE, CLASSES = (6, 7), 3
PIXELS = (47.0, 54.0)

BLOCKS = {
    "whitened": ("disentangled", {"whitening": "instance"}),
    "coupled": ("nonlocal", {"gain": False}),
    "pooled": ("disentangled", {"subsample": True}),
    "dot product": ("nonlocal", {"mode": "dot_product"}),
    "concatenation": ("nonlocal", {"mode": "concatenation"}),
    "pyramid": ("asymmetric_pyramid", {"pyramid": (1, 3)}),
    "spectral": ("spectral", {"unit": "disentangled"}),
    "crosses": ("criss_cross", {}),
    "double": ("double_attention", {}),
    "unary": ("unary", {}),
    "context": ("global_context", {}),
}


def label_map(seed=0):
    """Blobs of three classes and some positions of none (255)."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, (3, 4)).repeat(2, 0).repeat(2, 1)[:, :7]
    label[rng.random(SIZE) < 0.15] = 255
    return label


@pytest.fixture
def scene():
    label = torch.from_numpy(label_map())
    return Scene(label, label, CLASSES, PIXELS)


def attention_of(name):
    kind, options = BLOCKS[name]
    block = make(kind, options).eval().requires_grad_(False)
    torch.manual_seed(1)
    return block.attention(torch.randn(1, 6, *SIZE, dtype=torch.float64))


def on_boundary(label, radius=1):
    found = np.zeros(label.shape, bool)
    for r, c in np.ndindex(label.shape):
        around = label[max(0, r - radius) : r + radius + 1, max(0, c - radius) : c + radius + 1]
        found[r, c] = label[r, c] != 255 and bool(((around != label[r, c]) & (around != 255)).any())
    return found


def expected_order_precision(row, same):
    """The mean over all orders of equal weights of how many of the first ones are of the region."""
    wanted, hits = int(same.sum()), 0.0
    for weight in sorted(set(row.tolist()), reverse=True):
        group = row == weight
        room = wanted - int((row > weight).sum())
        hits += max(0, min(room, int(group.sum()))) * same[group].mean()
    return hits / wanted


def written_out(matrix, label, constant):
    """All figures of an N x N matrix of weights, without a line of what is tested."""
    flat, boundary = label.ravel(), on_boundary(label).ravel()
    places = np.array([((r + 0.5) * PIXELS[0] / 6, (c + 0.5) * PIXELS[1] / 7) for r, c in np.ndindex(SIZE)])
    found = {name: [] for name in ("within_category", "boundary", "precision", "entropy", "distance")}
    shares = []
    for i, weights in enumerate(np.abs(matrix)):
        if not weights.sum():
            continue
        share = weights / weights.sum()
        shares.append(share)
        found["entropy"].append(-sum(w * math.log(w) for w in share if w > 0))
        found["distance"].append(sum(w * math.dist(places[i], place) for w, place in zip(share, places, strict=True)))
        if flat[i] != 255:
            found["within_category"].append(share[flat == flat[i]].sum())
            found["boundary"].append(share[boundary].sum())
            found["precision"].append(expected_order_precision(share, flat == flat[i]))
    pairs = [(1 - a @ b / math.sqrt((a @ a) * (b @ b))) / 2 for a in shares for b in shares]
    others = {"difference": np.mean(pairs), "mass": np.abs(matrix).sum(1).mean()}
    return {name: np.mean(values) for name, values in found.items()} | others


@pytest.mark.parametrize("entries", [1 << 21, 100])
@pytest.mark.parametrize("name", BLOCKS)
def test_all_figures_are_those_of_the_matrix(name, entries, scene, monkeypatch):
    monkeypatch.setattr(statistics_file, "CHUNK_ENTRIES", entries)
    for term in attention_of(name).terms.values():
        expected = written_out(term.rows(range(42))[0].numpy(), label_map(), term.constant)
        found = statistics(term, scene)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert consistency(term, scene) == {key: found[key] for key in ("within_category", "boundary", "mass")}


def test_a_uniform_maps_figures_are_exact(scene):
    uniform, term = scene.uniform(), attention_of("context").terms["unary"]
    flat = type(term)(
        lambda positions: torch.full((1, len(positions), 42), 1 / 42, dtype=torch.float64),
        lambda values: values.mean(1, keepdim=True).expand(-1, 42, -1),
        constant=False,
    )
    assert statistics(flat, scene) == pytest.approx(uniform | {"mass": 1}, rel=1e-9, abs=1e-9)
    complete = torch.from_numpy(label_map()).clamp(max=CLASSES - 1)
    shares = complete.flatten().bincount().double() / 42
    whole = Scene(complete, complete, CLASSES, PIXELS).uniform()
    assert whole["within_category"] == pytest.approx(shares.square().sum().item(), abs=1e-12)
    assert whole["boundary"] == on_boundary(complete.numpy()).mean()


@pytest.mark.parametrize("radius", [1, 2])
def test_a_boundary_is_where_another_class_is_near(radius):
    for seed in range(5):
        label = label_map(seed)
        assert (boundary_of(torch.from_numpy(label), CLASSES, radius).numpy() == on_boundary(label, radius)).all()


def test_a_map_of_its_own_region_is_consistent_and_precise():
    label = torch.arange(42).reshape(SIZE) % CLASSES
    same = (label.flatten()[:, None] == label.flatten()).double()
    kind = type(attention_of("coupled").terms["pairwise"])
    term = kind(lambda positions: same[None, positions] / 14, lambda values: same / 14 @ values)
    found = statistics(term, Scene(label, label, CLASSES, PIXELS))
    assert found["within_category"] == pytest.approx(1) and found["precision"] == pytest.approx(1)
    # two of three pairs of rows have nothing in common
    assert found["difference"] == pytest.approx(1 / 3) and found["boundary"] == 1


def test_without_labels_there_is_no_consistency():
    none = torch.full(SIZE, 255)
    for name in ("coupled", "dot product", "unary"):
        for term in attention_of(name).terms.values():
            found = statistics(term, Scene(none, none, CLASSES, PIXELS))
            for key in ("within_category", "boundary", "precision"):
                assert math.isnan(found[key])
            assert found["entropy"] > 0 and found["distance"] > 0


def test_the_difference_of_features_is_that_of_all_pairs():
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    unit = x.flatten(1) / x.flatten(1).norm(dim=0)
    expected = sum((1 - a @ b) / 2 for a in unit.T for b in unit.T) / 144
    assert difference(x) == pytest.approx(expected.item(), abs=1e-12)
    assert difference(torch.ones(5, 3, 4)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["whitened", "dot product", "coupled", "unary"])
def test_the_unary_terms_share_is_that_of_the_weights(name):
    attention = attention_of(name)
    mass = {key: term.rows(range(42)).abs().sum(2).mean().item() for key, term in attention.terms.items()}
    pair, one = abs(attention.gamma or 1.0) * mass.get("pairwise", 0), mass.get("unary", 0)
    scene = Scene(torch.zeros(SIZE).long(), torch.zeros(SIZE).long(), CLASSES, PIXELS)
    found = {key: consistency(term, scene)["mass"] for key, term in attention.terms.items()}
    share = unary_share(found, attention.gamma)
    assert share == pytest.approx(one / (pair + one))
