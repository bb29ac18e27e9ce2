"""A segmentor with blocks in its backbone is a configuration."""

import pytest
import torch
import torchvision
from outputs import computed, equal, image

from lib.base.errors import UserError
from lib.models.insert import inserted_blocks
from lib.tasks import load_config, make_task
from lib.weights.loading import start_from
from lib.weights.pretrained import load_pretrained

SMALL = (
    "model.backbone.name=resnet18",
    "model.head.name=fcn",
    "model.head.options={width: 8}",
    "model.aux.enabled=false",
)
INSIDE = (*SMALL, "model.backbone.blocks={layer3: [-1], layer4: every_other}")


def built(*overrides):
    return make_task(load_config(None, overrides)).network().eval()


class TestConfiguration:
    def test_names_units_and_block(self):
        block = ("model.backbone.block.name=unary", "model.backbone.block.at=before_relu")
        network = built(
            *INSIDE,
            *block,
            "model.backbone.block.start=default",
            "model.backbone.block.ratio=0.25",
            "model.backbone.block.options={output_conv: true}",
        )
        blocks = inserted_blocks(network)
        assert list(blocks) == ["backbone.layer3.1.inserted", "backbone.layer4.1.inserted"]
        assert [part.output.in_channels for part in blocks.values()] == [64, 128]
        assert hasattr(network.backbone.layer3[1], "last_relu")

    def test_an_identity_is_the_network_without_blocks(self):
        plain, network = built(*SMALL), built(*INSIDE)
        network.load_state_dict(plain.state_dict(), strict=False)
        assert equal(computed(network, image(1, 3, 33, 33)), computed(plain, image(1, 3, 33, 33)))

    @pytest.mark.parametrize(
        "override, words",
        [
            ("model.backbone.blocks={layer9: [0]}", r"model\.backbone\.blocks: there is no layer 'layer9'"),
            ("model.backbone.blocks={layer3: [9]}", r"model\.backbone\.blocks: layer3 has 2 units"),
            ("model.backbone.blocks={layer3: x}", r"model\.backbone\.blocks: layer3: 'x'"),
            ("model.backbone.block.options={whitning: none}", r"model\.backbone\.block\.whitning; did you mean"),
            ("model.backbone.block.options={at: after}", r"set model\.backbone\.block\.at"),
            ("model.backbone.block.options={path: after}", r"unknown option model\.backbone\.block\.path"),
            (
                "model.backbone.block.name=asymmetric_pyramid",
                r"model\.backbone\.block: asymmetric_pyramid cannot start",
            ),
            ("model.backbone.options={blocks: {layer3: [0]}}", r"set model\.backbone\.blocks"),
        ],
    )
    def test_mistakes_name_their_key(self, override, words):
        with pytest.raises(UserError, match=words), torch.device("meta"):
            built(*INSIDE, override)

    def test_imagenet_weights_fill_the_rest(self, tmp_path):
        torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
        network = built(*INSIDE, "model.backbone.stem=plain")
        report = load_pretrained(network.backbone, tmp_path / "resnet18.pth")
        assert report.missing and all(".inserted." in name for name in report.missing)
        torch.save({"format": 1, "model": built(*SMALL).state_dict(), "iteration": 0}, tmp_path / "whole.pth")
        assert "layer3.1.inserted" in start_from(built(*INSIDE), tmp_path / "whole.pth")

    @pytest.mark.slow
    def test_it_is_trained_resumed_and_validated(self, train, command, runs):
        inside = ("model.backbone.blocks={layer3: [-1]}", "model.head.name=fcn", "model.head.options={width: 8}")
        often = ("train.max_iters=2", "checkpoint.interval=1", "checkpoint.keep=9", "val.interval=0")
        assert train("tag", *inside, *often, "model.aux.enabled=false").status == 0
        run = runs("tag")
        whole = torch.load(run.checkpoint(), weights_only=True)["model"]
        assert whole["backbone.layer3.1.inserted.value.weight"].any()
        assert command("resume", "tag=tag", f"checkpoint={run.checkpoint('iter_1')}").status == 0
        resumed = torch.load(run.checkpoint(), weights_only=True)["model"]
        assert resumed.keys() == whole.keys() and all(torch.equal(resumed[name], whole[name]) for name in whole)
        assert command("val", "tag=tag", f"checkpoint={run.checkpoint()}", "val.mode=ss").status == 0


def test_the_options_of_a_network_say_what_is_inside():
    options = make_task(load_config(None, INSIDE)).options
    assert options["model.backbone.blocks"] == {"layer3": [-1], "layer4": "every_other"}
    assert options["model.backbone.block.name"] == "disentangled" and options["model.backbone.block.at"] == "after"
    assert "model.backbone.blocks" not in make_task(load_config(None, SMALL)).options
