"""From a configuration to the parts of a run: the only place that knows both."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from datasets.seg.augment import Augmentation
from datasets.seg.classes import ClassTable, load_table
from datasets.seg.dataset import EvalDataset, Pixels, TrainDataset, list_samples
from lib.config import BackboneConfig, Config
from lib.engine.infer import predictor
from lib.errors import UserError
from lib.losses import SegmentationLoss
from lib.models import BACKBONES, Segmentor, build_segmentor
from lib.models.options import option_names


def build_pixels(config: Config) -> Pixels:
    """How images become the network's input."""
    data = config.data
    return Pixels(color_order=data.color_order, mean=tuple(data.mean), std=tuple(data.std))


def build_train_dataset(config: Config) -> TrainDataset:
    """The augmented training images of DATA_DIR."""
    data = config.data
    augmentation = Augmentation(
        crop_size=tuple(data.crop_size),
        short_side=data.short_side,
        scale=tuple(data.scale),
        aspect=tuple(data.aspect),
        brightness=data.brightness,
        flip=data.flip,
    )
    samples = list_samples(data.root, "train")
    return TrainDataset(samples, load_table(data.dataset), build_pixels(config), augmentation, seed=config.seed)


def build_eval_dataset(config: Config, split: str, labelled: bool = True) -> EvalDataset:
    """The whole images of one split of DATA_DIR."""
    samples = list_samples(config.data.root, split, labelled=labelled)
    return EvalDataset(samples, load_table(config.data.dataset), build_pixels(config))


def build_model(config: Config) -> Segmentor:
    """The network, with random weights that follow from ``seed``."""
    torch.manual_seed(config.seed)
    model = config.model
    return build_segmentor(
        num_classes=len(load_table(config.data.dataset)),
        backbone=_backbone_spec(model.backbone),
        head={
            **_merge({"name": model.head.name, "dropout": model.head.dropout}, model.head.options, "model.head"),
            "block": {"name": model.head.block.name, **model.head.block.options},
        },
        aux=_merge({"dropout": model.aux.dropout}, model.aux.options, "model.aux") if model.aux.enabled else None,
        align_corners=model.align_corners,
    )


def _backbone_spec(config: BackboneConfig) -> dict[str, Any]:
    """The backbone's name and options; what every backbone has a key for but this one no option must be unchanged."""
    keys = {key: value for key, value in asdict(config).items() if key != "options"}
    known = option_names(BACKBONES[config.name]) if config.name in BACKBONES else keys
    for key, default in asdict(BackboneConfig()).items():
        if key in keys and key not in ("name", *known) and keys.pop(key) != default:
            raise UserError(f"model.backbone.{key} is not for {config.name}: leave it at its default, {default}")
    return _merge(keys, config.options, "model.backbone")


def _merge(keys: dict[str, Any], options: dict[str, Any], path: str) -> dict[str, Any]:
    """Both, if they do not say the same thing twice."""
    for name in keys.keys() & options.keys() | {"name", "block"} & options.keys():
        raise UserError(f"{path}.options.{name} has a key of its own: set {path}.{name}")
    return keys | options


def build_loss(config: Config, table: ClassTable) -> nn.Module:
    """The training loss."""
    loss = config.loss
    if loss.class_weights and table.weights is None:
        raise UserError(f"loss.class_weights=true, but {table.dataset} has no class weights: use false")
    return SegmentationLoss(
        name=loss.name,
        weight=table.weights if loss.class_weights else None,
        ohem_threshold=loss.ohem_threshold,
        ohem_min_kept=loss.ohem_min_kept,
        aux_weight=loss.aux_weight,
    )


def build_predictor(config: Config) -> Callable[[Segmentor, Tensor], Tensor]:
    """The inference protocol."""
    return predictor(
        config.val.mode,
        window=tuple(config.data.crop_size),
        stride=config.val.stride,
        batch_size=config.val.batch_size,
    )
