"""The configuration of networks, and what their constructors get of it."""

from dataclasses import asdict, dataclass, field
from typing import Any

from lib.base.errors import UserError
from lib.base.memory import require_memory
from lib.keys import Allowed, at_most_entries, between, entries_between, key, numbers_in, one_of, probability

ORDINARY = 4096
"""Channels that no published network exceeds."""


def registered(registry: str) -> Allowed:
    """A name in one of the registries of ``lib.models``, which looks it up itself when it builds."""

    def words(config: Any) -> str:
        from lib import models

        return f"choose one of {', '.join(getattr(models, registry))}"

    return Allowed(words, lambda name, config: True)


@dataclass
class BlockConfig:
    name: str = key("disentangled", registered("BLOCKS"))
    """A key of ``lib.models.BLOCKS``."""
    options: dict[str, Any] = key({})
    """Keyword arguments of the block's class, whose docstring explains them."""


@dataclass
class InsertedBlockConfig(BlockConfig):
    at: str = key("after", one_of("after", "before_relu"))
    """Where in the units that ``model.backbone.blocks`` names: ``after`` them, or ``before_relu``: between the addition
    and the last ReLU, in ResNets."""
    ratio: float = key(0.0, between(0, 4))
    """The block's option ``embedding`` as a share of each unit's channels, such as 0.25; 0: as its options say."""
    start: str = key("identity", one_of("identity", "default"))
    """``identity``: the backbone computes at first what it would without the blocks, bit by bit; ``default``: blocks
    start as their class does."""


@dataclass
class BackboneConfig:
    name: str = key("resnet101", registered("BACKBONES"))
    """A key of ``lib.models.BACKBONES``."""
    stem: str = key("deep", one_of("deep", "v1c", "plain"))
    """Of a ResNet: ``deep``: three 3x3 convolutions; ``v1c``: three of half the channels; ``plain``: one of 7x7."""
    output_stride: int = key(8, one_of(8, 16, 32))
    """Input pixels per position of the last stage of a ResNet or MobileNet: 8, 16 or 32."""
    multi_grid: list[int] = key([1, 1, 1], at_most_entries(64), entries_between(1, 64))
    """Of a ResNet: dilation factors of the last stage's blocks."""
    options: dict[str, Any] = key({})
    """Further keyword arguments of the backbone's class, whose docstring explains them."""
    blocks: dict[str, Any] = key({})
    """Units that get a block, by the name of their layer: ``{layer3: [-2], layer4: all}``, numbers from 0 or from the
    end, ``all``, or ``every_other`` (1, 3, 5, ...). They learn at the backbone's rate, and freeze with its stages."""
    block: InsertedBlockConfig = field(default_factory=InsertedBlockConfig)
    """What is inserted there."""


@dataclass
class HeadConfig:
    name: str = key("nonlocal", registered("HEADS"))
    """A key of ``lib.models.HEADS``: ``nonlocal``, ``fcn`` (the same head without a block), ``psp``, ..."""
    dropout: float = key(0.1, probability())
    """Probability of dropping a channel before the classifier."""
    block: BlockConfig = field(default_factory=BlockConfig)
    """What the head ``nonlocal`` has inside; heads without a block pass over it."""
    options: dict[str, Any] = key({})
    """Further keyword arguments of the head's class, whose docstring explains them."""


@dataclass
class AuxConfig:
    enabled: bool = key(True)
    """Whether a classifier on the second-last stage helps the training."""
    dropout: float = key(0.1, probability())
    """Probability of dropping a channel before the classifier."""
    options: dict[str, Any] = key({})
    """Further keyword arguments of ``lib.models.heads.fcn.AuxiliaryHead``."""


@dataclass
class ModelConfig:
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    aux: AuxConfig = field(default_factory=AuxConfig)
    align_corners: bool = key(True)
    """How logits are brought to the input's size."""
    init: str = key("default", one_of("default", "mmseg"))
    """How weights that no file gives start: ``default``: PyTorch's own start in the heads; ``mmseg``: as in
    mmsegmentation, He's normal distribution there, classifiers of N(0, 0.01), a residual unit's last norm at 0."""


def network_options(model: ModelConfig) -> dict[str, Any]:
    """What ``lib.models.build_segmentor`` is given, but for the number of classes."""
    head, aux = model.head, model.aux
    return {
        "backbone": _backbone_options(model.backbone),
        "head": {
            **_join({"name": head.name, "dropout": head.dropout}, head.options, "model.head"),
            "block": {"name": head.block.name, **head.block.options},
        },
        "aux": _join({"dropout": aux.dropout}, aux.options, "model.aux") if aux.enabled else None,
        "align_corners": model.align_corners,
        "init": model.init,
    }


def require_room(num_classes: int, options: dict[str, Any]) -> None:
    """Raise UserError where the weights of such a network and their gradients would not fit the machine."""
    # Networks of ordinary width are small enough, and to lay one out takes a while.
    if max(numbers_in(options), default=0) <= ORDINARY:
        return
    import torch

    from lib.models import build_segmentor

    with torch.device("meta"):
        network = build_segmentor(num_classes=num_classes, **options)
    weights = sum(parameter.numel() for parameter in network.parameters())
    what = f"a network of {weights / 1e6:,.0f} million weights"
    require_memory(8 * weights, what, "lower embedding, inner or width in model.head, its block and model.aux")


def all_options(model: ModelConfig) -> dict[str, Any]:
    """Every option of a network by its key, those that the configuration leaves at their defaults too."""
    from lib.models import BACKBONES, BLOCKS, HEADS
    from lib.models.options import choose, option_defaults, option_names

    spec = network_options(model)
    head = choose(HEADS, spec["head"]["name"], path="model.head.name")
    parts = {"model.backbone": (BACKBONES, spec["backbone"]), "model.head": (HEADS, spec["head"])}
    if "block" in option_names(head):
        parts["model.head.block"] = (BLOCKS, spec["head"]["block"])
    if inserted := spec["backbone"].get("block"):
        parts["model.backbone.block"] = (BLOCKS, inserted)
    if spec["aux"] is not None:
        parts["model.aux"] = (HEADS, {"name": "auxiliary", **spec["aux"]})
    own = {
        f"model.{part}.{key}" for part, config in asdict(model).items() if isinstance(config, dict) for key in config
    } | {f"model.backbone.block.{key}" for key in ("at", "ratio", "start")}
    values = {"model.align_corners": model.align_corners}
    for path, (registry, chosen) in parts.items():
        defaults = option_defaults(choose(registry, chosen["name"], path=f"{path}.name"))
        for name, value in {**defaults, **chosen}.items():
            if name == "block":
                continue
            key = f"{path}.{name}"
            values[key if key in own or name == "name" else f"{path}.options.{name}"] = value
    return values


def _backbone_options(config: BackboneConfig) -> dict[str, Any]:
    """The backbone's name and options; what every backbone has a key for but this one no option must be unchanged."""
    from lib.models import BACKBONES
    from lib.models.options import option_names

    names = {name: value for name, value in asdict(config).items() if name not in ("options", "blocks", "block")}
    known = option_names(BACKBONES[config.name]) if config.name in BACKBONES else names
    for name, default in asdict(BackboneConfig()).items():
        if name in names and name not in ("name", *known) and names.pop(name) != default:
            raise UserError(f"model.backbone.{name} is not for {config.name}: leave it at its default, {default}")
    joined = _join(names, config.options, "model.backbone")
    if "blocks" in config.options:
        raise UserError("model.backbone.options.blocks has a key of its own: set model.backbone.blocks")
    if config.blocks:
        block = config.block
        own = {"name": block.name, "at": block.at, "start": block.start, "ratio": block.ratio or None}
        joined |= {"blocks": config.blocks, "block": _join(own, block.options, "model.backbone.block")}
    return joined


def _join(names: dict[str, Any], options: dict[str, Any], path: str) -> dict[str, Any]:
    """Both, if they do not say the same thing twice."""
    for name in names.keys() & options.keys() | {"name", "block"} & options.keys():
        raise UserError(f"{path}.options.{name} has a key of its own: set {path}.{name}")
    return names | options
