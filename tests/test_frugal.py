"""Evaluation that does not fit into memory is done in smaller steps, which say when they change the result."""

import pytest
import torch
from torch import nn

from lib.base import memory
from lib.base.errors import UserError
from lib.footprint import forward_bytes
from lib.frugal import Frugal, Way
from lib.inference import predict, predictor, sliding_window
from lib.strips import columns_at_once, sliding_blocks

CLASSES = 5


class Tiny(nn.Module):
    """A network whose answer depends on where the window's border is."""

    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, CLASSES, 5, padding=2)
        )
        self.seen = []

    def forward(self, image):
        self.seen.append(tuple(image.shape))
        return {"out": self.layers(image)}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture
def limit(monkeypatch):
    return lambda size: monkeypatch.setattr(memory, "available_bytes", lambda: int(size))


@torch.inference_mode()
def run(frugal, network, images):
    network.seen.clear()
    result = frugal(network, images)
    return result, [shape for shape in network.seen if shape[-1] > 0]


@pytest.mark.parametrize("columns", [0, 40, 7])
@pytest.mark.parametrize("stride", [0.3, 0.667, 1.0])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("size", [(40, 50), (33, 32), (32, 61), (101, 90)])
def test_blocks_are_the_windows_of_the_whole_image_bit_for_bit(network, size, batch_size, stride, columns):
    image = torch.randn(1, 3, *size)
    options = {"window": (32, 32), "stride": stride, "batch_size": batch_size}
    found, times = torch.empty(1, CLASSES, *size), torch.zeros(size)
    for top, left, logits in sliding_blocks(
        network, lambda rows, across: image[:, :, rows, across], size, columns=columns, **options
    ):
        inside = slice(top, top + logits.shape[2]), slice(left, left + logits.shape[3])
        found[0, :, inside[0], inside[1]] = logits[0]
        times[inside] += 1
        logits.fill_(torch.nan)
    expected = sliding_window(network, image, **options)
    assert (times == 1).all() and torch.allclose(found, expected, atol=1e-5)
    # Where parts make other batches, the convolutions round otherwise.
    assert torch.equal(found, expected) or (columns and batch_size > 1)


def test_the_sums_between_rows_of_windows_are_bounded():
    # Windows of 1024 rows, 683 apart: the last two rows of them share 914 rows of 2500, and 341 of 683 n + 1024.
    for height, shared in ((2500, 914), (683 * 9 + 1024, 341)):
        of_a_column = 4 * 19 * shared
        assert columns_at_once(19, height, (1024, 1024), 0.667, 64 << 30) == (1 << 30) // of_a_column > 15_000
        assert columns_at_once(19, height, (1024, 1024), 0.667, 4 << 30) == (1 << 29) // of_a_column
        assert columns_at_once(1000, height, (1024, 1024), 0.667, 1 << 30) == 4 * 1024


def test_where_there_is_memory_nothing_changes_and_nothing_is_said(network):
    told = []
    frugal = Frugal(predictor("ss", window=(16, 16)), CLASSES, tell=told.append)
    images = torch.randn(3, 3, 40, 50)
    result, seen = run(frugal, network, images)
    assert torch.equal(result, predict(network(images)["out"])) and seen == [(3, 3, 40, 50)]
    assert not told and not frugal.reduced and frugal.facts() == {}


def test_the_estimate_is_what_the_feature_maps_take(network):
    # Both layers' inputs and results: 3, 8 and again 8 (ReLU), then 8 and 5 channels of float32.
    expected = 4 * 100 * 80 * max(3 + 8 + 8, 3 + 8 + CLASSES)
    assert expected <= forward_bytes(network, (1, 3, 100, 80), bfloat16=False) <= 2 * expected
    assert forward_bytes(network, (4, 3, 100, 80), bfloat16=False) >= 4 * expected


def test_a_batch_that_does_not_fit_is_halved_and_the_result_is_the_same(network, limit):
    told = []
    frugal = Frugal(predictor("ss", window=(16, 16)), CLASSES, tell=told.append)
    images = torch.randn(8, 3, 40, 50)
    expected = torch.cat([predict(network(image[None])["out"]) for image in images])
    limit(2 * frugal.needed(network, Way(1, frugal.predictor), (40, 50)) / 0.8 + 1)
    for _ in range(2):
        result, seen = run(frugal, network, images)
        assert torch.equal(result, expected)
        assert {shape[0] for shape in seen if shape[0] in (2, 8)} >= {2}
    assert len(told) == 1 and "8 images of 50 x 40 at a time" in told[0] and not frugal.reduced


def test_an_image_that_does_not_fit_is_evaluated_by_windows_and_marked(network, limit):
    told = []
    frugal = Frugal(predictor("ss", window=(16, 16)), CLASSES, tell=told.append)
    image = torch.randn(1, 3, 200, 300)
    # Room for windows and their sum, not for the whole.
    limit(frugal.needed(network, Way(1, predictor("sscrop", window=(16, 16))), (200, 300)) / 0.8 + 1)
    for _ in range(2):
        result, seen = run(frugal, network, image)
        assert torch.equal(result, predict(sliding_window(network, image, window=(16, 16))))
        assert set(seen[-10:]) == {(1, 3, 16, 16)}
    assert len(told) == 1 and "windows of 16 x 16 take its place, with other results" in told[0]
    assert frugal.facts() == {"windows_for_want_of_memory": [{"size": [300, 200], "window": [16, 16]}]}


def test_windows_go_strip_by_strip_where_the_sum_of_all_does_not_fit(network, limit, monkeypatch):
    used = []
    monkeypatch.setattr("lib.frugal.sliding_blocks", lambda *a, **k: used.append(1) or sliding_blocks(*a, **k))
    frugal = Frugal(predictor("sscrop", window=(16, 16)), CLASSES)
    image = torch.randn(1, 3, 400, 100)
    limit(frugal.needed(network, Way(1, frugal.predictor, strips=True), (400, 100)) / 0.8 + 1)
    result, _ = run(frugal, network, image)
    assert used and torch.equal(result, predict(sliding_window(network, image, window=(16, 16))))
    assert not frugal.reduced


def test_where_nothing_fits_one_line_says_so(network, limit):
    limit(1000)
    with pytest.raises(UserError, match=r"image of 200 x 150 pixels does not fit into the memory of this machine"):
        run(
            Frugal(predictor("ss", window=(64, 64)), CLASSES, tell=lambda line: None),
            network,
            torch.randn(1, 3, 150, 200),
        )


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_an_allocator_that_refuses_is_met_by_the_next_smaller_way(network, error):
    class Refuses(Tiny):
        def forward(self, image):
            if image.shape[-1] > 32:
                raise error
            return network(image)

    frugal = Frugal(predictor("ss", window=(32, 32)), CLASSES, tell=lambda line: None)
    images = torch.randn(2, 3, 60, 70)
    result, _ = run(frugal, Refuses().eval(), images)
    assert torch.equal(
        result, predict(torch.cat([sliding_window(network, one[None], window=(32, 32)) for one in images]))
    )
    assert frugal.reduced == {(60, 70): (32, 32)}


def test_other_errors_are_not_mistaken_for_it(network):
    class Breaks(Tiny):
        def forward(self, image):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        run(Frugal(predictor("ss", window=(32, 32)), CLASSES), Breaks(), torch.randn(1, 3, 60, 70))
