"""Other projects' checkpoints are recognised by their names, imported, scored, and never run."""

import json
import os
import sys
import types
from pathlib import Path

import pytest
import torch

from lib.base.errors import UserError
from lib.models import BACKBONES, build_segmentor
from lib.weights import load_pretrained, read_file
from lib.weights.checkpoints import import_network
from lib.weights.loading import start_from
from lib.weights.names import rename
from lib.weights.networks import HRNET, MOBILENET_V2, RESNET_V1C
from tests import replay_golden

KEYS = Path(__file__).parents[1].parent / "shared" / "spec" / "state_dict_keys"
needs_lists = pytest.mark.skipif(not KEYS.is_dir(), reason="no lists of names beside the repository")

DNL = ("model.backbone.name=resnet18", "model.backbone.output_stride=8")
BLOCK = {"name": "disentangled", "whitening": "layer", "no_decay": ["query", "key"]}


def listed(name):
    """Random entries under the published names of a list."""
    torch.manual_seed(0)
    state = {}
    for line in (KEYS / f"{name}.txt").read_text().splitlines():
        entry, shape = line.split("\t")
        state[entry] = torch.rand(json.loads(shape)) + 0.5
    return state


def small_dnl(**options):
    backbone = {"name": "resnet18", "output_stride": 8}
    head = {"name": "nonlocal", "block": BLOCK}
    return build_segmentor(**{"num_classes": 19, "backbone": backbone, "head": head, "aux": {}, **options})


@pytest.fixture
def foreign(monkeypatch):
    """An object of a module that exists while a file is written, and cannot be imported when it is read."""
    module = types.ModuleType("strange_project")

    class ConfigTree(dict):
        def __reduce__(self):
            return ConfigTree, (), {"history": [1]}, iter([torch.zeros(2)]), iter(self.items())

        def extend(self, items):
            pass

    ConfigTree.__module__, ConfigTree.__qualname__ = module.__name__, "ConfigTree"
    module.ConfigTree = ConfigTree
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return lambda: ConfigTree(lr=0.1)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip archive", "before PyTorch 1.6"])
def test_foreign_objects_are_dropped_and_tensors_taken(tmp_path, foreign, monkeypatch, zipped):
    weight = torch.randn(3, 4, dtype=torch.float64)
    content = {
        "state_dict": {"weight": weight, "row": weight[1], "half": weight.T.bfloat16(), "empty": torch.zeros(0)},
        "config_dict": foreign(),
        "meta": {"epoch": 3, "hooks": [foreign(), "text"], "parameter": torch.nn.Parameter(weight)},
    }
    path = tmp_path / "run.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "strange_project")
    read = read_file(path)
    assert read.keys() == {"state_dict", "meta"}
    assert read["meta"]["epoch"] == 3 and read["meta"]["hooks"] == ["text"]
    torch.testing.assert_close(read["meta"]["parameter"], weight)
    torch.testing.assert_close(read["state_dict"], content["state_dict"])
    assert "strange_project" not in sys.modules


@pytest.mark.parametrize("zipped", [True, False], ids=["zip archive", "before PyTorch 1.6"])
@pytest.mark.parametrize("function", [os.mkdir, eval, getattr, __import__])
def test_a_file_with_tensors_that_wants_to_run_code_is_refused(tmp_path, zipped, function):
    class Bomb:
        def __reduce__(self):
            return function, (str(tmp_path / "proof"),)

    path = tmp_path / "bomb.pth"
    torch.save({"weight": torch.ones(2), "bomb": Bomb()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"refused to load .*bomb\.pth: it asks for"):
        read_file(path)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip archive", "before PyTorch 1.6"])
def test_a_cut_file_with_foreign_objects_is_named(tmp_path, foreign, zipped):
    path = tmp_path / "run.pth"
    torch.save({"weight": torch.ones(5000), "x": foreign()}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"run\.pth"):
        read_file(path)


@needs_lists
@pytest.mark.parametrize(
    ("name", "source", "table", "options"),
    [
        ("resnet50", "mmseg_nl_r50", RESNET_V1C, {"stem": "v1c"}),
        ("resnet50", "torchcv_basenet_deepbase_resnet50_dilated8", RESNET_V1C, {}),
        ("hrnet_w48", "torchcv_nonlocalbn_single_hrnet", HRNET, {}),
        ("mobilenet_v2", "torchcv_nonlocalnowd_mobilenetv2_dilated8", MOBILENET_V2, {}),
    ],
)
def test_backbones_are_recognised_by_their_names(tmp_path, name, source, table, options):
    published = {
        entry.removeprefix("backbone."): tensor
        for entry, tensor in listed(source).items()
        if entry.startswith("backbone.")
    }
    published["classifier.weight" if name[0] in "hm" else "fc.weight"] = torch.zeros(10, 10)
    torch.save({"state_dict": published}, tmp_path / "weights.pth")
    backbone = BACKBONES[name](**options)
    report = load_pretrained(backbone, tmp_path / "weights.pth")
    assert report.missing == [] and len(report.matched) == len(backbone.state_dict()) and len(report.unexpected) == 1
    expected, _ = rename(published, table)
    torch.testing.assert_close(
        dict(backbone.state_dict()), {k: expected[k].to(v) for k, v in backbone.state_dict().items()}
    )


@needs_lists
def test_a_segmentation_networks_backbone_serves_as_pretrained(tmp_path):
    state = listed("torchcv_nonlocalnowd_deepbase_resnet18_dilated8")
    torch.save(state, tmp_path / "run.pth")
    backbone = BACKBONES["resnet18"]()
    report = load_pretrained(backbone, tmp_path / "run.pth")
    torch.testing.assert_close(backbone.stem[0].conv.weight.data, state["backbone.prefix.conv1.weight"])
    assert "nlm.ctb.gamma" in report.unexpected


@needs_lists
def test_a_training_starts_from_a_whole_foreign_network_whatever_its_classes(tmp_path):
    state = listed("torchcv_nonlocalnowd_deepbase_resnet18_dilated8")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "run.pth")
    network = small_dnl(num_classes=11)
    before = network.head.classifier.weight.clone()
    note = start_from(network, tmp_path / "run.pth")
    assert "entries of the whole network matched, left random head.classifier.weight" in note
    torch.testing.assert_close(network.head.block.gamma.data, state["nlm.ctb.gamma"])
    torch.testing.assert_close(network.backbone.stem[0].conv.weight.data, state["backbone.prefix.conv1.weight"])
    assert torch.equal(network.head.classifier.weight, before)


@needs_lists
def test_a_training_starts_from_a_backbone_where_the_file_has_no_more(tmp_path):
    state = listed("torchcv_nonlocalnowd_deepbase_resnet18_dilated8")
    torch.save({name: entry for name, entry in state.items() if name.startswith("backbone.")}, tmp_path / "b.pth")
    network = small_dnl()
    before = network.head.block.gamma.clone()
    assert "0 missing" in start_from(network, tmp_path / "b.pth")
    torch.testing.assert_close(network.backbone.stem[0].conv.weight.data, state["backbone.prefix.conv1.weight"])
    assert torch.equal(network.head.block.gamma, before)


@needs_lists
def test_what_is_matched_left_out_and_missing_is_told():
    state = {
        f"module.{name}": entry for name, entry in listed("torchcv_nonlocalnowd_deepbase_resnet18_dilated8").items()
    }
    imported, report = import_network(small_dnl(), {"state_dict": state, "epoch": 3}, "run.pth")
    assert (report.missing, report.left_out) == ([], [])
    torch.testing.assert_close(imported["head.block.gamma"], state["module.nlm.ctb.gamma"])
    _, report = import_network(small_dnl(aux=None), state, "run.pth")
    assert len(report.left_out) == 8 and all(name.startswith("aux_head.") for name in report.left_out)
    without = {name: entry for name, entry in state.items() if ".dsn." not in name} | {"module.extra": torch.ones(1)}
    _, report = import_network(small_dnl(), without, "run.pth")
    assert len(report.missing) == 8 and report.left_out == ["module.extra"]
    assert "left out: 1 entries (module.extra)" in report.summary


@needs_lists
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": {"name": "fcn"}}, r"too many \(head\.block"),
        ({"num_classes": 11}, "of another shape"),
        ({"backbone": {"name": "resnet34"}}, "missing"),
    ],
)
def test_another_network_is_refused(options, message):
    state = listed("torchcv_nonlocalnowd_deepbase_resnet18_dilated8")
    with pytest.raises(UserError, match=f"run.pth holds another network.*{message}"):
        import_network(small_dnl(**options), state, "run.pth")


def test_names_of_no_known_project_are_refused():
    with pytest.raises(UserError, match="is not a checkpoint of this project, of torchcv"):
        import_network(small_dnl(), {"encoder.weight": torch.ones(1)}, "run.pth")


@needs_lists
def test_mmsegmentations_checkpoint_is_imported():
    file = KEYS.parents[1] / "golden" / "net_mmseg_dnl_r50.npz"
    case, _ = replay_golden.load_fixture(file)
    with torch.device("meta"):
        network = build_segmentor(**replay_golden.networks.mmseg_network_options(case))
    imported, report = import_network(network, {"meta": {}, "state_dict": listed("mmseg_dnl_r50")}, "dnl.pth")
    assert report.project == "mmsegmentation" and (report.missing, report.left_out) == ([], [])
    assert {tensor.device.type for tensor in imported.values()} == {"cpu"}


@needs_lists
def test_an_imported_file_is_scored_like_the_foreign_one(command, data_root, runs, tmp_path, foreign, monkeypatch):
    source, made = tmp_path / "theirs.pth", tmp_path / "new" / "ours.pth"
    fill = replay_golden.load_fill(KEYS.parents[1] / "golden")
    state = fill(listed("torchcv_nonlocalnowd_deepbase_resnet18_dilated8"), 3)
    torch.save({"state_dict": state, "config_dict": foreign()}, source)
    monkeypatch.delitem(sys.modules, "strange_project")
    converted = command("import-weights", str(source), str(made), *DNL)
    assert converted.status == 0, converted.stderr
    assert "missing: 0 entries" in converted.stdout
    scores = []
    for tag, file in (("theirs", source), ("ours", made)):
        words = (f"checkpoint={file}", f"tag={tag}", f"data.root={data_root}", "device=cpu", "data.workers=0")
        outcome = command("val", *words, "val.mode=ss", *DNL)
        assert outcome.status == 0, outcome.stderr
        scores.append(json.loads((runs(tag).path / "val" / "metrics.json").read_text())["miou"])
    assert scores[0] == scores[1]


def test_import_needs_two_files(command):
    assert "needs two files" in command("import-weights", "one.pth").error
