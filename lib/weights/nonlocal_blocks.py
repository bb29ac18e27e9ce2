"""Published names and options of non-local, unary and global context blocks, as this project's."""

from collections.abc import Mapping
from typing import Any

from lib.base.errors import UserError
from lib.weights.names import DISENTANGLED, Table

# torchcv's `nonlocal_bn`: the names of `nonlocal_nowd` and the whitening norms
NONLOCAL: Table = (
    *DISENTANGLED,
    (r"(query|key)_bn_affine\.", r"\1_norms.batch_norm_affine."),
    (r"(query|key)_bn\.", r"\1_norms.batch_norm."),
)

# torchcv's `unary` has fewer parameters under the same names.
UNARY: Table = DISENTANGLED

# mmcv's `NonLocal1d/2d/3d` and mmsegmentation's `DisentangledNonLocal2d`; with `sub_sample` a projection is the first
# of two layers, whose second is the pooling.
MMCV_NONLOCAL: Table = (
    (r"theta\.conv\.", "query."),
    (r"phi\.(?:0\.)?conv\.", "key."),
    (r"g\.(?:0\.)?conv\.", "value."),
    (r"concat_project\.conv\.", "concatenated."),
    (r"conv_mask\.", "mask."),
    (r"conv_out\.conv\.", "output."),
    (r"conv_out\.bn\.", "output_norm."),
)

# GCNet's `ContextBlock`, also in torchcv and mmcv
GLOBAL_CONTEXT: Table = (
    (r"conv_mask\.", "mask."),
    *(
        (rf"channel_{theirs}_conv\.{index}\.", f"{ours}.{layer}.")
        for theirs, ours in (("add", "add"), ("mul", "multiply"))
        for index, layer in ((0, "conv"), (1, "norm"), (3, "expand"))
    ),
)

# torchcv's whitenings in the order in which those that a list names are applied
_WHITENINGS = {
    "channel": "instance",
    "spatial": "position",
    "bn_affine": "batch_norm_affine",
    "bn": "batch_norm",
    "ln_nostd": "layer",
    "bn_nostd": "per_channel",
}


def nonlocal_options(case: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ``NonLocal`` for those of torchcv's `NonLocal2d_bn`, or of a network's `nonlocal` section."""
    published = case["whiten_type"] or ()
    return {
        "embedding": case.get("planes"),
        "temperature": case.get("temperature", case.get("temp", 1.0)),
        "whitening": [ours for theirs, ours in _WHITENINGS.items() if theirs in published],
        "query_mean": case.get("with_unary", False),
        "mask": case.get("with_gc", False),
        "subsample": "input" if case["downsample"] else "none",
        "output_conv": case.get("use_out", False),
        "output_norm": case.get("out_bn", False),
    }


def unary_options(case: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ``Unary`` for those of torchcv's `Unary2d`."""
    return {
        "embedding": case.get("planes"),
        "subsample": case["downsample"],
        "output_conv": case.get("use_out", False),
        "output_norm": case.get("out_bn", False),
    }


def mmcv_nonlocal_options(case: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ``NonLocal`` for those of mmcv's `NonLocal1d/2d/3d`; a batch norm unless `norm_cfg` is None."""
    norm = case.get("norm_cfg", "BN") is not None
    return {
        "embedding": max(case["in_channels"] // case.get("reduction", 2), 1),
        "mode": case.get("mode", "embedded_gaussian"),
        "scale": case.get("use_scale", True) and case.get("mode", "embedded_gaussian") == "embedded_gaussian",
        "subsample": "projection" if case.get("sub_sample", False) else "none",
        "gain": False,
        "output_conv": True,
        "output_bias": not norm,
        "output_norm": norm,
        "zero_init": case.get("zeros_init", True),
    }


def mmseg_disentangled_options(case: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ``DisentangledNonLocal`` for those of mmsegmentation's `DisentangledNonLocal2d`.

    That block's releases, in which the output convolution takes the sum of both terms, not the first commit.

    Raises:
        UserError: for mode gaussian, where the published block changes its own input.
    """
    mode = case.get("mode", "embedded_gaussian")
    if mode == "gaussian":
        raise UserError("mode is gaussian: mmsegmentation's disentangled block has embedded_gaussian and dot_product")
    options = mmcv_nonlocal_options(case)
    for other in ("subsample", "zero_init"):
        del options[other]
    return options | {
        "temperature": case.get("temperature", 0.05),
        "whitening": "instance",
        "no_decay": [],
    }


def global_context_options(case: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ``GlobalContext`` for those of GCNet's `ContextBlock`; torchcv adds `one_fc`."""
    fusions = case.get("fusion_types", ("channel_add",))
    return {
        "embedding": int(case["inplanes"] * case["ratio"]),
        "pooling": {"att": "attention", "avg": "average"}[case.get("pooling_type", "att")],
        "add": "channel_add" in fusions,
        "multiply": "channel_mul" in fusions,
        "layers": 1 if case.get("one_fc", False) else 2,
    }
