"""The configuration schema: every key, its type, its default and what it means. This file is the reference manual.

A recipe is a YAML file that names only what differs from these defaults; ``lib.recipes`` merges it with its parents
and with ``key=value`` from the command line.
"""

from dataclasses import dataclass, field
from typing import Any


def _list(*items: Any) -> Any:
    """A field whose default is a new list of ``items``."""
    return field(default_factory=lambda: list(items))


@dataclass
class DataConfig:
    root: str = ""
    """DATA_DIR: the prepared dataset, ``{train,val,test}/{image,label}``."""
    dataset: str = "cityscapes"
    """Whose classes and label ids: a table in ``datasets/seg/tables``."""
    color_order: str = "bgr"
    """Channel order of the network's input: ``bgr`` (Caffe-style weights) or ``rgb``."""
    mean: list[float] = _list(102.9801, 115.9465, 122.7717)
    """Subtracted per channel, in ``color_order``, on the 0..255 scale."""
    std: list[float] = _list(1.0, 1.0, 1.0)
    """Divided by per channel after the mean is subtracted."""
    crop_size: list[int] = _list(769, 769)
    """[width, height] of a training sample, in pixels."""
    short_side: int = 0
    """Resize so that the shorter side has this many pixels before the random scale; 0 keeps the size."""
    scale: list[float] = _list(0.5, 2.0)
    """[lowest, highest] random scale."""
    aspect: list[float] = _list(0.9, 1.1)
    """[lowest, highest] random aspect ``a``: width times sqrt(a), height divided by it."""
    brightness: int = 10
    """Largest random brightness shift, in grey levels either way."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    workers: int = 4
    """Loader processes for each training process; 0 loads in the training process itself."""


@dataclass
class BackboneConfig:
    name: str = "resnet101"
    """A key of ``lib.models.BACKBONES``."""
    stem: str = "deep"
    """Of a ResNet: ``deep``: three 3x3 convolutions; ``v1c``: three of half the channels; ``plain``: one of 7x7."""
    output_stride: int = 8
    """Input pixels per position of the last stage of a ResNet or MobileNet: 8, 16 or 32."""
    multi_grid: list[int] = _list(1, 1, 1)
    """Of a ResNet: dilation factors of the last stage's blocks."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the backbone's class, whose docstring explains them."""


@dataclass
class BlockConfig:
    name: str = "disentangled"
    """A key of ``lib.models.BLOCKS``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the block's class, whose docstring explains them."""


@dataclass
class HeadConfig:
    name: str = "nonlocal"
    """A key of ``lib.models.HEADS``: ``nonlocal``, ``fcn`` (the same head without a block), ``psp``, ..."""
    dropout: float = 0.1
    """Probability of dropping a channel before the classifier."""
    block: BlockConfig = field(default_factory=BlockConfig)
    """What the head ``nonlocal`` has inside; heads without a block pass over it."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the head's class, whose docstring explains them."""


@dataclass
class AuxConfig:
    enabled: bool = True
    """Whether a classifier on the second-last stage helps the training."""
    dropout: float = 0.1
    """Probability of dropping a channel before the classifier."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of ``lib.models.heads.fcn.AuxiliaryHead``."""


@dataclass
class ModelConfig:
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    aux: AuxConfig = field(default_factory=AuxConfig)
    align_corners: bool = True
    """How logits are brought to the input's size."""


@dataclass
class LossConfig:
    name: str = "ohem"
    """Loss of the main output: ``ohem`` or ``cross_entropy``; the auxiliary output always has cross entropy."""
    class_weights: bool = False
    """Whether the weights of the dataset's class table apply."""
    ohem_threshold: float = 0.7
    """Pixels whose true class has a lower probability than this are always kept."""
    ohem_min_kept: int = 100_000
    """At least this many pixels per image are kept."""
    aux_weight: float = 0.4
    """Weight of the auxiliary loss."""


@dataclass
class TrainConfig:
    max_iters: int = 60_000
    """Optimiser steps of the whole run."""
    batch_size: int = 8
    """Images of one optimiser step, over all processes together."""
    micro_batch: int = 0
    """Images that one process takes at a time; gradients are accumulated to ``batch_size``. 0: all of its share."""
    amp: str = "auto"
    """bfloat16 autocast: ``auto`` (where the device is fast at it), ``true`` or ``false``."""
    channels_last: bool = True
    """Whether feature maps lie in memory with the channels last."""
    lr: float = 0.01
    """Learning rate at the start."""
    head_lr_factor: float = 1.0
    """Times this for everything that is not the backbone."""
    power: float = 0.9
    """Of the poly schedule ``lr * (1 - iteration / max_iters) ** power``."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    """Not applied to the projections that the block's ``no_decay`` names."""


@dataclass
class ValConfig:
    mode: str = "sscrop"
    """``ss``: the whole image at once; ``sscrop``: sliding windows of ``data.crop_size``."""
    stride: float = 0.667
    """Step of the sliding window, in window sizes."""
    batch_size: int = 4
    """Windows that go through the network at once."""
    interval: int = 1000
    """Validate every so many iterations and at the end; 0: never while training."""
    at_start: bool = False
    """Whether to validate before the first iteration too, so that the log shows where the run came from."""
    pictures: int = 4
    """Predictions shown in TensorBoard at each validation."""


@dataclass
class CheckpointConfig:
    file: str = ""
    """What to resume, validate or test instead of the run's own checkpoint. ``checkpoint=FILE`` is short for it."""
    interval: int = 1000
    """Save every so many iterations (and at the end, at the best score, and when stopped)."""
    keep: int = 1
    """How many of the latest ``iter_<n>.pth`` stay on the disk."""


@dataclass
class LogConfig:
    interval: int = 10
    """Iterations between two rows of ``metrics.jsonl``."""


@dataclass
class Config:
    task: str = "seg"
    """First folder below the runs' root."""
    recipe: str = ""
    """Name of the recipe; the name of the configuration file unless set."""
    tag: str = ""
    """Name of the run."""
    seed: int = 0
    """Everything random follows from it."""
    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cpu`` or ``cuda``."""
    pretrained: str = ""
    """File of ImageNet weights for the backbone."""
    overwrite: bool = False
    """Whether ``train`` may replace a run of the same tag."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    val: ValConfig = field(default_factory=ValConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
