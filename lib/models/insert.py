"""Blocks in anyone's network: torchvision's and timm's ResNets, what is built on them, and this project's backbones.

A network keeps its modules, their names and their weights: its checkpoints fit before and after. What comes in is a
submodule ``inserted`` of the residual unit that it follows, ``layer3.4.inserted.query.weight``, and is called by a
forward hook of that unit. So the network can be copied, pickled, compiled, traced and exported, but not scripted
(``torch.jit.script``), which these blocks cannot be anyway; a checkpoint from before needs ``strict=False``.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lib.base.errors import UserError
from lib.models.backbones import resnet
from lib.models.blocks import BLOCKS
from lib.models.blocks.identity import start_as_identity
from lib.models.options import check_options, choose, option_names

INSERTED = "inserted"
"""What a block is called in its unit."""
CONVS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
BESIDE = ("downsample", "shortcut", "se", INSERTED)
"""Children of a unit that do not say how many channels it returns."""

Place = Literal["after", "before_relu"]
Start = Literal["identity", "default"]
Units = Sequence[int] | Literal["all", "every_other"]

LAST_RELU = {
    f"{resnet.__name__}.BasicBlock": "relu",
    f"{resnet.__name__}.Bottleneck": "relu",
    "torchvision.models.video.resnet.BasicBlock": "relu",
    "torchvision.models.video.resnet.Bottleneck": "relu",
    "timm.models.resnet.BasicBlock": "act2",
    "timm.models.resnet.Bottleneck": "act3",
}
"""By class: the ReLU behind a residual unit's addition, used for nothing else."""
SHARED_RELU = ("torchvision.models.resnet.BasicBlock", "torchvision.models.resnet.Bottleneck")
"""Classes that use one ReLU several times: ``lib.models.torchvision_units``."""

PRESETS: dict[str, dict[str, Any]] = {
    "dnl_detection": {
        "layers": {"layer3": [-2]},
        "at": "before_relu",
        "ratio": 1 / 4,
        "whitening": "instance",
        "temperature": 0.05,
        "scale": True,
        "gain": False,
        "output_conv": True,
        "output_norm": True,
    },
    "dnl_video": {
        "layers": {"layer2": "every_other", "layer3": "every_other"},
        "at": "after",
        "ratio": 1 / 2,
        "subsample": True,
        "whitening": "instance",
        "scale": True,
        "gain": False,
        "output_conv": True,
        "output_norm": True,
    },
}
"""Arguments of ``insert_blocks``.

``dnl_detection``: on COCO (Yin et al., "Disentangled Non-Local Neural Networks", ECCV 2020): Mask R-CNN with FPN, one
block before the last ReLU of the second-last unit of layer3, query and key of a quarter of the channels, whitened,
temperature 0.05. Scale, output convolution and norm are those of the published parametrisation with that temperature.

``dnl_video``: on Kinetics: five blocks in layer2 and layer3 of a ResNet-50, after every other unit, as Wang et al.
("Non-local Neural Networks", CVPR 2018) place theirs, with half of the channels, keys and values max-pooled by 1, 2, 2
and a norm in the end. A ResNet-18 gets two. No temperature for it is known here; it is 1.
"""


def insert_preset(network: nn.Module, name: str, **changes: Any) -> nn.Module:
    """``insert_blocks`` with the arguments that ``PRESETS`` has under ``name``, and ``changes`` to them.

    Raises:
        UserError: if there is no such preset, and as ``insert_blocks``.
    """
    return insert_blocks(network, **choose(PRESETS, name, path="preset") | changes)


def insert_blocks(
    network: nn.Module,
    layers: Mapping[str, Units],
    *,
    block: str = "disentangled",
    at: Place = "after",
    start: Start = "identity",
    ratio: float | None = None,
    **options: Any,
) -> nn.Module:
    """Put a new block into residual units of ``network``, which is changed and returned.

    Channels, dimensions (images or video), type and device are those of each unit; the network's own weights, their
    names and their state stay. ``at="before_relu"`` can be had in ResNets of torchvision (images and video), of timm
    and of this project; ``"after"`` in whatever lines up units of one map in and one map out.

    Args:
        layers: by the name of a row of units, in full (``backbone.body.layer3``) or its end (``layer3``): the units,
            counted from 0 or from the end (-1), ``"all"``, or ``"every_other"``, which is 1, 3, 5 and so on.
        block: a key of ``lib.models.BLOCKS``.
        at: ``after`` the unit, or ``before_relu``: between its addition and its last ReLU.
        start: ``identity``: what the network returns is at first the same, bit by bit; ``default``: as the block's
            class starts.
        ratio: the block's option ``embedding`` as a share of each unit's channels, above 0, at most 4.
        options: keyword arguments of the block's class, whose docstring explains them.

    Raises:
        UserError: if a layer is not there, or is several; a unit is not there, has a block already, or is of no kind
            that this can be done to; an option is not the block's; the block cannot start so. The network is as before.
    """
    return insert_named(
        network, layers, {"name": block, "at": at, "start": start, "ratio": ratio, **options}, path="block"
    )


def insert_named(network: nn.Module, layers: Mapping[str, Units], spec: Mapping[str, Any], *, path: str) -> nn.Module:
    """``insert_blocks`` as a configuration says it.

    Args:
        spec: the block's ``name``, its options, and ``at``, ``start`` and ``ratio`` where they are not the defaults.
        path: what errors call the block.
    """
    defaults = {"name": "disentangled", "at": "after", "start": "identity", "ratio": None}
    block, at, start, ratio = (spec.get(name, default) for name, default in defaults.items())
    options = {name: value for name, value in spec.items() if name not in defaults}
    constructor = choose(BLOCKS, block, path=f"{path}.name")
    for name, value, allowed in (("at", at, get_args(Place)), ("start", start, get_args(Start))):
        if value not in allowed:
            raise UserError(f"{path}: {name} is {value!r}: choose {' or '.join(allowed)}")
    if not layers:
        raise UserError(f"{path}: no layers are named: name some, such as {{'layer3': [-2]}}")
    if "dimensions" in options:
        raise UserError(f"{path}.dimensions is that of each unit: leave it out")
    places = list(_places(network, layers))
    blocks = []
    for name, unit in places:
        if at == "before_relu":
            _require_last_relu(name, unit)
        blocks.append(_make(name, unit, constructor, _with_ratio(unit, ratio, options, path), path=path))
        if start == "identity":
            try:
                start_as_identity(blocks[-1])
            except UserError as error:
                raise UserError(f"{path}: {block} cannot start as an identity: {error}") from None
    for (_, unit), made in zip(places, blocks, strict=True):
        _attach(unit, made, at)
    return network


def inserted_blocks(network: nn.Module) -> dict[str, nn.Module]:
    """The blocks that were inserted, by their names in the network."""
    return {name: part for name, part in network.named_modules() if name.rpartition(".")[2] == INSERTED}


def _places(network: nn.Module, layers: Mapping[str, Units]) -> Iterator[tuple[str, nn.Module]]:
    """The names and modules of the units."""
    seen: set[int] = set()
    for layer, chosen in layers.items():
        name, row = _find(network, layer)
        units = list(row.named_children())
        for index in _indices(layer, chosen, len(units)):
            child, unit = units[index]
            where = f"{name}.{child}"
            if id(unit) in seen or hasattr(unit, INSERTED):
                raise UserError(f"{where} has a block already: one fits into a unit, choose another")
            seen.add(id(unit))
            yield where, unit


def _find(network: nn.Module, layer: str) -> tuple[str, nn.Module]:
    """The full name of a layer and its module, a row of units."""
    parts = dict(network.named_modules())
    found = [layer] if layer in parts else [name for name in parts if name.endswith(f".{layer}")]
    if len(found) > 1:
        raise UserError(f"there are several layers {layer}: choose one of {', '.join(found[:12])}")
    rows = [name for name, part in parts.items() if name and _is_row(part)]
    if not layer or not found:
        raise UserError(
            f"there is no layer {layer!r}: choose one of {', '.join(rows[:24]) or 'none: there are no rows'}"
        )
    row = parts[found[0]]
    if not isinstance(row, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        raise UserError(f"{found[0]} is one {type(row).__name__}, no row of units: name the row, and the unit's number")
    return found[0], row


def _is_row(part: nn.Module) -> bool:
    """Whether a module lines up others that have parts of their own."""
    row = isinstance(part, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    return row and any(len(list(child.children())) > 1 for child in part.children())


def _indices(layer: str, chosen: Units, count: int) -> list[int]:
    """The numbers of the chosen units, from 0."""
    if isinstance(chosen, str) and chosen in ("all", "every_other"):
        return list(range(count)) if chosen == "all" else list(range(1, count, 2))
    if isinstance(chosen, str) or not isinstance(chosen, Sequence) or not all(type(index) is int for index in chosen):
        raise UserError(f"{layer}: {chosen!r}: must be a list of units such as [-2], 'all' or 'every_other'")
    for index in chosen:
        if not -count <= index < count:
            raise UserError(f"{layer} has {count} units, so that there is no {index}: choose {-count} to {count - 1}")
    return [index % count for index in chosen]


def _last_conv(unit: nn.Module) -> nn.Module | None:
    """The convolution whose output is added to the shortcut."""
    last = None
    for name, part in unit.named_modules():
        if isinstance(part, tuple(CONVS)) and not set(name.split(".")) & set(BESIDE):
            last = part
    return last


def _with_ratio(unit: nn.Module, ratio: float | None, options: dict[str, Any], path: str) -> dict[str, Any]:
    """The options for one unit."""
    conv = _last_conv(unit)
    if ratio is None or conv is None:
        return options
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 4:
        raise UserError(f"{path}: ratio is {ratio!r}: it must be above 0 and at most 4")
    if "embedding" in options:
        raise UserError(f"{path}: ratio and embedding say the same: leave one out")
    return {**options, "embedding": max(1, round(ratio * conv.out_channels))}


def _make(name: str, unit: nn.Module, constructor: Any, options: dict[str, Any], *, path: str) -> nn.Module:
    """A new block for the unit of that name."""
    check_options(constructor, options, path=path)
    conv = _last_conv(unit)
    if conv is None or any(isinstance(child, nn.ModuleList) for child in unit.children()):
        raise UserError(f"{name} is a {type(unit).__name__}, which has no convolution to a single map: choose a unit")
    dimensions = next(count for kind, count in CONVS.items() if isinstance(conv, kind))
    if "dimensions" in option_names(constructor):
        options = {**options, "dimensions": dimensions}
    elif dimensions != 2:
        raise UserError(f"{path}: {name} is of {dimensions} dimensions, and this block is for images: choose another")
    made = constructor(conv.out_channels, **options)
    return made.to(conv.weight).train(unit.training)


def _kind(unit: nn.Module) -> str:
    """The class of a unit."""
    return f"{type(unit).__module__}.{type(unit).__qualname__}"


def _require_last_relu(name: str, unit: nn.Module) -> None:
    """Raise UserError where it is not known which of a unit's ReLUs is the last."""
    if _kind(unit) not in (*LAST_RELU, *SHARED_RELU):
        raise UserError(
            f"{name} is a {_kind(unit)}, whose last ReLU is not known: use at='after', or one of "
            f"{', '.join((*LAST_RELU, *SHARED_RELU))}"
        )


def _attach(unit: nn.Module, block: nn.Module, at: Place) -> None:
    """Let a unit call its block."""
    unit.add_module(INSERTED, block)
    if at == "after":
        unit.register_forward_hook(_after)
        return
    kind = _kind(unit)
    last = getattr(unit, LAST_RELU.get(kind, "relu"))
    if kind in SHARED_RELU:
        from lib.models.torchvision_units import OPEN

        unit.__class__ = OPEN[type(unit)]
    else:
        setattr(unit, LAST_RELU[kind], nn.Identity())
    unit.last_relu = copy.deepcopy(last)
    if hasattr(unit.last_relu, "inplace"):
        # A block may have kept what it returns for its gradients.
        unit.last_relu.inplace = False
    unit.register_forward_hook(_before_relu)


def _after(unit: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return _as_it_lay(unit.inserted(output), output)


def _before_relu(unit: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return unit.last_relu(_as_it_lay(unit.inserted(output), output))


def _as_it_lay(x: Tensor, model: Tensor) -> Tensor:
    """``x`` in the memory format of ``model``: convolutions of another one would round differently."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    last = formats.get(model.dim(), torch.contiguous_format)
    contiguous = model.is_contiguous() or not model.is_contiguous(memory_format=last)
    return x.contiguous(memory_format=torch.contiguous_format if contiguous else last)
