"""All blocks, heads and backbones say as exported files what they say otherwise; batch norm is folded exactly."""

from functools import partial

import numpy as np
import pytest
import torch
from test_block_properties import CASES
from torch import nn

from datasets.seg.pixels import Pixels
from lib.base.errors import UserError
from lib.export.check import Feed, differences, relative
from lib.export.fold import fold_norms
from lib.export.formats import WRITERS
from lib.export.graph import VALUES, Graph, trace
from lib.models import BACKBONES, BLOCKS, HEADS, Segmentor

pytest.importorskip("onnxruntime")

PIXELS = Pixels("rgb", (100.0, 110.0, 120.0), (50.0, 60.0, 70.0))
# Of the head in front of what is tested; of blocks, few: their maps are what matters.
CHANNELS = (8, 8, 8, 8)
HEAD_OPTIONS = {
    "asymmetric": {"embedding": 4, "width": 8},
    "psp": {"inner": 4, "width": 8},
    "deeplab_v3": {"inner": 4, "width": 8, "dilations": (1, 2, 3)},
    "dense_aspp": {"inner": 4, "growth": 4},
    "auxiliary": {},
}
QUICK = ("disentangled", {"whitening": "instance", "subsample": True})


class Stem(nn.Module):
    """A backbone of one layer: four times the same map, of an eighth of the image's size."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8)

    def forward(self, image):
        return [self.norm(self.conv(image))] * 4


def trained(network):
    """The network with parameters and statistics that are not what they start as."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.dim() < 2:
            nn.init.uniform_(parameter, 0.5, 1.5)
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats:
            layer.running_mean.normal_(std=0.5)
            layer.running_var.uniform_(0.5, 2)
    return network.eval().requires_grad_(False)


def largest_difference(network, suffix, *, entries=1 << 30, dynamic=True, size=(72, 104)):
    graph = Graph(network, PIXELS).eval()
    program, _ = trace(graph, 3, size, dynamic=dynamic, entries=entries, name="it")
    write, load = WRITERS[suffix]
    batches = [(1, 72, 104), (3, 89, 57), (2, 130, 130)] if dynamic else [(1, *size)] * 2
    content = write(program, "logits", {}, "it")
    return max(each.share for each in differences(load(content), network, Feed(PIXELS, "uint8"), batches))


def with_block(name, options):
    torch.manual_seed(0)
    block = partial(BLOCKS[name], embedding=4, **options)
    head = HEADS["nonlocal"](CHANNELS, 5, block=block, inner=8)
    return trained(Segmentor(Stem(), head))


def with_head(name):
    torch.manual_seed(0)
    options = HEAD_OPTIONS.get(name, {"inner": 8, "width": 8})
    if name == "nonlocal":
        options = options | {"block": BLOCKS["disentangled"]}
    return trained(Segmentor(Stem(), HEADS[name](CHANNELS, 5, **options)))


class Through(nn.Module):
    def forward(self, image):
        return {"out": image}


@pytest.mark.parametrize("bands, order", [(3, "rgb"), (3, "bgr"), (1, "bgr"), (5, "bgr")])
@pytest.mark.parametrize("values", VALUES)
def test_images_are_normalised_as_the_formula_says(bands, order, values):
    mean, std = [float(10 * band) for band in range(bands)], [1.0 + band for band in range(bands)]
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 5, bands)).astype(values)
    channels = image[..., ::-1] if order == "bgr" and bands == 3 else image
    expected = ((channels.astype(np.float64) - mean) / std).transpose(0, 3, 1, 2)
    if values == "float32":
        image[0, 0, :2, 0] = np.nan, -np.inf
        # The first band of the file is the last one of BGR.
        expected[0, -1 if order == "bgr" and bands == 3 else 0, 0, :2] = 0
    graph = Graph(Through(), Pixels(order, tuple(mean), tuple(std)), values)
    np.testing.assert_allclose(graph(torch.from_numpy(image)), expected, rtol=1e-6, atol=1e-6)


class TestFolding:
    def test_a_norm_goes_into_its_convolution_and_nothing_else_does(self):
        network = trained(with_head("dense_aspp"))
        image = torch.randn(1, 3, 64, 64)
        expected = network(image)["out"]
        norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
        folded = fold_norms(network, image)
        left = sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
        # Of dense ASPP's two norms a layer, the first reads the join, but of the first layer, which has none.
        assert (norms, folded, left) == (10, 6, 4)
        assert relative(network(image)["out"].numpy(), expected.numpy()) < 1e-5

    def test_a_convolution_that_is_used_twice_stays(self):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

            def forward(self, image):
                return self.norm(self.conv(self.norm(self.conv(image))))

        assert fold_norms(Twice().eval(), torch.zeros(1, 3, 4, 4)) == 0


def test_a_block_as_a_file_for_any_size_in_blocks_of_queries():
    assert largest_difference(with_block(*QUICK), ".pt2", entries=1000) < 1e-4


def test_what_cannot_be_exported_is_named_in_one_line():
    class Odd(nn.Module):
        def forward(self, image):
            return {"out": image * len(image)}

    with pytest.raises(UserError, match="the network odd cannot be exported") as error:
        trace(Graph(Odd()), 3, (8, 8), dynamic=True, entries=1, name="the network odd")
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", WRITERS)
class TestFiles:
    @pytest.mark.parametrize("name, options", CASES)
    def test_every_block(self, name, options, suffix):
        if options.get("output_norm") and "embedding" not in options:
            options = options | {"output_conv": True}
        assert largest_difference(with_block(name, options), suffix, entries=4000) < 1e-4

    @pytest.mark.parametrize("name", HEADS)
    def test_every_head(self, name, suffix):
        assert largest_difference(with_head(name), suffix, entries=4000) < 1e-4

    @pytest.mark.parametrize("dynamic", [True, False])
    @pytest.mark.parametrize("name", BACKBONES)
    def test_every_backbone(self, name, dynamic, suffix):
        if dynamic and name in ("resnet101", "resnet152", "hrnet_w32", "hrnet_w48"):
            pytest.skip("more of what a smaller one of its family has")
        torch.manual_seed(0)
        backbone = BACKBONES[name]()
        head = HEADS["fcn"](backbone.channels, 5, inner=8, width=8)
        network = Segmentor(backbone, head).eval().requires_grad_(False)
        assert largest_difference(network, suffix, dynamic=dynamic) < 1e-4


def test_every_size_of_a_static_file_but_its_own_is_refused():
    network = with_head("fcn")
    program, _ = trace(Graph(network), 3, (40, 48), dynamic=False, entries=1 << 20, name="it")
    write, load = WRITERS[".onnx"]
    run = load(write(program, "logits", {}, "it"))
    assert run(np.zeros((1, 3, 40, 48), np.float32)).shape == (1, 5, 40, 48)
    with pytest.raises(Exception, match="dimensions"):
        run(np.zeros((1, 3, 48, 48), np.float32))
