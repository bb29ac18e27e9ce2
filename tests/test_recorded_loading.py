"""Wherever a foreign checkpoint is loaded, what it says of itself must agree with the configuration."""

import re

import pytest
import torch

from lib.base.errors import UserError
from lib.tasks import load_config, make_task
from lib.weights.loading import load_weights, start_from
from tests.test_recorded import NL_IN, torchcv


def foreign_checkpoint(path, task, temperature):
    """A checkpoint of torchcv for that task's network."""
    theirs = {}
    for name, tensor in task.network().state_dict().items():
        stem = re.match(r"backbone\.stem\.(\d)\.(conv|norm)\.", name)
        if stem:
            layer = f"{'conv' if stem[2] == 'conv' else 'bn'}{int(stem[1]) + 1}"
            name = f"backbone.prefix.{layer}.{name[stem.end() :]}"
        for pattern, published in (
            (r"^head\.block\.(query|key|value|mask)\.", r"nlm.ctb.conv_\1."),
            (r"^head\.block\.gamma", "nlm.ctb.gamma"),
            (r"^head\.reduce\.conv\.", "nlm.conva.0."),
            (r"^head\.reduce\.norm\.", "nlm.conva.1.0."),
            (r"^head\.refine\.conv\.", "nlm.convb.0."),
            (r"^head\.refine\.norm\.", "nlm.convb.1.0."),
            (r"^head\.fuse\.conv\.", "nlm.bottleneck.0."),
            (r"^head\.fuse\.norm\.", "nlm.bottleneck.1.0."),
            (r"^head\.classifier\.", "nlm.bottleneck.3."),
            (r"^aux_head\.reduce\.conv\.", "dsn.0.conv."),
            (r"^aux_head\.reduce\.norm\.", "dsn.0.bn_relu.0."),
            (r"^aux_head\.classifier\.", "dsn.2."),
        ):
            name = re.sub(pattern, published, name)
        theirs[name] = tensor
    content = torchcv(nonlocal__temp=temperature, network__backbone="deepbase_resnet18_dilated8")
    torch.save(content | {"state_dict": theirs}, path)
    return path


class TestWhereItIsLoaded:
    RECIPE = NL_IN
    WORDS = ("model.backbone.name=resnet18",)
    SILENCED = "model.head.block.options.temperature=0.1"

    def test_as_a_checkpoint(self, tmp_path):
        task = make_task(load_config(self.RECIPE, self.WORDS))
        path = foreign_checkpoint(tmp_path / "theirs.pth", task, 0.1)
        with pytest.raises(UserError, match=rf"checkpoint .*theirs\.pth was made with .* add {self.SILENCED}$"):
            load_weights(task.network(), path, task.options)
        resolved, told = make_task(load_config(self.RECIPE, (*self.WORDS, self.SILENCED))), []
        assert load_weights(resolved.network(), path, resolved.options, told.append) == 0
        assert any("model.head.options.dilation=1" in line for line in told)

    def test_as_starting_weights(self, tmp_path):
        task = make_task(load_config(self.RECIPE, self.WORDS))
        path = foreign_checkpoint(tmp_path / "theirs.pth", task, 0.1)
        with pytest.raises(UserError, match=rf"pretrained file .*theirs\.pth was made with .* add {self.SILENCED}$"):
            start_from(task.network(), path, task.options)
        foreign_checkpoint(path, task, 0.05)
        assert "entries of the whole network matched" in start_from(task.network(), path, task.options)

    @pytest.mark.parametrize("command_name", ["import-weights", "val", "train"])
    def test_by_the_commands(self, command, data_root, tmp_path, command_name):
        path = foreign_checkpoint(tmp_path / "theirs.pth", make_task(load_config(self.RECIPE, self.WORDS)), 0.1)
        ours = tmp_path / "ours.pth"
        words = {
            "import-weights": (str(path), str(ours)),
            "val": (f"checkpoint={path}", "tag=t", f"data.root={data_root}", "device=cpu", "data.workers=0"),
            "train": (f"pretrained={path}", "tag=t", f"data.root={data_root}", "device=cpu", "data.workers=0"),
        }[command_name]
        outcome = command(command_name, *words, *self.WORDS, config=str(self.RECIPE))
        assert outcome.status == 2 and "temperature is 0.1 there and 0.05 here" in outcome.error
        if command_name == "import-weights":
            assert not ours.exists()
            outcome = command(command_name, *words, *self.WORDS, self.SILENCED, config=str(self.RECIPE))
            assert (
                outcome.status == 0 and "note: " in outcome.stdout and "model.head.options.dilation=1" in outcome.stdout
            )
