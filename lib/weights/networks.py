"""Published segmentation networks and asymmetric blocks: their parameters and options under this project's names."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lib.base.errors import UserError
from lib.weights.mmseg import convert_mmseg_network as convert_mmseg_network
from lib.weights.mmseg import mmseg_network_options as mmseg_network_options
from lib.weights.mmseg import mmseg_table as mmseg_table
from lib.weights.names import RESNET, TORCHCV, Table, convert, layers, nest
from lib.weights.names import RESNET_V1C as RESNET_V1C
from lib.weights.nonlocal_blocks import GLOBAL_CONTEXT, NONLOCAL, nonlocal_options, unary_options

# The blocks of "Asymmetric Non-local Neural Networks", AFNB and APNB. APNB saves its one projection twice, as key and
# as query, and loads the query over the key.
_ATTENTION: Table = (
    (r"stages\.(\d+)\.f_value\.", r"branches.\1.value."),
    (r"stages\.(\d+)\.W\.", r"branches.\1.output."),
    (r"conv_bn_dropout\.0\.", "fuse."),
)
ASYMMETRIC_FUSION: Table = (
    (r"stages\.(\d+)\.f_(key|query)\.0\.", r"branches.\1.\2.conv."),
    (r"stages\.(\d+)\.f_(key|query)\.1\.0\.", r"branches.\1.\2.norm."),
    *_ATTENTION,
    (r"conv_bn_dropout\.1\.", "norm."),
)
ASYMMETRIC_PYRAMID: Table = (
    (r"stages\.(\d+)\.f_(?:key|query)\.0\.", r"branches.\1.key.conv."),
    (r"stages\.(\d+)\.f_(?:key|query)\.1\.0\.", r"branches.\1.key.norm."),
    *_ATTENTION,
    (r"conv_bn_dropout\.1\.0\.", "norm."),
)

# The stem and stage 1 are named as a ResNet's. A transition that an earlier branch passes unchanged has no parameters,
# so the new branch's is the only one of stages 3 and 4.
HRNET: Table = (
    *layers(r"transition1\.0", "transition1.0"),
    *layers(r"transition1\.1\.0", "transition1.1"),
    *layers(r"transition2\.2\.0", "transition2"),
    *layers(r"transition3\.3\.0", "transition3"),
    (r"(stage\d\.\d+\.branches\.)", r"\1"),
    *layers(r"(stage\d\.\d+\.)fuse_layers\.(\d)\.(\d)", r"\1paths.\2.\3"),
    *layers(r"(stage\d\.\d+\.)fuse_layers\.(\d)\.(\d)\.(\d)", r"\1paths.\2.\3.\4"),
    *RESNET,
)

# tonylins's MobileNetV2: sequences of convolution, norm, ReLU6, the first one without the convolution that expands
MOBILENET_V2: Table = (
    *layers(r"features\.0", "stem"),
    *layers(r"features\.1\.conv", "units.0.depthwise"),
    *layers(r"features\.1\.conv", "units.0.project", conv=3, norm=4),
    *(
        entry
        for unit in range(1, 17)
        for place, layer in enumerate(("expand", "depthwise", "project"))
        for entry in layers(rf"features\.{unit + 1}\.conv", f"units.{unit}.{layer}", conv=3 * place, norm=3 * place + 1)
    ),
)

# torchcv's networks whatever their context block, which ``TORCHCV`` names for `nonlocalnowd` only
_TORCHCV: Table = (
    *nest(r"backbone\.", "backbone.", (*HRNET, *MOBILENET_V2)),
    # pspnet
    *layers(r"ppm\.ppm\.(\d)", r"head.levels.\1", conv=1, norm=r"2\.0"),
    *layers(r"cls", "head.fuse", norm=r"1\.0"),
    (r"cls\.3\.", "head.classifier."),
    # deeplabv3
    *layers(r"head\.0\.conv1", "head.image", conv=1, norm=r"2\.0"),
    *layers(r"head\.0\.conv2", "head.point", norm=r"1\.0"),
    *(
        entry
        for index in range(3)
        for entry in layers(rf"head\.0\.conv{index + 3}", f"head.atrous.{index}", norm=r"1\.0")
    ),
    *layers(r"head\.0\.bottleneck", "head.fuse", norm=r"1\.0"),
    (r"head\.1\.", "head.classifier."),
    # annn
    *nest(r"fusion\.", "head.fusion.", ASYMMETRIC_FUSION),
    *layers(r"context", "head.reduce", norm=r"1\.0"),
    *nest(r"context\.2\.", "head.block.", ASYMMETRIC_PYRAMID),
    (r"cls\.(?=\w+$)", "head.classifier."),
    # the auxiliary head of deeplabv3 and annn
    *layers(r"dsn", "aux_head.reduce", norm=r"1\.0"),
    (r"dsn\.3\.", "aux_head.classifier."),
    *TORCHCV,
)

# The context blocks of `nonlocalnowd`, `nonlocalbn`, `unary` and `gcnet`, which share a few names for the same things
TORCHCV_BLOCKS: Table = (*NONLOCAL, *GLOBAL_CONTEXT)

TORCHCV_NETWORK: Table = (*nest(r"(?:nlm|gcb)\.ctb\.", "head.block.", TORCHCV_BLOCKS), *_TORCHCV)

# The options of a published network's head and of its auxiliary head
_TORCHCV_HEADS: Mapping[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "basenet": ({"name": "fcn"}, {}),
    "nonlocalnowd": ({"name": "nonlocal"}, {}),
    "nonlocalbn": ({"name": "nonlocal"}, {}),
    # HRNet's 720 channels halved, not quartered as elsewhere
    "nonlocalbn_single": ({"name": "nonlocal", "inner": 360}, None),
    "unary": ({"name": "nonlocal"}, {}),
    "gcnet": ({"name": "global_context"}, {}),
    "pspnet": ({"name": "psp"}, {}),
    "deeplabv3": ({"name": "deeplab_v3"}, {"bias": True}),
    "annn": ({"name": "asymmetric"}, {"bias": True, "dropout": 0.05}),
}

# torchcv's whitenings of `nonlocal_nowd`, of which the first that a list names counts
_WHITENINGS = {
    "in_nostd": ("instance", False),
    "in": ("instance", True),
    "ln_nostd": ("layer", False),
    "ln": ("layer", True),
    "fln_nostd": ("batch", False),
    "fln": ("batch", True),
}


def convert_torchcv_network(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of a torchcv segmentation network, for a ``Segmentor``.

    Raises:
        UserError: naming an entry that no network known here has.
    """
    return convert(state, TORCHCV_NETWORK, "torchcv network")


def asymmetric_options(case: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ``AsymmetricFusion`` or ``AsymmetricPyramid`` for the published ones of AFNB or APNB."""
    options = {
        "embedding": case["key_channels"],
        "value_channels": case["value_channels"],
        "pyramid": case["pool_sizes"],
        "branches": len(case["sizes"]),
    }
    return options | ({"out_channels": case["out_channels"]} if "low_in_channels" in case else {})


def disentangled_options(case: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ``DisentangledNonLocal`` for those of torchcv's `nonlocal_nowd`, or a network's `nonlocal`."""
    published = case["whiten_type"] or ()
    whitening, variance = next((ours for theirs, ours in _WHITENINGS.items() if theirs in published), ("none", False))
    return {
        "embedding": case.get("planes"),
        "whitening": whitening,
        "whiten_variance": variance,
        "pairwise": case["with_nl"],
        "unary": case["with_gc"],
        "scale": "nl" not in (case["nowd"] or ()),
        "subsample": case["downsample"],
        "output_conv": case["use_out"],
        "output_norm": case["out_bn"],
        "init_scale": case.get("weight_init_scale", 1.0),
    }


_TORCHCV_BLOCK_OPTIONS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "nonlocalnowd": ("disentangled", disentangled_options),
    "nonlocalbn": ("nonlocal", nonlocal_options),
    "nonlocalbn_single": ("nonlocal", nonlocal_options),
    "unary": ("unary", unary_options),
}


def torchcv_network_options(case: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``build_segmentor`` for torchcv's network ``case["family"]`` on ``case["backbone"]``.

    Raises:
        UserError: if this project has no such network or backbone.
    """
    family = case["family"].removeprefix("torchcv/")
    if family not in _TORCHCV_HEADS:
        raise UserError(f"torchcv network {family} is not known: choose one of {', '.join(_TORCHCV_HEADS)}")
    head, aux = _TORCHCV_HEADS[family]
    if family in _TORCHCV_BLOCK_OPTIONS:
        block, translate = _TORCHCV_BLOCK_OPTIONS[family]
        head = head | {"block": {"name": block, **translate({"downsample": False} | (case["nonlocal_"] or {}))}}
    return {
        "num_classes": case["num_classes"],
        "backbone": _torchcv_backbone(case["backbone"], case.get("multi_grid")),
        "head": head,
        "aux": aux,
        "align_corners": True,
    }


def _torchcv_backbone(name: str, multi_grid: Sequence[int] | None) -> dict[str, Any]:
    """The name and the options of the backbone that torchcv calls ``name``."""
    found = re.fullmatch(r"(deepbase_)?(resnet\d+|mobilenetv2|hrnet)(?:_dilated(8|16))?", name)
    if found is None:
        raise UserError(f"torchcv backbone {name} is not known: choose a ResNet, mobilenetv2 or hrnet")
    kind, stride = found[2], int(found[3] or 32)
    if kind == "hrnet":
        return {"name": "hrnet_w48"}
    if kind == "mobilenetv2":
        return {"name": "mobilenet_v2", "output_stride": stride}
    stem = "deep" if found[1] else "plain"
    return {"name": kind, "stem": stem, "output_stride": stride, "multi_grid": multi_grid or [1, 1, 1]}
