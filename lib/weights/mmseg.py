"""mmsegmentation's networks on ResNets: their parameters and options under this project's names."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from lib.base.errors import UserError
from lib.weights.names import RESNET_V1C, Table, convert, layers, nest
from lib.weights.nonlocal_blocks import (
    GLOBAL_CONTEXT,
    MMCV_NONLOCAL,
    global_context_options,
    mmcv_nonlocal_options,
    mmseg_disentangled_options,
)
from lib.weights.spectral_blocks import SPECTRAL, spectral_options

# What all heads have in common
_COMMON: Table = (
    *nest(r"backbone\.", "backbone.", RESNET_V1C),
    *layers(r"decode_head\.convs\.0", "head.reduce", conv="conv", norm="bn"),
    *layers(r"decode_head\.conv_cat", "head.fuse", conv="conv", norm="bn"),
    (r"decode_head\.conv_seg\.", "head.classifier."),
    *layers(r"auxiliary_head\.convs\.0", "aux_head.reduce", conv="conv", norm="bn"),
    (r"auxiliary_head\.conv_seg\.", "aux_head.classifier."),
)

# Context blocks by their names inside heads that are an FCN head otherwise
MMSEG_BLOCKS: Mapping[str, Table] = {
    "nl_block": MMCV_NONLOCAL,
    "dnl_block": MMCV_NONLOCAL,
    "gc_block": GLOBAL_CONTEXT,
    "SNL": SPECTRAL,
}

# PSPHead and ASPPHead; the first branch of the latter has a 1x1 convolution.
_POOLING: Table = (
    *layers(r"decode_head\.psp_modules\.(\d+)\.1", r"head.levels.\1", conv="conv", norm="bn"),
    *layers(r"decode_head\.image_pool\.1", "head.image", conv="conv", norm="bn"),
    *layers(r"decode_head\.aspp_modules\.0", "head.point", conv="conv", norm="bn"),
    *(
        entry
        for index in range(1, 10)
        for entry in layers(rf"decode_head\.aspp_modules\.{index}", f"head.atrous.{index - 1}", conv="conv", norm="bn")
    ),
    *layers(r"decode_head\.bottleneck", "head.fuse", conv="conv", norm="bn"),
)

# ANNHead. Its `context` saves its one projection twice, as key and as query, and the query is loaded over the key.
_FUSION: Table = (
    *layers(r"stages\.(\d+)\.(key|query)_project", r"branches.\1.\2", conv="conv", norm="bn"),
    (r"stages\.(\d+)\.value_project\.", r"branches.\1.value."),
    (r"stages\.(\d+)\.out_project\.", r"branches.\1.output."),
    (r"bottleneck\.conv\.", "fuse."),
    (r"bottleneck\.bn\.", "norm."),
)
_ASYMMETRIC: Table = (
    *nest(r"decode_head\.fusion\.", "head.fusion.", _FUSION),
    *layers(
        r"decode_head\.context\.stages\.(\d+)\.(?:key|query)_project",
        r"head.block.branches.\1.key",
        conv="conv",
        norm="bn",
    ),
    *nest(r"decode_head\.context\.", "head.block.", _FUSION),
    *layers(r"decode_head\.bottleneck", "head.reduce", conv="conv", norm="bn"),
)


def convert_mmseg_network(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of one of mmsegmentation's networks on a ResNet, for a ``Segmentor``; of the heads in ``HEADS``.

    Raises:
        UserError: naming an entry that these networks do not have.
    """
    return convert(state, mmseg_table(state), "mmsegmentation network")


def mmseg_table(names: Iterable[str]) -> Table:
    """The names of mmsegmentation's networks; what some mean depends on the others of a network, all in ``names``."""
    names = list(names)
    blocks = (nest(rf"decode_head\.{name}\.", "head.block.", table) for name, table in MMSEG_BLOCKS.items())
    # With more than two convolutions before the join those after the first make a sequence.
    refine = [name for name in names if re.search(r"decode_head\.convs\.[1-9]\d*\.conv\.weight$", name)]
    chain = [
        entry
        for index in range(len(refine))
        for entry in layers(
            rf"decode_head\.convs\.{index + 1}",
            "head.refine" if len(refine) == 1 else f"head.refine.{index}",
            conv="conv",
            norm="bn",
        )
    ]
    is_asymmetric = any(re.search(r"decode_head\.(fusion|context)\.", name) for name in names)
    own = _ASYMMETRIC if is_asymmetric else _POOLING
    return (*(entry for table in blocks for entry in table), *chain, *own, *_COMMON)


def _fcn(case: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What FCNHead and the heads that descend from it share."""
    return {
        "inner": case["channels"],
        "width": case["channels"],
        "kernel_size": arguments.get("kernel_size", 3),
        "dilation": arguments.get("dilation", 1),
        "concat_input": arguments.get("concat_input", True),
    }


def _fcn_head(case: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": "fcn", **_fcn(case, arguments), "convs": arguments.get("num_convs", 2)}


def _nonlocal_head(
    name: str, options_of: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]:
    """The options of a head with the block ``name``, of which ``options_of`` gives the options."""

    def translate(case: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        block = {"name": name, **options_of({"in_channels": case["channels"], **arguments})}
        return {"name": "nonlocal", **_fcn(case, arguments), "block": block}

    return translate


def _snl_options(block: Mapping[str, Any]) -> dict[str, Any]:
    """`use_scale` and `mode` have no effect."""
    published = {
        "family": "snl/seg_stage",
        "inplanes": block["in_channels"],
        "planes": block["in_channels"] // block.get("reduction", 2),
        "stage_num": 1,
        "relu": True,
    }
    return {name: value for name, value in spectral_options(published).items() if name != "channels"}


def _gc_head(case: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    published = {
        "inplanes": case["channels"],
        "ratio": arguments.get("ratio", 1 / 4),
        "pooling_type": arguments.get("pooling_type", "att"),
        "fusion_types": arguments.get("fusion_types", ("channel_add",)),
    }
    options = global_context_options(published)
    return {"name": "global_context", **_fcn(case, arguments), **options}


def _psp_head(case: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": "psp",
        "pyramid": list(arguments.get("pool_scales", (1, 2, 3, 6))),
        "inner": case["channels"],
        "width": case["channels"],
        "align_corners": case["align_corners"],
    }


def _aspp_head(case: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    point, *dilations = arguments.get("dilations", (1, 6, 12, 18))
    if point != 1 or 1 in dilations:
        raise UserError(f"dilations of ASPPHead are {[point, *dilations]}: the first, and no other, must be 1")
    return {
        "name": "deeplab_v3",
        "dilations": dilations,
        "inner": case["channels"],
        "width": case["channels"],
        "fuse_size": 3,
    }


def _ann_head(case: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    scales = arguments.get("query_scales", (1,))
    if any(scale != 1 for scale in scales):
        raise UserError(f"query_scales of ANNHead are {list(scales)}: the published head fails with any but 1")
    return {
        "name": "asymmetric",
        "embedding": arguments["project_channels"],
        "width": case["channels"],
        "pyramid": list(arguments.get("key_pool_scales", (1, 3, 6, 8))),
        "branches": len(scales),
        "bias": False,
    }


HEADS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]] = {
    "FCNHead": _fcn_head,
    "NLHead": _nonlocal_head("nonlocal", mmcv_nonlocal_options),
    "DNLHead": _nonlocal_head("disentangled", mmseg_disentangled_options),
    "GCHead": _gc_head,
    "ANNHead": _ann_head,
    "PSPHead": _psp_head,
    "ASPPHead": _aspp_head,
    "SNLHead": _nonlocal_head("spectral", _snl_options),
}
"""What gives the options of this project's head for each of theirs, of a network's and of the head's arguments."""

# Strides and dilations of the stages at each output stride
_STRIDES = {
    8: ([1, 2, 1, 1], [1, 1, 2, 4]),
    16: ([1, 2, 2, 1], [1, 1, 1, 2]),
    32: ([1, 2, 2, 2], [1, 1, 1, 1]),
}


def mmseg_network_options(case: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``build_segmentor`` for mmsegmentation's network of head ``case["family"]`` on a ResNet v1c.

    Raises:
        UserError: if this project has no such head or backbone.
    """
    kind = case["family"].removeprefix("mmseg/")
    if kind not in HEADS:
        raise UserError(f"mmsegmentation's head {kind} is not known: choose one of {', '.join(HEADS)}")
    stages = [channels * (1 if case["depth"] < 50 else 4) for channels in (64, 128, 256, 512)]
    expected = stages[2:] if kind == "ANNHead" else stages[3]
    if case.get("in_channels", expected) != expected:
        raise UserError(f"in_channels of {kind} are {case['in_channels']}: this ResNet's last stages have {stages[2:]}")
    # mmsegmentation's configurations give the heads a quarter of their stages' channels.
    channels, aux_channels = case.get("channels", (stages[3] // 4, stages[2] // 4))
    head = HEADS[kind]({"channels": channels, "align_corners": case["align_corners"]}, case["head_args"])
    return {
        "num_classes": case["num_classes"],
        "backbone": {
            "name": f"resnet{case['depth']}",
            "stem": "v1c",
            "output_stride": _output_stride(case),
            "ceil_mode": False,
            "contract_dilation": case.get("contract_dilation", True),
            "dilate_second": False,
        },
        "head": head,
        "aux": _auxiliary_options(case, stages, aux_channels),
        "align_corners": case["align_corners"],
    }


def _output_stride(case: Mapping[str, Any]) -> int:
    found = [list(case.get("strides", _STRIDES[8][0])), list(case.get("dilations", _STRIDES[8][1]))]
    for output_stride, known in _STRIDES.items():
        if found == list(known):
            return output_stride
    raise UserError(f"strides {found[0]} with dilations {found[1]} are those of no output stride of a ResNet here")


def _auxiliary_options(case: Mapping[str, Any], stages: list[int], channels: int) -> dict[str, Any]:
    reads, arguments = case.get("aux_in_channels", stages[2]), dict(case.get("aux_args", {}))
    shape = (arguments.get("num_convs", 1), arguments.get("concat_input", False), arguments.get("kernel_size", 3))
    if reads not in stages or shape != (1, False, 3):
        raise UserError("the auxiliary head is no 3x3 convolution of a stage: this project has no other")
    return {"stage": stages.index(reads) + 1, "width": channels, "dilation": arguments.get("dilation", 1)}
