"""What the configuration in a foreign checkpoint says of options that no weight shows, compared with ours.

The checkpoint's configuration is translated to this project's keys by the tables that translate its networks. Both
sides are plain dictionaries: ``model.head.block.options.temperature`` and the like, and values.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lib.base.errors import UserError
from lib.weights.config_text import read_text
from lib.weights.mmseg import mmseg_network_options
from lib.weights.networks import torchcv_network_options

Options = Mapping[str, Any]

INPUT = ("model.align_corners", "data.color_order", "data.mean", "data.std")

# By the beginnings of keys: options that leave no trace in a network's weights
_UNSEEN: Mapping[str, tuple[str, ...]] = {
    "model.backbone.": ("output_stride", "multi_grid"),
    "model.backbone.options.": ("ceil_mode", "contract_dilation", "dilate_second"),
    "model.head.options.": ("dilation", "dilations", "pyramid", "align_corners"),
    "model.head.block.options.": (
        *("temperature", "scale", "mode", "whitening", "whiten_variance", "query_mean", "subsample"),
        *("chebyshev_of", "affinity", "symmetric", "relu"),
    ),
    "model.aux.options.": ("dilation", "stage"),
}

UNSEEN = dict.fromkeys((*INPUT, *(beginning + name for beginning, names in _UNSEEN.items() for name in names))).keys()
"""The keys that are compared, in the order in which they are told."""

SHOWN = 5
"""How many unreadable places are named."""


@dataclass
class Recorded:
    """What a checkpoint's own configuration says."""

    values: dict[str, Any] = field(default_factory=dict)
    """By this project's keys."""
    notes: list[str] = field(default_factory=list)
    """What could not be read, in words."""


def compare_options(content: object, options: Options, what: str) -> list[str]:
    """Compare what a foreign checkpoint's own configuration says with the options of a network for its weights.

    Args:
        content: of the checkpoint.
        options: values by this project's keys, whatever their place: those that no weight shows are compared.
        what: what errors call the file.

    Returns:
        Lines on what could not be read, and on what is taken from ``options`` because the file does not say it.

    Raises:
        UserError: naming both values of each contradiction and the words ``key=value`` that resolve it.
    """
    recorded = read_recorded(content)
    known = UNSEEN & options.keys() & recorded.values.keys() - _other_parts(recorded.values, options)
    said = {key: recorded.values[key] for key in UNSEEN if key in known and _is_plain(recorded.values[key])}
    contradictions = [key for key, value in said.items() if not _agree(value, options[key])]
    if contradictions:
        differences = ", ".join(
            f"{key} is {_written(_like(said[key], options[key]))} there and {_written(options[key])} here"
            for key in contradictions
        )
        words = " ".join(f"{key}={_written(_like(said[key], options[key]))}" for key in contradictions)
        raise UserError(f"{what} was made with other options: {differences}; to take the file's, add {words}")
    assumed = [f"{key}={_written(options[key])}" for key in UNSEEN if key in options and key not in said]
    if not assumed:
        return recorded.notes
    return [*recorded.notes, f"{what} does not say, so the configuration's hold: {' '.join(assumed)}"]


def _other_parts(theirs: Options, ours: Options) -> set[str]:
    """The keys that mean something else, or nothing, there and here: of another head, of another block."""
    others = set()
    if theirs.get("model.head.name") != ours.get("model.head.name"):
        others |= {key for key in theirs if key.startswith("model.head.")}
    if theirs.get("model.head.block.name") != ours.get("model.head.block.name"):
        common = {f"model.head.block.options.{name}" for name in ("temperature", "scale", "whitening")}
        others |= {key for key in theirs if key.startswith("model.head.block.")} - common
    return others


def read_recorded(content: object) -> Recorded:
    """The configuration that a checkpoint of torchcv or mmsegmentation carries; empty where it carries none."""
    if not isinstance(content, Mapping):
        return Recorded()
    if isinstance(content.get("config_dict"), Mapping):
        return _read_torchcv(content["config_dict"])
    meta = content.get("meta")
    for name in ("cfg", "config"):
        found = meta.get(name) if isinstance(meta, Mapping) else None
        if isinstance(found, str):
            settings, unread = read_text(found)
            recorded = _read_mmseg(settings)
            if unread:
                more = f" and {len(unread) - SHOWN} more places" if len(unread) > SHOWN else ""
                recorded.notes.append(f"not read of the checkpoint's configuration: {'; '.join(unread[:SHOWN])}{more}")
            return recorded
        if isinstance(found, Mapping):
            return _read_mmseg(found)
    return Recorded()


# What mmsegmentation gives every head, which is no option of one
_OF_EVERY_HEAD = {
    *("type", "in_channels", "in_index", "channels", "dropout_ratio", "num_classes", "out_channels", "conv_cfg"),
    *("norm_cfg", "act_cfg", "align_corners", "loss_decode", "input_transform", "ignore_index", "sampler", "init_cfg"),
    *("threshold", "_delete_"),
}


def _read_mmseg(settings: Options) -> Recorded:
    recorded = Recorded(_mmseg_pixels(settings))
    model = settings.get("model")
    head = model.get("decode_head") if isinstance(model, Mapping) else None
    if not isinstance(head, Mapping):
        return recorded
    if isinstance(head.get("align_corners"), bool):
        recorded.values["model.align_corners"] = head["align_corners"]
    backbone = model.get("backbone") if isinstance(model.get("backbone"), Mapping) else {}
    auxiliary = model.get("auxiliary_head") if isinstance(model.get("auxiliary_head"), Mapping) else {}
    made = _translate(recorded, lambda: mmseg_network_options(_mmseg_case(backbone, head, auxiliary)))
    if made is None:
        return recorded
    if not backbone.keys() & {"strides", "dilations"}:
        made["backbone"] = {}
    recorded.values |= _by_key(made | {"aux": made["aux"] if auxiliary else None})
    return recorded


def _translate(recorded: Recorded, translate: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """The translated options of a network; None, and a note, where that cannot be."""
    try:
        return translate()
    except UserError as error:
        recorded.notes.append(f"the checkpoint's configuration is not compared beyond its input: {error}")
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError):
        recorded.notes.append("the checkpoint's configuration of the network could not be read")
    return None


def _mmseg_pixels(settings: Options) -> dict[str, Any]:
    """Mean, deviation and channel order: of 1.x's data preprocessor, or of 0.x's normalisation."""
    model = settings.get("model")
    places = [model.get("data_preprocessor") if isinstance(model, Mapping) else None]
    places += [settings.get("data_preprocessor"), settings.get("img_norm_cfg"), _find_step(settings, "Normalize")]
    for place in places:
        if isinstance(place, Mapping) and _numbers(place.get("mean")) and _numbers(place.get("std")):
            swapped = any(place.get(name) is True for name in ("bgr_to_rgb", "rgb_to_bgr", "to_rgb"))
            order = "rgb" if swapped else "bgr"
            return {"data.mean": list(place["mean"]), "data.std": list(place["std"]), "data.color_order": order}
    return {}


def _find_step(part: Any, kind: str, seen: set[int] | None = None) -> Options | None:
    """The first step of that type in the pipelines of a configuration."""
    seen = set() if seen is None else seen
    if id(part) in seen or not isinstance(part, (Mapping, list, tuple)):
        return None
    seen.add(id(part))
    if isinstance(part, Mapping) and part.get("type") == kind:
        return part
    inner = part.values() if isinstance(part, Mapping) else part
    return next(filter(None, (_find_step(entry, kind, seen) for entry in inner)), None)


def _mmseg_case(backbone: Options, head: Options, auxiliary: Options) -> dict[str, Any]:
    """A network's configuration in the words of ``mmseg_network_options``, with what the published code defaults to."""
    kind, style = backbone.get("type", "ResNetV1c"), backbone.get("style", "pytorch")
    if kind not in ("ResNet", "ResNetV1c") or style != "pytorch":
        raise UserError(f"backbone {kind} of style {style} is not known")
    case = {
        "family": f"mmseg/{head['type']}",
        "depth": backbone.get("depth", 50),
        "strides": backbone.get("strides", [1, 2, 2, 2]),
        "dilations": backbone.get("dilations", [1, 1, 1, 1]),
        "contract_dilation": backbone.get("contract_dilation", False),
        "align_corners": head.get("align_corners", False),
        "num_classes": head.get("num_classes", 0),
        "channels": (_channels(head), _channels(auxiliary)),
        "head_args": {name: value for name, value in head.items() if name not in _OF_EVERY_HEAD},
        "aux_args": {name: value for name, value in auxiliary.items() if name not in _OF_EVERY_HEAD},
    }
    for name, part in (("in_channels", head), ("aux_in_channels", auxiliary)):
        if "in_channels" in part:
            case[name] = _plain(part["in_channels"])
    return case


def _channels(head: Options) -> int:
    channels = head.get("channels", 512)
    if not isinstance(channels, int) or not 0 < channels < 1 << 20:
        raise ValueError(f"channels {channels}")
    return channels


# Published options of torchcv's blocks, of which these ones come
_TORCHCV_SOURCES = {
    "whitening": "whiten_type",
    "whiten_variance": "whiten_type",
    "scale": "nowd",
    "query_mean": "with_unary",
}
_TORCHCV_DEFAULTS = {
    **dict.fromkeys(("downsample", "with_gc", "use_out", "out_bn"), False),
    **{"whiten_type": [], "nowd": [], "with_nl": True},
}
# What these blocks always do
_TORCHCV_ALWAYS = {
    "nonlocalnowd": {"temperature": 1.0},
    "nonlocalbn": {"scale": True},
    "nonlocalbn_single": {"scale": True},
}


def _read_torchcv(settings: Options) -> Recorded:
    recorded = Recorded({"model.align_corners": True})
    data, network = (
        part if isinstance(part, Mapping) else {} for part in (settings.get("data"), settings.get("network"))
    )
    normalise = data.get("normalize")
    divisor = normalise.get("div_value", 1.0) if isinstance(normalise, Mapping) else None
    if _numbers([divisor]) and _numbers(normalise.get("mean")) and _numbers(normalise.get("std")):
        for name in ("mean", "std"):
            recorded.values[f"data.{name}"] = [number * divisor for number in normalise[name]]
    if str(data.get("input_mode")).lower() in ("bgr", "rgb"):
        recorded.values["data.color_order"] = data["input_mode"].lower()
    section = settings.get("nonlocal", network.get("nonlocal"))
    section = dict(section) if isinstance(section, Mapping) else {}
    kind = network.get("model_name", "nonlocalnowd" if section.keys() & {"nowd", "with_nl"} else "nonlocalbn")
    case = {
        "family": f"torchcv/{kind}",
        "backbone": str(network.get("backbone", "deepbase_resnet101_dilated8")),
        "multi_grid": network.get("multi_grid"),
        "num_classes": data.get("num_classes", 0),
        "nonlocal_": _TORCHCV_DEFAULTS | section,
    }
    made = _translate(recorded, lambda: torchcv_network_options(case))
    if made is None:
        return recorded
    if "backbone" not in network:
        made["backbone"] = {}
    elif "multi_grid" not in network:
        made["backbone"].pop("multi_grid", None)
    block = made["head"].get("block", {})
    unsaid = [ours for ours, theirs in _TORCHCV_SOURCES.items() if theirs not in section]
    unsaid += [] if {"temp", "temperature"} & section.keys() else ["temperature"]
    for name in block.keys() & set(unsaid):
        del block[name]
    block |= _TORCHCV_ALWAYS.get(kind, {}) if block else {}
    recorded.values |= _by_key(made)
    return recorded


def _by_key(made: Options) -> dict[str, Any]:
    """The arguments of ``build_segmentor`` by the keys of the configuration; without those that have no effect."""
    values: dict[str, Any] = {"model.align_corners": made["align_corners"]}
    block = dict(made["head"].get("block", {}))
    if (
        block.get("mode", "embedded_gaussian") not in ("embedded_gaussian", "gaussian")
        or block.get("pairwise") is False
    ):
        block = {name: value for name, value in block.items() if name not in ("scale", "temperature")}
    if block.get("whitening") in ("none", [], ()):
        block.pop("whiten_variance", None)
    backbone = dict(made["backbone"])
    if backbone.get("output_stride") == 32:
        # Nothing is dilated.
        backbone = {"output_stride": 32}
    parts = {"backbone": backbone, "head": made["head"], "aux": made["aux"] or {}, "head.block": block}
    for part, options in parts.items():
        for name, value in options.items():
            for key in (f"model.{part}.{name}", f"model.{part}.options.{name}"):
                values[key] = value
    return values


def _is_plain(value: Any) -> bool:
    """Whether it is a number, a word or a short list of such."""
    entries = value if isinstance(value, (list, tuple)) else [value]
    return len(entries) < 100 and all(entry is None or isinstance(entry, (bool, int, float, str)) for entry in entries)


def _agree(theirs: Any, ours: Any) -> bool:
    theirs, ours = _plain(theirs), _plain(_like(ours, theirs))
    theirs = _like(theirs, ours)
    if isinstance(theirs, list) and isinstance(ours, list):
        return len(theirs) == len(ours) and all(map(_agree, theirs, ours))
    if any(isinstance(value, (bool, str)) or value is None for value in (theirs, ours)):
        return type(theirs) is type(ours) and theirs == ours
    if isinstance(theirs, (int, float)) and isinstance(ours, (int, float)):
        return math.isclose(theirs, ours, rel_tol=1e-5, abs_tol=1e-9)
    return theirs == ours


def _like(value: Any, other: Any) -> Any:
    """``value`` in the form of ``other``, where one block names a whitening and another lists them."""
    value = _plain(value)
    if isinstance(other, (list, tuple)) and isinstance(value, str):
        return [] if value == "none" else [value]
    if isinstance(other, str) and isinstance(value, list) and len(value) < 2:
        return value[0] if value else "none"
    return value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(n, (int, float)) for n in value)


def _written(value: Any) -> str:
    """As one writes it behind ``key=``."""
    value = _plain(value)
    if isinstance(value, list):
        return f"[{','.join(json.dumps(entry) if isinstance(entry, str) else _written(entry) for entry in value)}]"
    if isinstance(value, float):
        value = float(f"{value:.10g}")
    return value if isinstance(value, str) else json.dumps(value)
