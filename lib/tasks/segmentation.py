"""Semantic segmentation: its configuration, and the parts of a run that are made from it.

What needs PyTorch is imported where a part is made: to read, print, explain or refuse a configuration takes a tenth of
the time that PyTorch takes to start.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib import config as common
from lib.base.errors import UserError
from lib.base.memory import require_memory
from lib.engine.task import Result
from lib.keys import (
    at_most_entries,
    between,
    bounds,
    entries_between,
    key,
    length,
    lower_bound_first,
    must,
    one_of,
    positive_entries,
    probability,
)
from lib.tasks._allowed import COLOURS_ALONE, DATASET, ONE_A_BAND, WINDOW_STEP
from lib.tasks._classes import HasClasses
from lib.tasks._fitting import fitted
from lib.tasks._inference import Infers
from lib.tasks._loss import LossConfig
from lib.tasks._network import ModelConfig, all_options, network_options, require_room

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, device

    from datasets.seg.dataset import EvalDataset, TrainDataset
    from datasets.seg.pixels import Pixels
    from lib.base.peers import Peers
    from lib.engine.distribute import World
    from lib.losses import SegmentationLoss
    from lib.models import Segmentor
    from lib.scores import Scores
    from lib.scores.confusion import Tally
    from lib.vis.results import ResultFiles

LONGEST_SIDE = 16_384
"""Pixels of a side of a crop, a window or a resized image: OpenCV turns none of more than 32 767."""


@dataclass
class DataConfig(common.DataConfig):
    dataset: str = key("cityscapes", DATASET)
    """Whose classes and label ids: a table in ``datasets/seg/tables``; ``auto``: ``classes.csv`` in DATA_DIR."""
    fitted: bool = key(True)
    """With ``dataset=auto``: whether what ``DATA_DIR/facts.json`` measured comes over the recipe's ``mean``, ``std``,
    ``crop_size``, ``train.max_iters`` and others (``datasets/seg/fitted.py``), though not over the command line. A
    configuration that it came over says ``false``."""
    fitted_to: str = key("")
    """Where such values came from, for the record."""
    include_val: bool = key(False)
    """Train on the validation images too."""
    bands: int = key(3, between(1, 64))
    """How many bands, or channels, each image has. Of pictures of 8 bits, 3; a grey one is then made of three equal
    bands. Others, and images of 16 bits and floats, are ``.npy`` arrays [H, W, C] or TIFFs."""
    color_order: str = key("bgr", one_of("bgr", "rgb"))
    """Channel order of the network's input where it has three bands: ``bgr`` (Caffe-style weights) or ``rgb``. Other
    numbers of bands keep the file's order, whatever this says."""
    mean: list[float] = key([102.9801, 115.9465, 122.7717], ONE_A_BAND, entries_between(-1e9, 1e9))
    """Subtracted per band, in ``color_order``, on the image's own scale: 0..255 for 8 bits. What is not finite in an
    image of floats becomes the mean."""
    std: list[float] = key([1.0, 1.0, 1.0], ONE_A_BAND, positive_entries(), entries_between(1e-9, 1e9))
    """Divided by per band after the mean is subtracted."""
    crop_size: list[int] = key([769, 769], length(2), positive_entries(), entries_between(1, LONGEST_SIDE))
    """[width, height] of a training sample, in pixels."""
    short_side: int = key(0, between(0, LONGEST_SIDE))
    """Resize so that the shorter side has this many pixels before the random scale; 0 keeps the size."""
    long_side: int = key(0, between(0, LONGEST_SIDE), bounds("data.short_side"))
    """With ``short_side``: a smaller factor where the longer side would otherwise exceed this; 0 for no bound."""
    resize: str = key("once", one_of("once", "twice", "mmseg"))
    """``once``: to ``short_side`` and by the random scale in one step, the fastest. ``twice``: bit for bit as torchcv
    does on ADE20K and PASCAL: mirrored, to ``short_side``, by the scale. ``mmseg``: bit for bit as mmsegmentation does:
    into ``short_side`` and ``long_side`` times the scale (where unset, the image's own), mirrored after the crop,
    padded at the right and the bottom; a class must stay below ``category_max_ratio``, colours are rounded down."""
    scale: list[float] = key([0.5, 2.0], length(2), positive_entries(), entries_between(0.01, 16), lower_bound_first())
    """[lowest, highest] random scale."""
    aspect: list[float] = key([0.9, 1.1], length(2), positive_entries(), entries_between(0.1, 10), lower_bound_first())
    """[lowest, highest] random aspect ``a``: width times sqrt(a), height divided by it."""
    brightness: int = key(10, between(0, 255))
    """Largest random brightness shift, in grey levels either way; images of 16 bits and of floats are not shifted."""
    photometric: bool = key(False, COLOURS_ALONE)
    """Random brightness, contrast, saturation and hue, as mmsegmentation distorts them; before ``brightness``. For
    8-bit pictures of three bands alone."""
    rotation: float = key(0.0, between(0, 180))
    """Largest random rotation, in degrees either way; what comes from outside the image is padding."""
    category_max_ratio: float = key(1.0, must("is a share, above 0 and at most 1", lambda share: 0 < share <= 1))
    """A crop with a larger share of one class is drawn again, up to ten times; 1 takes every crop."""
    flip: float = key(0.5, probability())
    """Probability of a horizontal flip."""


@dataclass
class ValConfig(common.ValConfig):
    mode: str = key("sscrop", one_of("ss", "sscrop", "ms", "mscrop"))
    """``ss``: the whole image at once; ``sscrop``: sliding windows; ``ms``, ``mscrop``: the same at several scales."""
    window: list[int] = key(
        [],
        must(
            "must be [width, height] in pixels, or [] for data.crop_size",
            lambda sides: len(sides) in (0, 2) and min(sides, default=1) >= 1,
        ),
        entries_between(1, LONGEST_SIDE),
    )
    """[width, height] of the sliding window; ``data.crop_size`` unless set."""
    stride: float = key(0.667, WINDOW_STEP)
    """Step of the sliding window: up to 1 in window sizes (rounded down to pixels), above that in pixels."""
    windows: str = key("torchcv", one_of("torchcv", "mmseg"))
    """Of an image below the window on one side: ``torchcv`` shows it whole; ``mmseg`` slides along the other side."""
    resize: str = key("centres", one_of("centres", "torchcv", "mmseg"))
    """How images come to ``short_side`` and the scales. ``centres``: in one step between pixel centres, to the nearest
    whole size, grey levels not rounded. ``torchcv``: grey levels to ``short_side``, rounded; then by the scale, corners
    aligned, the size rounded down. ``mmseg``: grey levels to ``short_side`` and ``long_side`` times the scale (without
    them to the image's own size times the scale), rounded."""
    short_side: int = key(0, between(0, LONGEST_SIDE))
    """Resize so that the shorter side has this many pixels; 0 keeps the size. Scores count at the label's size."""
    long_side: int = key(0, between(0, LONGEST_SIDE), bounds("val.short_side"))
    """With ``short_side``: a smaller factor where the longer side would otherwise exceed this; 0 for no bound."""
    pad_multiple: int = key(1, between(1, 4096))
    """Pad at the right and the bottom, by the mean colour, until both sides are multiples of this."""
    scales: list[float] = key(
        [0.5, 0.75, 1.0, 1.25, 1.5, 1.75],
        must("must be one or more positive factors", lambda scales: len(scales) > 0 and min(scales) > 0),
        at_most_entries(64),
        entries_between(0.01, 16),
    )
    """Of modes ``ms`` and ``mscrop``, on top of ``short_side``."""
    flip: bool = key(True)
    """Whether modes ``ms`` and ``mscrop`` add the mirrored image."""
    combine: str = key("sum", one_of("sum", "mean", "softmax"))
    """What modes ``ms`` and ``mscrop`` do with the logits of scales and flips: ``sum``, ``mean``, or ``softmax``: the
    mean of probabilities."""
    interpolation: str = key("bilinear", one_of("bilinear", "bicubic"))
    """How logits are brought from the network's input to the image's own size: ``bilinear`` (aligned as
    ``model.align_corners`` says) or ``bicubic``."""
    batch_size: int = key(4, between(1, 65_536))
    """Windows that go through the network at once; on a CPU 1 is fastest. A whole image and its mirror image go
    together where they are no larger."""
    extremes: int = key(5, between(0, 1_000_000))
    """How many of the worst and of the best images, by their own mIoU, ``val`` shows with an error map."""
    boundary_iou: bool = key(False)
    """Whether ``val`` and ``test`` also give boundary IoU: that of the pixels within 2 % of the image's diagonal of a
    contour (Cheng et al., CVPR 2021)."""
    zip: bool = key(False)
    """Whether ``val`` and ``test`` also pack the label images into ``label.zip``."""


@dataclass
class SegmentationConfig(common.Config):
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    val: ValConfig = field(default_factory=ValConfig)

    def fitted(self, given: Collection[str]) -> common.Fitted | None:
        """Settings that follow from one's own data."""
        return fitted(self, given)


class Segmentation(HasClasses, Infers):
    """The parts of a run that gives every pixel its class: ``lib.engine.task.Task``, which says what each is for."""

    name = "seg"
    schema = SegmentationConfig
    best = "miou"

    def __init__(self, config: SegmentationConfig) -> None:
        self.config = config

    @cached_property
    def pixels(self) -> "Pixels":
        """How images become the network's input."""
        from datasets.seg.pixels import Pixels

        data = self.config.data
        return Pixels(color_order=data.color_order, mean=tuple(data.mean), std=tuple(data.std))

    def train_data(self) -> "TrainDataset":
        """The augmented training images of DATA_DIR, and those for validation if they are to be learnt too."""
        from datasets.seg.augment import Augmentation
        from datasets.seg.dataset import TrainDataset, list_samples

        data = self.config.data
        self._require_room_for_batches()
        augmentation = Augmentation(
            crop_size=tuple(data.crop_size),
            short_side=data.short_side,
            long_side=data.long_side,
            resize=data.resize,
            scale=tuple(data.scale),
            aspect=tuple(data.aspect),
            rotation=data.rotation,
            category_max_ratio=data.category_max_ratio,
            photometric=data.photometric,
            brightness=data.brightness,
            flip=data.flip,
        )
        samples = list_samples(data.root, "train")
        if data.include_val:
            samples += list_samples(data.root, "val")
        return TrainDataset(samples, self.table, self.pixels, augmentation, seed=self.config.seed)

    def _require_room_for_batches(self) -> None:
        """Raise UserError where this machine cannot hold the crops that its processes take at a time."""
        data, train = self.config.data, self.config.train
        processes, here = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        images = here * (train.micro_batch or max(1, train.batch_size // processes))
        width, height = data.crop_size
        # A float32 of each band and an int64 of each pixel.
        what = f"a batch of {images} crops of {width} x {height} pixels"
        require_memory(
            (4 * data.bands + 8) * width * height * images,
            what,
            "lower train.micro_batch, train.batch_size or data.crop_size",
        )

    def eval_data(self, split: str) -> "EvalDataset":
        """The whole images of one split of DATA_DIR; those of ``test`` may lack labels."""
        from datasets.seg.dataset import EvalDataset, has_labels, list_samples

        root = self.config.data.root
        samples = list_samples(root, split, labelled=split != "test" or has_labels(root, split))
        return EvalDataset(samples, self.table, self.pixels)

    @property
    def options(self) -> dict[str, Any]:
        """The network's options and those of its input that a checkpoint of another project may contradict."""
        data = self.config.data
        # Other projects know pictures.
        known = ("color_order", "mean", "std") if data.bands == 3 else ()
        pixels = {name: list(value) if isinstance(value := getattr(data, name), list) else value for name in known}
        return all_options(self.config.model) | {f"data.{name}": value for name, value in pixels.items()}

    def network(self) -> "Segmentor":
        """The network, with random weights that follow from ``seed``."""
        import torch

        from lib.models import build_segmentor

        options = network_options(self.config.model)
        require_room(len(self.table), options)
        torch.manual_seed(self.config.seed)
        return build_segmentor(num_classes=len(self.table), in_channels=self.config.data.bands, **options)

    def loss(self, peers: "Peers") -> "SegmentationLoss":
        """The training loss: of the pixels of all ``peers``, or, as ``loss.over`` says, of this process's own."""
        from lib.base.peers import ALONE
        from lib.losses import SegmentationLoss

        loss = self.config.loss
        if loss.class_weights and self.table.weights is None:
            raise UserError(f"loss.class_weights=true, but {self.table.dataset} has no class weights: use false")
        return SegmentationLoss(
            name=loss.name,
            extra=loss.extra,
            weight=self.table.weights if loss.class_weights else None,
            mean=loss.mean,
            ohem_threshold=loss.ohem_threshold,
            ohem_min_kept=loss.ohem_min_kept,
            focal_gamma=loss.focal_gamma,
            focal_alpha=loss.focal_alpha,
            aux_weight=loss.aux_weight,
            peers=peers if loss.over == "batch" else ALONE,
        )

    def tally(self, on: "device", in_full: bool = False) -> "Tally":
        """Counts of no pixel yet."""
        from lib.scores.confusion import Tally

        return Tally(len(self.table), device=on, boundary=in_full and self.config.val.boundary_iou)

    def describe(self, scores: "Scores") -> Result:
        """The scores as a run tells them."""
        of_class = zip(self.table.names, scores.iou, strict=True)
        return Result(
            best=scores.miou,
            row=scores.as_dict(),
            curves={"val/miou": scores.miou, "val/pixel_accuracy": scores.pixel_accuracy}
            | {f"val_iou/{name}": iou for name, iou in of_class if iou == iou},
            headline=f"mIoU {100 * scores.miou:.2f}",
            details=f"pixel accuracy {100 * scores.pixel_accuracy:.2f}",
        )

    def picture(self, image: "Tensor", prediction: "np.ndarray") -> "np.ndarray":
        """A prediction over its image."""
        from lib.vis.overlay import denormalise, overlay

        shown = denormalise(image, self.pixels.mean, self.pixels.std, self.pixels.color_order)
        return overlay(shown, prediction, self.table.palette)

    def results(self, folder: Path) -> "ResultFiles":
        """Writes label images and overlays."""
        from lib.vis.results import ResultFiles

        return ResultFiles(folder, self.table, self.pixels)

    def report(
        self, folder: Path, data: "EvalDataset", tally: "Tally", facts: dict[str, Any], world: "World"
    ) -> str | None:
        """Write scores, where there are labels, and the pictures of the extremes; pack what a test server takes."""
        from lib.tasks._report import report

        for part in world.gather(self.frugal.reduced):
            self.frugal.reduced |= part
        facts = facts | self.protocol | self.frugal.facts()
        return report(self.config.val, self.table, folder, data, tally, facts, world)


TASK = Segmentation
