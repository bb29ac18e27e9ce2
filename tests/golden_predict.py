"""Replays recorded protocols of inference: a small network, an image, and what the published test makes of both.

The protocol is this project's, told by keys of its configuration; the network is the fixture's formula, written out.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.base.errors import UserError
from lib.inference import Predictor, predict
from lib.tasks.segmentation import Segmentation, SegmentationConfig

Comparison = tuple[str, Tensor, Tensor, float]
Network = Callable[[Tensor], dict[str, Tensor]]

# Options that a replay goes by, then those that only describe it in words or were chosen by what is recorded anyway
TORCHCV_OPTIONS = {
    *("family", "mode", "rules", "normalise", "window", "stride_ratio", "scales", "flip", "short_side", "long_side"),
    *("pad_multiple", "logits_interpolation", "align_corners", "network_div", "network_gain"),
    *("num_classes", "combine", "pad", "resize_rule", "scale_rule", "network", "seed"),
}
MMSEG_OPTIONS = {
    *("family", "tta", "inference", "align_corners", "normalise", "crop_size", "stride", "base_scale", "ratios"),
    *("flip", "gain", "network_sizes"),
    *("num_classes", "width", "resize_rule", "combine", "grey_levels", "network", "seed"),
}


def replay_torchcv(case: dict, arrays: dict[str, Tensor], directory: Path) -> Iterator[Comparison]:
    """Logits and labels of torchcv's tests; after a resize, also the resized image and the logits without rounding."""
    refuse_others(case, TORCHCV_OPTIONS)
    rounded = make_predictor(case, torchcv_settings(case), align_corners=case["align_corners"])
    network, image = torchcv_network(case, arrays), normalised(rounded, arrays["image"])
    yield from answers(rounded, network, image, arrays, "logits", "labels")
    if "resized" in arrays:
        levels = rounded.pixels.restore(shown(rounded, image)[0])
        yield "resized", torch.from_numpy(levels).double(), arrays["resized"].double(), 1
    if "logits_float" in arrays:
        yield from answers(replace(rounded, pixels=None), network, image, arrays, "logits_float")


def replay_mmseg(case: dict, arrays: dict[str, Tensor], directory: Path) -> Iterator[Comparison]:
    """Logits or probabilities, and labels, of mmsegmentation's tests: of fractions and of rounded grey levels."""
    refuse_others(case, MMSEG_OPTIONS)
    rounded = make_predictor(case, mmseg_settings(case), align_corners=case["align_corners"])
    if case["stride"]:
        rounded = replace(rounded, stride=tuple(case["stride"][::-1]))
    network, image = mmseg_network(case, arrays), normalised(rounded, arrays["image"])
    sizes = [rounded.scaled_size(tuple(image.shape[-2:]), scale) for scale in rounded.scales]
    yield "network_sizes", torch.tensor(sizes), torch.tensor(case["network_sizes"]), 1
    answer = "probabilities" if case["tta"] else "logits"
    yield from answers(replace(rounded, pixels=None), network, image, arrays, answer, "labels")
    if f"{answer}_uint8" in arrays:
        yield from answers(rounded, network, image, arrays, f"{answer}_uint8", "labels_uint8")


REPLAYS = {"torchcv/predict": replay_torchcv, "mmseg/predict": replay_mmseg}


def refuse_others(case: dict, known: set[str]) -> None:
    """Raise a UserError for an option that these replays do not know."""
    unknown = sorted(case.keys() - known)
    if unknown:
        raise UserError(f"option {unknown[0]}={case[unknown[0]]} is not supported")


def one_of(case: dict, name: str, choices: dict) -> object:
    """What ``choices`` says of the option ``name``; raises a UserError for a value that is not among them."""
    if case[name] not in choices:
        raise UserError(f"{name}={case[name]} is not supported")
    return choices[case[name]]


def torchcv_settings(case: dict) -> dict[str, object]:
    """The keys below ``val`` that tell torchcv's test."""
    mode = one_of(case, "mode", {name: name for name in ("ss", "sscrop", "ms", "mscrop")})
    if mode.startswith("ss") and (case["scales"] != [1.0] or case["flip"]):
        raise UserError(f"mode={mode} with scales={case['scales']}, flip={case['flip']} is not supported")
    fits = one_of(case, "rules", {"cityscapes": False, "ade20k": True})
    if fits != bool(case["short_side"]):
        raise UserError(f"rules={case['rules']} with short_side={case['short_side']} is not supported")
    return {
        "mode": mode,
        "resize": "torchcv",
        "windows": "torchcv",
        "window": case["window"] or [],
        "stride": case["stride_ratio"] or 1.0,
        "short_side": case["short_side"] or 0,
        "long_side": case["long_side"] or 0,
        "pad_multiple": case["pad_multiple"] or 1,
        "scales": case["scales"],
        "flip": case["flip"],
        "combine": "sum",
        "interpolation": one_of(
            case, "logits_interpolation", {"cv2.INTER_CUBIC": "bicubic", "cv2.INTER_LINEAR": "bilinear"}
        ),
    }


def mmseg_settings(case: dict) -> dict[str, object]:
    """The keys below ``val`` that tell mmsegmentation's test; not the stride, which may differ from side to side."""
    slides = one_of(case, "inference", {"whole": "", "slide": "crop"})
    if not case["tta"] and (case["flip"] or case["ratios"]):
        raise UserError(f"tta=False with ratios={case['ratios']}, flip={case['flip']} is not supported")
    return {
        "mode": ("ms" if case["tta"] else "ss") + slides,
        "resize": "mmseg",
        "windows": "mmseg",
        "window": (case["crop_size"] or [])[::-1],
        "short_side": min(case["base_scale"] or [0]),
        "long_side": max(case["base_scale"] or [0]),
        "scales": case["ratios"] or [1.0],
        "flip": case["flip"],
        "combine": "softmax" if case["tta"] else "sum",
        "interpolation": "bilinear",
    }


def make_predictor(case: dict, settings: dict[str, object], align_corners: bool) -> Predictor:
    """The predictor of a configuration with these settings and the fixture's normalisation."""
    config, normalise = SegmentationConfig(), case["normalise"]
    for name, value in settings.items():
        if not hasattr(config.val, name):
            raise UserError(f"there is no key val.{name}")
        setattr(config.val, name, value)
    levels = normalise.get("div_value", 1.0)
    config.data.color_order = normalise["order"].lower()
    config.data.mean = [levels * mean for mean in normalise["mean"]]
    config.data.std = [levels * std for std in normalise["std"]]
    config.model.align_corners = align_corners
    return Segmentation(config).predictor


def normalised(predictor: Predictor, image: Tensor) -> Tensor:
    """The network's input [1, 3, H, W] of a recorded image, uint8 [H, W, 3] in BGR."""
    out = np.empty((3, *image.shape[:2]), np.float32)
    predictor.pixels.normalise(image.numpy(), out)
    return torch.from_numpy(out)[None]


def shown(predictor: Predictor, image: Tensor) -> Tensor:
    """What the network is shown of a normalised image at the scale 1, before padding and windows: [1, 3, h, w]."""
    views = []
    whole = replace(predictor, scales=(1.0,), flip=False, slides=False, pad_multiple=1)
    whole(lambda view: views.append(view) or {"out": view}, image)
    return views[0]


def answers(
    predictor: Predictor,
    network: Network,
    image: Tensor,
    arrays: dict[str, Tensor],
    answer: str,
    labels: str | None = None,
) -> Iterator[Comparison]:
    """Of the normalised ``image``: the logits or probabilities named ``answer``, and the labels.

    Labels are compared by the published answers at them: a tie may be broken either way, a lesser class not be chosen.
    """
    ours = predictor(network, image)
    yield answer, ours[0], arrays[answer], 1
    if labels:
        chosen, published = predict(ours)[0].long(), arrays[labels].long()
        yield labels, *(arrays[answer].gather(0, classes[None]) for classes in (chosen, published)), 1


def torchcv_network(case: dict, arrays: dict[str, Tensor]) -> Network:
    """The network that torchcv's tests were recorded with."""
    state = {name.removeprefix("state/"): array for name, array in arrays.items() if name.startswith("state/")}

    def network(image: Tensor) -> dict[str, Tensor]:
        first = F.conv2d(image / case["network_div"], state["c1.weight"], state["c1.bias"], stride=2, padding=1).tanh()
        second = F.conv2d(first, state["c2.weight"], state["c2.bias"], stride=2, padding=2, dilation=2).relu()
        third = case["network_gain"] * F.conv2d(second, state["c3.weight"], state["c3.bias"], padding=1)
        return at_size_of(image, third, case["align_corners"])

    return network


def mmseg_network(case: dict, arrays: dict[str, Tensor]) -> Network:
    """The network that mmsegmentation's tests were recorded with."""
    backbone = {name.removeprefix("state/backbone."): array for name, array in arrays.items()}
    head = {name.removeprefix("state/decode_head.conv_seg."): array for name, array in arrays.items()}

    def network(image: Tensor) -> dict[str, Tensor]:
        first = F.conv2d(image, backbone["c1.weight"], backbone["c1.bias"], stride=2, padding=1).tanh()
        second = F.conv2d(first, backbone["c2.weight"], backbone["c2.bias"], stride=2, padding=2, dilation=2).relu()
        third = F.conv2d(case["gain"] * second, head["weight"], head["bias"])
        return at_size_of(image, third, case["align_corners"])

    return network


def at_size_of(image: Tensor, logits: Tensor, align_corners: bool) -> dict[str, Tensor]:
    size = image.shape[-2:]
    return {"out": F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)}
