"""Constructors of the networks and blocks by name, made from the recipes' networks and the registries."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from torch import nn

from datasets.seg.classes import UNKNOWN
from lib.base.errors import UserError
from lib.models import BACKBONES, BLOCKS, HEADS, Segmentor, build_segmentor
from lib.models.options import CHANNELS, check_options, option_names
from lib.tasks import load_config
from lib.tasks._network import network_options
from lib.yaml_text import read_file

RECIPES = Path(__file__).parents[2] / "configs" / "_base_" / "networks"
"""The networks of the recipes: what ``dnl_resnet101`` builds is what ``run_dnl.sh`` trains."""


def networks() -> dict[str, Callable[..., Segmentor]]:
    """Every network of the recipes, and every head and block that none of them has, on every backbone."""
    found: dict[str, tuple[Path | None, tuple[str, ...]]] = {}
    taken = set()
    for file in sorted(RECIPES.glob("*.yaml")):
        found[file.stem] = file, ()
        head = load_config(file, (), fit=False).model.head
        taken |= {head.name, head.block.name if head.name == "nonlocal" else ""}
    for name, head in HEADS.items():
        if name not in taken and name != "auxiliary" and "block" not in option_names(head):
            found[name] = None, (f"model.head.name={name}",)
    for name in BLOCKS:
        if name not in taken:
            found[name] = None, ("model.head.name=nonlocal", f"model.head.block.name={name}")
    made = {}
    for name, (file, words) in found.items():
        # Where a network says something of its backbone, it is of a ResNet.
        of_resnet = file is not None and "backbone" in (read_file(file).get("model") or {})
        for backbone in BACKBONES:
            if not of_resnet or backbone.startswith("resnet"):
                made[f"{name}_{backbone}"] = _network(name, backbone, file, words)
    return made


def _network(name: str, backbone: str, file: Path | None, words: tuple[str, ...]) -> Callable[..., Segmentor]:
    def build(
        num_classes: int = 19, *, in_channels: int = 3, pretrained: str = "", overrides: Sequence[str] = ()
    ) -> Segmentor:
        what = f"{name}_{backbone}"
        _require_whole(what, "num_classes", num_classes, 2, UNKNOWN)
        _require_whole(what, "in_channels", in_channels, 1, 1024)
        settings = (*words, f"model.backbone.name={backbone}", *overrides)
        model = load_config(file, settings, fit=False).model
        network = build_segmentor(num_classes=num_classes, in_channels=in_channels, **network_options(model))
        if pretrained:
            from lib.weights.loading import start_from

            start_from(network, pretrained)
        return network

    build.__name__ = build.__qualname__ = f"{name}_{backbone}"
    source = f"configs/_base_/networks/{file.name}" if file else words[-1]
    build.__doc__ = f"""The network {name} ({source}) on {backbone}, with random weights, in training mode.

    Takes images float [B, in_channels, H, W], returns logits {{"out": [B, num_classes, H, W], "aux": the same of the
    auxiliary head, while training}}.

    Args:
        num_classes: 2 to {UNKNOWN}.
        in_channels: bands of the images.
        pretrained: weights to start from, whatever ``pretrained=`` takes in a configuration; "" for none.
        overrides: ``key=value`` of the configuration's ``model``, such as "model.backbone.output_stride=16".

    Raises:
        UserError: a value is out of its range, or the weights are of another network.
    """
    return build


def blocks() -> dict[str, Callable[..., nn.Module]]:
    """Every block of the registry, with ``_block`` behind its name."""
    return {f"{name}_block": _block(f"{name}_block", block) for name, block in BLOCKS.items()}


def _block(name: str, block: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def build(channels: int = 512, **options: object) -> nn.Module:
        _require_whole(name, "channels", channels, *CHANNELS)
        check_options(block, options, path=name)
        return block(channels, **options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = inspect.getdoc(block.func if isinstance(block, partial) else block)
    build.__signature__ = inspect.signature(block)
    return build


def _require_whole(what: str, name: str, value: object, lowest: int, highest: int) -> None:
    if type(value) is not int or not lowest <= value <= highest:
        raise UserError(f"{what}: {name} is {value!r}: it must be a whole number from {lowest} to {highest}")
