"""Blocks in other people's networks and in our own: where they stand, what they change, and what stays."""

import copy
import io
import pickle
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision
from outputs import computed, equal, image
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from lib.base.errors import UserError
from lib.models import BLOCKS
from lib.models.backbones import BACKBONES, CIFAR_BACKBONES
from lib.models.backbones import resnet as resnet_units
from lib.models.insert import LAST_RELU, PRESETS, insert_blocks, insert_preset, inserted_blocks

SLOW_START = {"spectral": {"relu": False}}
"""Options without which a block cannot start as an identity."""


def descend(network, part, x, rate=0.1):
    """One step of gradient descent of a part of a network."""
    gradients = torch.autograd.grad(network(x).square().mean(), list(part.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(part.parameters(), gradients, strict=True):
            parameter -= rate * gradient


def make(constructor, **options):
    torch.manual_seed(0)
    return constructor(**options).eval()


def resnet():
    """A narrow ResNet of torchvision's units."""
    halved = nn.Sequential(nn.Conv2d(16, 32, 1, stride=2, bias=False), nn.BatchNorm2d(32))
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 16, 3, stride=2, padding=1),
            layer1=nn.Sequential(BasicBlock(16, 16), BasicBlock(16, 16)),
            layer2=nn.Sequential(BasicBlock(16, 32, stride=2, downsample=halved), BasicBlock(32, 32)),
            layer3=nn.Sequential(Bottleneck(32, 8), Bottleneck(32, 8)),
        )
    ).eval()


@pytest.mark.parametrize("at", ["after", "before_relu"])
@pytest.mark.parametrize("block", [name for name in BLOCKS if name != "asymmetric_pyramid"])
class TestStart:
    def test_changes_nothing_bit_by_bit_but_learns(self, block, at):
        network, x = resnet(), image(2, 3, 32, 32)
        before = computed(network, x)
        insert_blocks(network, {"layer2": [-1], "layer3": [0]}, block=block, at=at, **SLOW_START.get(block, {}))
        assert equal(computed(network, x), before)
        assert len(inserted_blocks(network)) == 2
        for part in inserted_blocks(network).values():
            descend(network, part, x)
            assert not equal(computed(network, x), before)
            before = computed(network, x)

    @pytest.mark.slow
    def test_changes_nothing_while_training_and_channels_last_either(self, block, at):
        network, x = resnet().train(), image(2, 3, 32, 32).to(memory_format=torch.channels_last)
        with_block = insert_blocks(
            copy.deepcopy(network), {"layer3": [0]}, block=block, at=at, **SLOW_START.get(block, {})
        )
        assert equal(
            computed(with_block.to(memory_format=torch.channels_last), x),
            computed(network.to(memory_format=torch.channels_last), x),
        )


@pytest.mark.parametrize(
    "options",
    [
        {"gain": False},
        {"gain": True, "output_conv": True, "output_norm": True},
        {"gain": False, "output_conv": True, "output_norm": True, "output_bias": True},
        {"pairwise": False, "gain": False},
        {"unary": False},
        {"unary": False, "output_conv": True, "output_norm": True},
        {"mode": "dot_product"},
    ],
)
def test_every_part_of_a_block_that_starts_as_an_identity_learns_in_time(options):
    network, x = resnet().double(), image(2, 3, 32, 32).double()
    before = computed(network, x)
    insert_blocks(network, {"layer2": [0]}, **options)
    assert equal(computed(network, x), before)
    (block,) = inserted_blocks(network).values()
    start = {name: parameter.detach().clone() for name, parameter in block.named_parameters()}
    for _ in range(4):
        descend(network, block, x, rate=10.0)
    stuck = [name for name, parameter in block.named_parameters() if torch.equal(parameter, start[name])]
    # What is added to all affinities of a row, or to all of the mask, cancels in a softmax.
    assert not [name for name in stuck if name not in ("key.bias", "mask.bias")]


@pytest.mark.parametrize(
    "block, options, words",
    [
        ("asymmetric_pyramid", {}, "another map"),
        ("spectral", {}, "relu=false"),
        ("global_context", {"multiply": True}, "multiply=false"),
    ],
)
def test_a_block_that_cannot_start_so_is_refused_but_may_start_otherwise(block, options, words):
    network = resnet()
    names = list(network.state_dict())
    with pytest.raises(UserError, match=f"{block} cannot start as an identity: .*{words}") as refused:
        insert_blocks(network, {"layer3": [0]}, block=block, **options)
    assert "\n" not in str(refused.value) and list(network.state_dict()) == names
    insert_blocks(network, {"layer3": [0]}, block=block, start="default", **options)
    (output,) = computed(network, image(1, 3, 32, 32))
    assert output.isfinite().all()


def residual(unit, x):
    """torchvision's residual unit up to its addition, written out."""
    out = unit.bn1(unit.conv1(x)).relu()
    out = unit.bn2(unit.conv2(out))
    if hasattr(unit, "conv3"):
        out = unit.bn3(unit.conv3(out.relu()))
    return out + (x if unit.downsample is None else unit.downsample(x))


class TestPlace:
    """A block that does something, against the unit written out."""

    @pytest.mark.parametrize("layer, index", [("layer1", 0), ("layer2", 0), ("layer2", 1), ("layer3", 1)])
    @pytest.mark.parametrize("at", ["after", "before_relu"])
    def test_in_torchvision(self, layer, index, at):
        network = resnet()
        unit = getattr(network, layer)[index]
        kind = type(unit)
        insert_blocks(network, {layer: [index]}, block="global_context", at=at)
        assert getattr(network, layer)[index] is unit and isinstance(unit, kind)
        nn.init.normal_(unit.inserted.add.expand.weight)
        x = image(2, unit.conv1.in_channels, 8, 8)
        with torch.no_grad():
            sums = residual(unit, x)
            expected = unit.inserted(sums).relu() if at == "before_relu" else unit.inserted(sums.relu())
            torch.testing.assert_close(unit(x), expected)

    @pytest.mark.parametrize("at", ["after", "before_relu"])
    def test_in_our_own_with_gradients(self, at):
        unit = make(resnet_units.BasicBlock, in_channels=8, width=8, stride=1, dilations=(1, 1)).double()
        insert_blocks(nn.Sequential(OrderedDict(layer1=nn.Sequential(unit))), {"layer1": [0]}, block="unary", at=at)
        nn.init.normal_(unit.inserted.value.weight)
        x = image(2, 8, 6, 6).double().requires_grad_()
        out = unit.bn2(unit.conv2(unit.bn1(unit.conv1(x)).relu())) + x
        expected = unit.inserted(out).relu() if at == "before_relu" else unit.inserted(out.relu())
        torch.testing.assert_close(unit(x), expected)
        wanted = torch.autograd.grad(expected.square().sum(), [x, *unit.parameters()])
        found = torch.autograd.grad(unit(x).square().sum(), [x, *unit.parameters()])
        torch.testing.assert_close(found, wanted)

    def test_a_block_that_ends_in_a_relu_can_stand_before_one_and_learn(self):
        network = resnet().train()
        insert_blocks(network, {"layer3": [0]}, block="asymmetric_pyramid", at="before_relu", start="default")
        network(image(2, 3, 32, 32)).sum().backward()
        assert all(parameter.grad is not None for parameter in network.layer3[0].inserted.fuse.parameters())

    def test_timm(self):
        timm = pytest.importorskip("timm")
        for name in ("resnet18", "seresnet18" if timm.is_model("seresnet18") else "resnet26"):
            for at in ("after", "before_relu"):
                network, x = make(timm.create_model, model_name=name, num_classes=5), image(1, 3, 32, 32)
                before, unit = computed(network, x), network.layer2[-1]
                acts = [part for part in unit.children() if isinstance(part, nn.ReLU)]
                insert_blocks(network, {"layer2": [-1]}, block="global_context", at=at)
                assert equal(computed(network, x), before)
                nn.init.constant_(unit.inserted.add.expand.bias, -1e3)
                # -1000 behind the last ReLU is negative, before it 0
                x = image(1, unit.conv1.in_channels, 8, 8)
                assert (computed(unit, x)[0] == 0).all() if at == "before_relu" else (computed(unit, x)[0] < 0).all()
                assert (acts[-1] in set(unit.modules())) == (at == "after")

    def test_every_class_whose_last_relu_is_known_is_there(self):
        for name in LAST_RELU:
            module, _, kind = name.rpartition(".")
            if module.startswith("timm"):
                pytest.importorskip("timm")
            assert hasattr(__import__(module, fromlist=[kind]), kind)


class TestNetworks:
    """What each gives is as before, bit by bit, and after a change of the block it is not."""

    def check(self, network, layers, *arguments, at="after", **options):
        state = copy.deepcopy(network.state_dict())
        before = computed(network, *arguments)
        assert insert_blocks(network, layers, at=at, **options) is network
        assert equal(computed(network, *arguments), before)
        now = network.state_dict()
        assert state.keys() < now.keys() and all(torch.equal(now[name], state[name]) for name in state)
        assert all(".inserted." in name for name in now.keys() - state.keys())
        found = network.load_state_dict(state, strict=False)
        assert not found.unexpected_keys and set(found.missing_keys) == now.keys() - state.keys()
        for block in inserted_blocks(network).values():
            for parameter in block.parameters():
                nn.init.normal_(parameter)
        assert not equal(computed(network, *arguments), before)
        return list(inserted_blocks(network))

    @pytest.mark.slow
    @pytest.mark.parametrize("at", ["after", "before_relu"])
    def test_segmentation(self, at):
        networks = torchvision.models.segmentation
        network = make(networks.fcn_resnet50, weights=None, weights_backbone=None, num_classes=3)
        assert self.check(network, {"layer3": [-2]}, image(1, 3, 32, 32), at=at) == ["backbone.layer3.4.inserted"]

    def test_segmentation_without_residual_rows(self):
        networks = torchvision.models.segmentation
        network = make(networks.lraspp_mobilenet_v3_large, weights=None, weights_backbone=None, num_classes=3)
        assert self.check(network, {"backbone": [-2]}, image(1, 3, 32, 32), block="global_context") == [
            "backbone.15.inserted"
        ]

    @pytest.mark.slow
    def test_detection(self):
        network = make(
            torchvision.models.detection.maskrcnn_resnet50_fpn,
            weights=None,
            weights_backbone=None,
            num_classes=3,
            min_size=64,
            max_size=64,
        )
        body = copy.deepcopy(network.backbone)
        insert_preset(network, "dnl_detection")
        ((name, block),) = inserted_blocks(network).items()
        assert name == "backbone.body.layer3.4.inserted"
        assert block.query.out_channels == 256 and block.scale == pytest.approx(256**-0.5 / 0.05)
        assert equal(computed(network.backbone, image(1, 3, 32, 32)), computed(body, image(1, 3, 32, 32)))
        with torch.no_grad():
            assert set(network([image(3, 64, 64)])[0]) == {"boxes", "labels", "scores", "masks"}
        self.check(body, {"body.layer3": [-2]}, image(1, 3, 32, 32), at="before_relu")

    @pytest.mark.parametrize(
        "name", ["r3d_18", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mc3_18", "r2plus1d_18"))]
    )
    def test_video(self, name):
        network, clip = make(getattr(torchvision.models.video, name), num_classes=3), image(1, 3, 8, 32, 32)
        self.check(network, {"layer2": [-1]}, clip, at="before_relu", subsample=True)
        before = computed(network, clip)
        insert_blocks(network, {"layer3": [0]}, block="double_attention")
        assert equal(computed(network, clip), before)
        with pytest.raises(UserError, match=r"layer4\.0 is of 3 dimensions"):
            insert_blocks(network, {"layer4": [0]}, block="criss_cross")

    @pytest.mark.parametrize(
        "name, layers, at",
        [
            ("resnet18", {"layer3": [-1]}, "before_relu"),
            pytest.param(
                "hrnet_w18", {"layer1": [1], "stage4.2.branches.0": [-1]}, "before_relu", marks=pytest.mark.slow
            ),
            ("mobilenet_v2", {"units": [12, -1]}, "after"),
        ],
    )
    def test_our_backbones(self, name, layers, at):
        self.check(make(BACKBONES[name]), layers, image(1, 3, 32, 32), at=at)

    def test_our_backbones_for_small_images(self):
        self.check(make(CIFAR_BACKBONES["preact_resnet20"]), {"layer3": "all"}, image(1, 3, 32, 32))


def test_the_video_preset_places_five_blocks_in_a_network_of_50_layers():
    with torch.device("meta"):
        insert_preset(network := torchvision.models.resnet50(), "dnl_video")
    names = [name.removesuffix(".inserted") for name in inserted_blocks(network)]
    assert names == ["layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"]
    assert network.layer3[1].inserted.query.out_channels == 512


@pytest.mark.parametrize("name", PRESETS)
def test_presets_start_as_identities(name):
    network, x = resnet(), image(2, 3, 32, 32)
    before = computed(network, x)
    assert equal(computed(insert_preset(network, name), x), before)


@pytest.mark.parametrize("at", ["after", "before_relu"])
class TestWhole:
    """The network with its block is a module like any other."""

    @pytest.fixture
    def network(self, at):
        network = resnet()
        return insert_blocks(network, {"layer2": [-1], "layer3": [0]}, block="unary", start="default", at=at)

    def test_copies_and_pickles_compute_the_same_with_weights_of_their_own(self, network):
        x = image(1, 3, 32, 32)
        before = computed(network, x)
        for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            assert equal(computed(twin, x), before)
            nn.init.zeros_(twin.layer2[-1].inserted.value.weight)
            assert not equal(computed(twin, x), before) and equal(computed(network, x), before)

    def test_a_checkpoint_fills_a_network_of_the_same_blocks(self, network, at):
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        file.seek(0)
        other = insert_blocks(resnet(), {"layer2": [-1], "layer3": [0]}, block="unary", at=at)
        other.load_state_dict(torch.load(file, weights_only=True))
        assert equal(computed(other, image(1, 3, 32, 32)), computed(network, image(1, 3, 32, 32)))

    def test_it_takes_the_type_and_the_mode_of_its_unit(self, at):
        network = resnet().double().train()
        insert_blocks(network, {"layer1": [0]}, at=at)
        assert network.layer1[0].inserted.value.weight.dtype == torch.float64 and network.layer1[0].inserted.training
        network.eval()
        assert not network.layer1[0].inserted.training

    def test_it_is_exported(self, network):
        x = image(1, 3, 32, 32)
        exported = torch.export.export(network, (x,)).module()
        torch.testing.assert_close(computed(exported, x), computed(network, x))

    @pytest.mark.slow
    def test_it_is_compiled(self, network):
        x = image(2, 3, 32, 32)
        torch.testing.assert_close(computed(torch.compile(network), x), computed(network, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "layers, options, words",
    [
        ({"layer9": [0]}, {}, "no layer 'layer9': choose one of layer1, layer2, layer3"),
        ({"": [0]}, {}, "no layer ''"),
        ({}, {}, "no layers"),
        ({"0": [0]}, {}, "several layers 0: choose one of layer1.0, layer2.0, layer2.0.downsample.0, layer3.0"),
        ({"layer3.1": [0]}, {}, "layer3.1 is one Bottleneck"),
        ({"layer3": [2]}, {}, "layer3 has 2 units, so that there is no 2: choose -2 to 1"),
        ({"layer3": [0, -2]}, {}, "layer3.0 has a block already"),
        ({"layer3": "some"}, {}, "'some': must be a list"),
        ({"layer3": [True]}, {}, "must be a list"),
        ({"layer3": 1}, {}, "must be a list"),
        ({"layer2.0.downsample": [1]}, {}, "layer2.0.downsample.1 is a BatchNorm2d"),
        ({"layer2.0.downsample": [0]}, {"at": "before_relu"}, "last ReLU is not known: use at='after'"),
        ({"layer3": [0]}, {"at": "before"}, "choose after or before_relu"),
        ({"layer3": [0]}, {"start": "zero"}, "choose identity or default"),
        ({"layer3": [0]}, {"block": "disentangle"}, "did you mean disentangled"),
        ({"layer3": [0]}, {"whitning": "instance"}, "block.whitning; did you mean whitening"),
        ({"layer3": [0]}, {"temperature": "low"}, "block.temperature is 'low'"),
        ({"layer3": [0]}, {"dimensions": 2}, "block.dimensions is that of each unit"),
        ({"layer3": [0]}, {"ratio": 0}, "ratio is 0: it must be above 0"),
        ({"layer3": [0]}, {"ratio": 0.5, "embedding": 8}, "leave one out"),
    ],
)
def test_mistakes_are_named_and_leave_the_network_as_it_was(layers, options, words):
    network = resnet()
    names = list(network.state_dict())
    with pytest.raises(UserError, match=re.escape(words)) as mistake:
        insert_blocks(network, {"layer1": [0], **layers} if layers else layers, **options)
    assert "\n" not in str(mistake.value)
    assert list(network.state_dict()) == names and not network.layer1[0]._forward_hooks


def test_a_second_block_in_a_unit_and_unknown_presets_are_refused():
    network = insert_blocks(resnet(), {"layer1": [0]})
    with pytest.raises(UserError, match=r"layer1\.0 has a block already"):
        insert_blocks(network, {"layer1": [0]})
    with pytest.raises(UserError, match="did you mean dnl_video"):
        insert_preset(network, "dnl_vidio")


@pytest.mark.parametrize("layer", ["stage3", "stage4"])
def test_units_of_several_maps_are_refused(layer):
    with pytest.raises(UserError, match=f"{layer}.0 is a Exchange"), torch.device("meta"):
        insert_blocks(BACKBONES["hrnet_w18"](), {layer: [0]})


def test_the_lines_of_the_manual_run():
    page = (Path(__file__).parents[1] / "lib" / "models" / "README.md").read_text()
    (lines,) = re.findall(r"## In your own network\n.*?```python\n(.*?)```", page, re.DOTALL)
    exec(compile(lines, "README.md", "exec"), {})
