"""Weights of torchcv and torchvision load completely or not at all, and no file makes the reader run code."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
import torchvision

from lib.base.errors import UserError
from lib.models import build_segmentor
from lib.models.backbones.resnet import ResNet
from lib.weights import load_pretrained, read_file
from lib.weights.networks import convert_torchcv_network

KEYS = Path(__file__).parents[1].parent / "shared" / "spec" / "state_dict_keys"


@pytest.fixture(scope="module")
def torchvision_state():
    return torchvision.models.resnet18(weights=None).state_dict()


def torchcv_state(backbone):
    """What torchcv would have saved of a deep-stem network: its stem counts from 1 and has no prefix."""
    renamed = {"stem": {"conv": "conv", "norm": "bn"}}
    state = {"fc.weight": torch.zeros(1000, backbone.channels[-1]), "fc.bias": torch.zeros(1000)}
    for name, tensor in backbone.state_dict().items():
        part, *rest = name.split(".", 3)
        if part == "stem":
            index, kind, leaf = rest
            name = f"{renamed['stem'][kind]}{int(index) + 1}.{leaf}"
        state[name] = torch.randn_like(tensor) if tensor.is_floating_point() else tensor
    return state


def save(content, path):
    torch.save(content, path)
    return path


def test_torchvision_weights_give_torchvision_features(tmp_path, torchvision_state):
    theirs = torchvision.models.resnet18(weights=None).eval()
    theirs.load_state_dict(torchvision_state)
    backbone = ResNet(18, stem="plain", output_stride=32, ceil_mode=False).eval()
    report = load_pretrained(backbone, save(torchvision_state, tmp_path / "resnet18.pth"))
    assert len(report.matched) == len(torchvision_state) - 2
    assert (report.missing, report.unexpected) == ([], ["fc.weight", "fc.bias"])
    assert report.summary == "resnet18.pth: 120 entries matched, 0 missing, left out fc.weight, fc.bias"
    image = torch.randn(1, 3, 64, 64)
    pooled = backbone(image)[3].mean((2, 3))
    torch.testing.assert_close(theirs.fc(pooled), theirs(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_torchcv_weights_fill_a_deep_stem_backbone(tmp_path, prefix, wrapped):
    backbone = ResNet(18, stem="deep")
    state = {prefix + name: tensor for name, tensor in torchcv_state(backbone).items()}
    path = save({"state_dict": state} if wrapped else state, tmp_path / "3x3resnet18-imagenet.pth")
    report = load_pretrained(backbone, path)
    assert len(report.matched) == len(backbone.state_dict())
    torch.testing.assert_close(backbone.stem[2].conv.weight.data, state[prefix + "conv3.weight"])
    torch.testing.assert_close(backbone.layer4[1].bn2.running_var, state[prefix + "layer4.1.bn2.running_var"])


def test_step_counters_that_old_files_lack_are_not_missed(tmp_path, torchvision_state):
    old = {name: value for name, value in torchvision_state.items() if "num_batches" not in name}
    report = load_pretrained(ResNet(18, stem="plain"), save(old, tmp_path / "old.pth"))
    assert len(report.missing) == 20


def test_another_network_is_refused_and_leaves_the_backbone_as_it_was(tmp_path, torchvision_state):
    path = save(torchvision_state, tmp_path / "resnet18.pth")
    for backbone, named in (
        (ResNet(18, stem="deep"), "stem.1.conv.weight"),
        (ResNet(34, stem="plain"), "layer1.2.conv1.weight"),
        (ResNet(50, stem="plain"), "of another shape"),
    ):
        before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        with pytest.raises(UserError, match=f"resnet18.pth holds another network.*{named}"):
            load_pretrained(backbone, path)
        torch.testing.assert_close(dict(backbone.state_dict()), before)


def test_a_deeper_network_that_would_fill_the_backbone_is_refused(tmp_path):
    deeper = ResNet(34, stem="plain").state_dict()
    path = save(torchcv_state(ResNet(34, stem="plain")), tmp_path / "resnet34.pth")
    assert deeper.keys() > ResNet(18, stem="plain").state_dict().keys()
    with pytest.raises(UserError, match="holds another network"):
        load_pretrained(ResNet(18, stem="plain"), path)


@pytest.mark.parametrize("content", [{"weight": torch.zeros(1)}, {}])
def test_a_file_of_which_nothing_matches_is_refused(tmp_path, content):
    with pytest.raises(UserError, match="nothing in it matches"):
        load_pretrained(ResNet(18), save(content, tmp_path / "other.pth"))


def test_a_file_without_a_state_dict_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no state dict"):
        load_pretrained(ResNet(18), save([1, 2], tmp_path / "list.pth"))


class Bomb:
    """A pickle of this makes a careless reader create a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("writer", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_that_wants_to_run_code_is_refused_not_run(tmp_path, writer):
    writer({"layer1": Bomb(tmp_path / "proof")}, tmp_path / "bomb.pth")
    with pytest.raises(UserError, match="refused") as caught:
        read_file(tmp_path / "bomb.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "proof").exists()


def test_the_refusal_names_what_the_file_asks_for(tmp_path):
    torch.save(Bomb(tmp_path / "proof"), tmp_path / "bomb.pth")
    with pytest.raises(UserError, match=r"it asks for \w+\.mkdir"):
        read_file(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_text("epoch 1, loss 0.3\n"), "not a PyTorch checkpoint"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "cut off or damaged"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
    ],
)
def test_an_unreadable_file_is_named_with_what_is_wrong(tmp_path, spoil, message):
    path = save({"weight": torch.randn(1000)}, tmp_path / "weights.pth")
    spoil(path)
    with pytest.raises(UserError, match=f"pretrained file .*weights.pth.* {message}") as caught:
        read_file(path)
    assert "\n" not in str(caught.value)


def test_what_was_saved_is_read_back(tmp_path):
    content = {"weight": torch.randn(3), "step": 4, "names": ["a"]}
    read = read_file(save(content, tmp_path / "weights.pth"))
    assert torch.equal(read.pop("weight"), content.pop("weight"))
    assert read == content


def test_an_unknown_name_in_a_torchcv_network_is_named():
    with pytest.raises(UserError, match=r"nlm\.conv\.weight"):
        convert_torchcv_network({"nlm.conv.weight": torch.zeros(1)})


@pytest.mark.skipif(not KEYS.is_dir(), reason="the lists of published names are not there")
@pytest.mark.parametrize("network", ["nonlocalnowd", "basenet"])
def test_published_names_become_those_of_the_segmentor(network):
    lines = (KEYS / f"torchcv_{network}_deepbase_resnet101_dilated8.txt").read_text().splitlines()
    shapes = {name: torch.Size(json.loads(shape)) for name, shape in (line.split("\t") for line in lines)}
    state = {f"module.{name}": torch.empty(shape, device="meta") for name, shape in shapes.items()}
    head = {"name": "nonlocal", "block": {"name": "disentangled"}} if network == "nonlocalnowd" else {"name": "fcn"}
    with torch.device("meta"):
        ours = build_segmentor(num_classes=19, backbone={"name": "resnet101"}, head=head, aux={}).state_dict()
    converted = convert_torchcv_network(state)
    assert {name: t.shape for name, t in converted.items()} == {name: t.shape for name, t in ours.items()}
