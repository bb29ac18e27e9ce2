"""Published segmentation networks and asymmetric blocks: their parameters and options under this project's names."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lib.base.errors import UserError
from lib.weights.names import RESNET, TORCHCV, Table, convert, nest
from lib.weights.nonlocal_blocks import (
    GLOBAL_CONTEXT,
    MMCV_NONLOCAL,
    NONLOCAL,
    mmcv_nonlocal_options,
    mmseg_disentangled_options,
    nonlocal_options,
    unary_options,
)


def _layers(theirs: str, ours: str, *, conv: int | str = 0, norm: int | str = 1) -> Table:
    """A convolution and its norm, which the published networks number inside a sequence."""
    return ((rf"{theirs}\.{conv}\.(?=\w+$)", f"{ours}.conv."), (rf"{theirs}\.{norm}\.(?=\w+$)", f"{ours}.norm."))


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

# mmsegmentation's and mmcv's ResNets: three convolutions in one sequence, or the bare network's names
RESNET_V1C: Table = (
    *(entry for index in range(3) for entry in _layers("stem", f"stem.{index}", conv=3 * index, norm=3 * index + 1)),
    *RESNET,
)

# The stem and stage 1 are named as a ResNet's. A transition that an earlier branch passes unchanged has no parameters,
# so the new branch's is the only one of stages 3 and 4.
HRNET: Table = (
    *_layers(r"transition1\.0", "transition1.0"),
    *_layers(r"transition1\.1\.0", "transition1.1"),
    *_layers(r"transition2\.2\.0", "transition2"),
    *_layers(r"transition3\.3\.0", "transition3"),
    (r"(stage\d\.\d+\.branches\.)", r"\1"),
    *_layers(r"(stage\d\.\d+\.)fuse_layers\.(\d)\.(\d)", r"\1paths.\2.\3"),
    *_layers(r"(stage\d\.\d+\.)fuse_layers\.(\d)\.(\d)\.(\d)", r"\1paths.\2.\3.\4"),
    *RESNET,
)

# tonylins's MobileNetV2: sequences of convolution, norm, ReLU6, the first one without the convolution that expands
MOBILENET_V2: Table = (
    *_layers(r"features\.0", "stem"),
    *_layers(r"features\.1\.conv", "units.0.depthwise"),
    *_layers(r"features\.1\.conv", "units.0.project", conv=3, norm=4),
    *(
        entry
        for unit in range(1, 17)
        for place, layer in enumerate(("expand", "depthwise", "project"))
        for entry in _layers(
            rf"features\.{unit + 1}\.conv", f"units.{unit}.{layer}", conv=3 * place, norm=3 * place + 1
        )
    ),
)

# torchcv's networks whatever their context block, which ``TORCHCV`` names for `nonlocalnowd` only
_TORCHCV: Table = (
    *nest(r"backbone\.", "backbone.", (*HRNET, *MOBILENET_V2)),
    # pspnet
    *_layers(r"ppm\.ppm\.(\d)", r"head.levels.\1", conv=1, norm=r"2\.0"),
    *_layers(r"cls", "head.fuse", norm=r"1\.0"),
    (r"cls\.3\.", "head.classifier."),
    # deeplabv3
    *_layers(r"head\.0\.conv1", "head.image", conv=1, norm=r"2\.0"),
    *_layers(r"head\.0\.conv2", "head.point", norm=r"1\.0"),
    *(
        entry
        for index in range(3)
        for entry in _layers(rf"head\.0\.conv{index + 3}", f"head.atrous.{index}", norm=r"1\.0")
    ),
    *_layers(r"head\.0\.bottleneck", "head.fuse", norm=r"1\.0"),
    (r"head\.1\.", "head.classifier."),
    # annn
    *nest(r"fusion\.", "head.fusion.", ASYMMETRIC_FUSION),
    *_layers(r"context", "head.reduce", norm=r"1\.0"),
    *nest(r"context\.2\.", "head.block.", ASYMMETRIC_PYRAMID),
    (r"cls\.(?=\w+$)", "head.classifier."),
    # the auxiliary head of deeplabv3 and annn
    *_layers(r"dsn", "aux_head.reduce", norm=r"1\.0"),
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

# mmsegmentation's heads that are an FCN head, with or without a context block
_MMSEG: Table = (
    *nest(r"backbone\.", "backbone.", RESNET_V1C),
    *_layers(r"decode_head\.convs\.0", "head.reduce", conv="conv", norm="bn"),
    *_layers(r"decode_head\.conv_cat", "head.fuse", conv="conv", norm="bn"),
    (r"decode_head\.conv_seg\.", "head.classifier."),
    *_layers(r"auxiliary_head\.convs\.0", "aux_head.reduce", conv="conv", norm="bn"),
    (r"auxiliary_head\.conv_seg\.", "aux_head.classifier."),
)

# Context blocks by their names inside mmsegmentation's heads
MMSEG_BLOCKS: Mapping[str, Table] = {"nl_block": MMCV_NONLOCAL, "dnl_block": MMCV_NONLOCAL}


def convert_torchcv_network(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of a torchcv segmentation network, for a ``Segmentor``.

    Raises:
        UserError: naming an entry that no network known here has.
    """
    return convert(state, TORCHCV_NETWORK, "torchcv network")


def convert_mmseg_network(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of mmsegmentation's FCN, NL or DNL network on a ResNet, for a ``Segmentor``.

    Raises:
        UserError: naming an entry that these networks do not have.
    """
    return convert(state, mmseg_table(state), "mmsegmentation network")


def mmseg_table(names: Iterable[str]) -> Table:
    """The names of mmsegmentation's networks; those of a head's convolutions depend on how many ``names`` has."""
    blocks = (nest(rf"decode_head\.{name}\.", "head.block.", table) for name, table in MMSEG_BLOCKS.items())
    # With more than two convolutions before the join those after the first make a sequence.
    refine = [name for name in names if re.search(r"decode_head\.convs\.[1-9]\d*\.conv\.weight$", name)]
    chain = [
        entry
        for index in range(len(refine))
        for entry in _layers(
            rf"decode_head\.convs\.{index + 1}",
            "head.refine" if len(refine) == 1 else f"head.refine.{index}",
            conv="conv",
            norm="bn",
        )
    ]
    return (*(entry for table in blocks for entry in table), *chain, *_MMSEG)


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


def mmseg_network_options(case: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``build_segmentor`` for mmsegmentation's network of head ``case["family"]`` on a ResNet v1c.

    Raises:
        UserError: if this project has no such head.
    """
    kind, arguments = case["family"].removeprefix("mmseg/"), case["head_args"]
    # the channels of stages 3 and 4 in mmsegmentation's configurations, which give the heads a quarter of them
    stage3, stage4 = (256, 512) if case["depth"] < 50 else (1024, 2048)
    head = {"width": stage4 // 4, "concat_input": arguments.get("concat_input", True)}
    block = {"in_channels": stage4 // 4, **arguments}
    if kind == "FCNHead":
        head |= {"name": "fcn", "convs": arguments.get("num_convs", 2)}
    elif kind == "NLHead":
        head |= {"name": "nonlocal", "block": {"name": "nonlocal", **mmcv_nonlocal_options(block)}}
    elif kind == "DNLHead":
        head |= {"name": "nonlocal", "block": {"name": "disentangled", **mmseg_disentangled_options(block)}}
    else:
        raise UserError(f"mmsegmentation's head {kind} is not known: choose FCNHead, NLHead or DNLHead")
    return {
        "num_classes": case["num_classes"],
        "backbone": {
            "name": f"resnet{case['depth']}",
            "stem": "v1c",
            "output_stride": 8,
            "ceil_mode": False,
            "dilate_second": False,
        },
        "head": head,
        "aux": {"width": stage3 // 4},
        "align_corners": case["align_corners"],
    }
