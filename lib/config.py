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
    """DATA_DIR: the prepared dataset, ``{train,val,test}/{image,label}``, as a folder or as one ``.zip`` of it."""
    dataset: str = "cityscapes"
    """Whose classes and label ids: a table in ``datasets/seg/tables``."""
    include_val: bool = False
    """Train on the validation images too."""
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
    long_side: int = 0
    """With ``short_side``: a smaller factor where the longer side would otherwise exceed this; 0 for no bound."""
    scale: list[float] = _list(0.5, 2.0)
    """[lowest, highest] random scale."""
    aspect: list[float] = _list(0.9, 1.1)
    """[lowest, highest] random aspect ``a``: width times sqrt(a), height divided by it."""
    brightness: int = 10
    """Largest random brightness shift, in grey levels either way."""
    photometric: bool = False
    """Random brightness, contrast, saturation and hue, as mmsegmentation distorts them; before ``brightness``."""
    rotation: float = 0.0
    """Largest random rotation, in degrees either way; what comes from outside the image is padding."""
    category_max_ratio: float = 1.0
    """A crop with a larger share of one class is drawn again, up to ten times; 1 takes every crop."""
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
    """Loss of the main output: ``ohem``, ``cross_entropy``, ``focal``, ``dice`` or ``lovasz``; the auxiliary output
    always has cross entropy."""
    extra: dict[str, float] = field(default_factory=dict)
    """Further losses of the main output, of the same names, and their weights, such as ``{lovasz: 1.0}``."""
    focal_gamma: float = 2.0
    """Exponent of the focal loss; 0 makes it cross entropy."""
    class_weights: bool = False
    """Whether the weights of the dataset's class table apply; ``dice`` and ``lovasz`` have no use for them."""
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
    compile: bool = False
    """Whether ``torch.compile`` compiles the network for training."""
    optimizer: str = "sgd"
    """``sgd`` (heavy-ball momentum) or ``adamw``."""
    lr: float = 0.01
    """Learning rate at the start, after the warm-up."""
    head_lr_factor: float = 1.0
    """Times this for everything that is not the backbone."""
    momentum: float = 0.9
    """Of SGD."""
    betas: list[float] = _list(0.9, 0.999)
    """Of AdamW: decay of the averages of the gradient and of its square."""
    weight_decay: float = 5e-4
    """Not applied to the projections that the block's ``no_decay`` names."""
    schedule: str = "poly"
    """How the learning rate falls: ``poly``, ``linear``, ``cosine``, ``step`` or ``constant``."""
    power: float = 0.9
    """Of the poly schedule ``(lr - min_lr) * (1 - iteration / max_iters) ** power + min_lr``."""
    min_lr: float = 0.0
    """The learning rate at the end of a poly, linear or cosine schedule, of backbone and head alike."""
    steps: list[int] = _list()
    """Iterations at which the step schedule multiplies the learning rate by ``step_factor``."""
    step_factor: float = 0.1
    """What the step schedule multiplies by."""
    warmup_iters: int = 0
    """Iterations over which the learning rate rises linearly from ``warmup_start`` of the schedule's to all of it."""
    warmup_start: float = 0.001
    """The part of the schedule's learning rate with which the warm-up begins."""
    clip_grad_norm: float = 0.0
    """Gradients whose common norm is larger are scaled down to this one; 0 leaves them."""
    ema: float = 0.0
    """Decay of the moving average of the weights, such as 0.999; the average is what is validated and tested and what
    ``pretrained`` takes from a checkpoint. 0 for none."""
    freeze_stages: int = -1
    """The backbone's stem (0), or its stem and first n stages, keep their weights and statistics; -1: none."""
    freeze_norm: bool = False
    """Whether the backbone's batch norm keeps its statistics, scales and shifts."""


@dataclass
class ValConfig:
    mode: str = "sscrop"
    """``ss``: the whole image at once; ``sscrop``: sliding windows; ``ms``, ``mscrop``: the same at several scales."""
    window: list[int] = _list()
    """[width, height] of the sliding window; ``data.crop_size`` unless set."""
    stride: float = 0.667
    """Step of the sliding window: up to 1 in window sizes (rounded down to pixels), above that in pixels."""
    short_side: int = 0
    """Resize so that the shorter side has this many pixels; 0 keeps the size. Scores count at the label's size."""
    long_side: int = 0
    """With ``short_side``: a smaller factor where the longer side would otherwise exceed this; 0 for no bound."""
    pad_multiple: int = 1
    """Pad at the right and the bottom, by the mean colour, until both sides are multiples of this."""
    scales: list[float] = _list(0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    """Of modes ``ms`` and ``mscrop``, on top of ``short_side``."""
    flip: bool = True
    """Whether modes ``ms`` and ``mscrop`` add the mirrored image."""
    combine: str = "sum"
    """What modes ``ms`` and ``mscrop`` do with the logits of scales and flips: ``sum``, ``mean``, or ``softmax``: the
    mean of probabilities."""
    interpolation: str = "bilinear"
    """How logits are brought from the network's input to the image's own size: ``bilinear`` (aligned as
    ``model.align_corners`` says) or ``bicubic``."""
    batch_size: int = 4
    """Windows that go through the network at once; on a CPU 1 is fastest. A whole image and its mirror image go
    together where they are no larger."""
    interval: int = 1000
    """Validate every so many iterations and at the end; 0: never while training."""
    at_start: bool = False
    """Whether to validate before the first iteration too, so that the log shows where the run came from."""
    pictures: int = 4
    """Predictions shown in TensorBoard at each validation."""
    extremes: int = 5
    """How many of the worst and of the best images, by their own mIoU, ``val`` shows with an error map."""
    zip: bool = False
    """Whether ``val`` and ``test`` also pack the label images into ``label.zip``."""


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
    """File of ImageNet weights for the backbone, or a checkpoint of a whole network to start from, whose classes may
    be others."""
    overwrite: bool = False
    """Whether ``train`` may replace a run of the same tag."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    val: ValConfig = field(default_factory=ValConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
