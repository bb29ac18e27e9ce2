"""From a configuration to the parts of a run: the only place that knows both."""

import os
import shutil
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from datasets.seg.augment import Augmentation
from datasets.seg.classes import ClassTable, load_table
from datasets.seg.dataset import EvalDataset, Pixels, TrainDataset, list_samples
from lib import optim
from lib.config import BackboneConfig, Config
from lib.engine.infer import Predictor, predictor
from lib.errors import UserError
from lib.losses import SegmentationLoss
from lib.models import BACKBONES, Segmentor, build_segmentor
from lib.models.options import option_names
from lib.peers import ALONE, Peers


def build_pixels(config: Config) -> Pixels:
    """How images become the network's input."""
    data = config.data
    return Pixels(color_order=data.color_order, mean=tuple(data.mean), std=tuple(data.std))


def build_train_dataset(config: Config) -> TrainDataset:
    """The augmented training images of DATA_DIR, and those for validation if they are to be learnt too."""
    data = config.data
    augmentation = Augmentation(
        crop_size=tuple(data.crop_size),
        short_side=data.short_side,
        long_side=data.long_side,
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


def require_compiler() -> None:
    """Raise UserError where ``torch.compile`` would find no C++ compiler."""
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise UserError(
            f"train.compile=true, but there is no compiler {compiler}: install it, or use train.compile=false"
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


def build_loss(config: Config, table: ClassTable, peers: Peers = ALONE) -> nn.Module:
    """The training loss, of the pixels of all ``peers``."""
    loss = config.loss
    if loss.class_weights and table.weights is None:
        raise UserError(f"loss.class_weights=true, but {table.dataset} has no class weights: use false")
    return SegmentationLoss(
        name=loss.name,
        extra=loss.extra,
        weight=table.weights if loss.class_weights else None,
        ohem_threshold=loss.ohem_threshold,
        ohem_min_kept=loss.ohem_min_kept,
        focal_gamma=loss.focal_gamma,
        aux_weight=loss.aux_weight,
        peers=peers,
    )


def build_optimizer(config: Config, model: Segmentor) -> torch.optim.Optimizer:
    """The optimiser of what is not frozen in ``model``."""
    train = config.train
    return optim.build_optimizer(
        model,
        train.optimizer,
        lr=train.lr,
        momentum=train.momentum,
        betas=train.betas,
        weight_decay=train.weight_decay,
        head_lr_factor=train.head_lr_factor,
    )


def build_schedule(config: Config, optimizer: torch.optim.Optimizer, iteration: int = 0) -> LambdaLR:
    """The learning rates from ``iteration`` on."""
    train = config.train
    return optim.build_schedule(
        optimizer,
        train.schedule,
        max_iters=train.max_iters,
        power=train.power,
        min_lr=train.min_lr,
        steps=train.steps,
        step_factor=train.step_factor,
        warmup_iters=train.warmup_iters,
        warmup_start=train.warmup_start,
        iteration=iteration,
    )


def build_predictor(config: Config) -> Predictor:
    """The inference protocol."""
    val = config.val
    return predictor(
        val.mode,
        window=tuple(val.window or config.data.crop_size),
        stride=val.stride,
        batch_size=val.batch_size,
        short_side=val.short_side,
        long_side=val.long_side,
        pad_multiple=val.pad_multiple,
        scales=tuple(val.scales),
        flip=val.flip,
        combine=val.combine,
        interpolation=val.interpolation,
        align_corners=config.model.align_corners,
    )
