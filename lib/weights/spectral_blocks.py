"""Published options and parameter names of spectral stages, double attention, CGNL and criss-cross attention."""

from collections.abc import Mapping
from typing import Any

from lib.base.errors import UserError
from lib.weights.names import Table

# `Stage` and `SNLStage` of the SNL authors' code, whatever units they hold
SPECTRAL: Table = (
    (r"t\.", "query."),
    (r"p\.", "key."),
    (r"stages\.(\d+)\.g\.", r"units.\1.value."),
    (r"stages\.(\d+)\.w_1\.", r"units.\1.skip."),
    (r"stages\.(\d+)\.w_2\.", r"units.\1.output."),
    (r"stages\.(\d+)\.w_h\.", r"units.\1.mix."),
    (r"stages\.(\d+)\.w_m\.", r"units.\1.mask."),
    (r"stages\.(\d+)\.bn\.", r"units.\1.norm."),
)

# torchcv's `A2Block`
DOUBLE_ATTENTION: Table = (
    (r"down\.", "features."),
    (r"gather_down\.", "gather."),
    (r"distribue_down\.", "distribute."),
    (r"up\.", "output."),
)

# `SpatialCGNL` and `SpatialCGNLx`
COMPACT_GENERALIZED: Table = (
    (r"t\.", "query."),
    (r"p\.", "key."),
    (r"g\.", "value."),
    (r"z\.", "output."),
    (r"gn\.", "norm."),
)

CRISS_CROSS: Table = (
    (r"(query|key|value)_conv\.", r"\1."),
    (r"gamma$", "gamma"),
)

# Published types of a stage's units
_UNITS = {
    "snl": "chebyshev",
    "nl": "nonlocal",
    "a2": "nonlocal",
    "ns": "laplacian",
    "dnl": "disentangled",
    "caylay": "squared_laplacian",
}


def spectral_options(case: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``SpectralStage`` for the published options of a `snl/stage` or `snl/seg_stage`.

    `is_norm` and `is_sys` are what the published constructor defaults to, False, except that `snl` sets them itself.

    Raises:
        UserError: if the published code has no such unit, or would fail with these options.
    """
    common = {"channels": case["inplanes"], "embedding": case["planes"], "units": case.get("stage_num", 5)}
    if case["family"] == "snl/seg_stage":
        if case.get("use_scale", False):
            raise UserError("use_scale: the published segmentation stage fails with it")
        return {**common, "chebyshev_of": "laplacian", "relu": case.get("relu", False)}
    kind = case.get("nl_type", "snl")
    if kind not in _UNITS:
        raise UserError(f"nl_type {kind!r}: the published code has no such unit; choose {', '.join(_UNITS)}")
    normalised = kind == "snl" or bool(case.get("is_norm"))
    unnormalised = "relu" if kind == "a2" else "softmax"
    return {
        **common,
        "unit": _UNITS[kind],
        "width": case["planes"] // 2 if kind == "caylay" else case["planes"],
        "affinity": "normalised" if normalised else unnormalised,
        "symmetric": kind == "snl" or bool(case.get("is_sys")),
    }


def double_attention_options(case: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``DoubleAttention`` for those of a `torchcv/a2block`."""
    return {"channels": case["inplane"], "embedding": case["plane"]}


def compact_generalized_options(case: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``CompactGeneralizedNonLocal`` for those of a `snl/cgnl`, whose kernel is the Gaussian."""
    return {
        "channels": case["inplanes"],
        "embedding": case["planes"],
        "groups": case.get("groups") or 1,
        "order": case.get("order", 2),
        "scale": case.get("use_scale", False),
    }


def criss_cross_options(case: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``CrissCrossAttention`` for those of a `ccnet/criss_cross`, which is one pass."""
    return {
        "channels": case["in_dim"],
        "embedding": case.get("sub_dim", case["in_dim"] // 8),
        "recurrence": case.get("recurrence", 1),
    }
