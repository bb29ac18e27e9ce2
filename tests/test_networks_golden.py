"""Published segmentation networks have their published parameters; ``replay_golden`` compares their logits."""

import json
from pathlib import Path

import pytest
import torch

from lib.base.errors import UserError
from lib.models import build_segmentor
from lib.models.backbones.hrnet import HRNet
from lib.models.heads.fcn import FCNHead
from lib.weights.names import rename
from lib.weights.networks import (
    HRNET,
    convert_mmseg_network,
    convert_torchcv_network,
    torchcv_network_options,
)

SHARED = Path(__file__).parents[1].parent / "shared"
KEYS = SHARED / "spec" / "state_dict_keys"

pytestmark = pytest.mark.skipif(not KEYS.is_dir(), reason="no lists of names beside the repository")


def read_shapes(name: str) -> dict[str, list[int]]:
    """The published names of the list ``name`` and their shapes."""
    rows = (line.split("\t") for line in (KEYS / f"{name}.txt").read_text().splitlines())
    return {key: json.loads(shape) for key, shape in rows}


@pytest.mark.parametrize("name", sorted(file.stem for file in KEYS.glob("torchcv_*resnet101*.txt")))
def test_deeper_networks_have_every_published_parameter(name):
    _, family, backbone = name.split("_", 2)
    section = {"downsample": False, "whiten_type": [], "with_nl": True, "nowd": [], "use_out": False, "out_bn": False}
    section["with_gc"] = family == "nonlocalnowd"
    case = {"family": f"torchcv/{family}", "backbone": backbone, "num_classes": 19, "nonlocal_": section}
    with torch.device("meta"):
        network = build_segmentor(**torchcv_network_options(case))
    published = {name: torch.empty(shape, device="meta") for name, shape in read_shapes(name).items()}
    converted = convert_torchcv_network(published)
    ours = network.state_dict()
    assert {name: entry.shape for name, entry in converted.items()} == {
        name: entry.shape for name, entry in ours.items()
    }


@pytest.mark.parametrize(("convs", "concat_input"), [(1, False), (3, True)])
def test_mmsegmentations_heads_may_have_other_numbers_of_convolutions(convs, concat_input):
    names = [f"convs.{index}.{part}" for index in range(convs) for part in ("conv", "bn")] + ["conv_seg"]
    if concat_input:
        names += ["conv_cat.conv", "conv_cat.bn"]
    head = FCNHead((8,), 3, inner=4, width=4, convs=convs, concat_input=concat_input)
    converted = convert_mmseg_network({f"decode_head.{name}.weight": torch.zeros(1) for name in names})
    assert converted.keys() == {f"head.{name}" for name, _ in head.named_parameters() if name.endswith("weight")}


@pytest.mark.parametrize("width", [18, 32])
def test_narrower_hrnets_share_the_published_names(width):
    names = [name for name in read_shapes("torchcv_nonlocalbn_single_hrnet") if name.startswith("backbone.")]
    renamed, unknown = rename({name.removeprefix("backbone."): torch.zeros(1) for name in names}, HRNET)
    assert not unknown
    assert renamed.keys() == HRNet(width).state_dict().keys()


def test_foreign_parameters_are_named():
    with pytest.raises(UserError, match=r"nlm\.rcca\.weight"):
        convert_torchcv_network({"nlm.rcca.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"decode_head\.ham\.weight"):
        convert_mmseg_network({"decode_head.ham.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("family", "backbone"), [("ocnet", "deepbase_resnet50_dilated8"), ("basenet", "xception_dilated8")]
)
def test_unknown_networks_are_named(family, backbone):
    case = {"family": f"torchcv/{family}", "backbone": backbone, "num_classes": 2, "nonlocal_": None}
    with pytest.raises(UserError, match=f"{family}|{backbone}"):
        torchcv_network_options(case)
