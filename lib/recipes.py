"""From a recipe's YAML file, its parents and ``key=value`` arguments to one checked configuration."""

import dataclasses
import difflib
import typing
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lib.config import Config
from lib.errors import UserError

SHORTHANDS = {"checkpoint": "checkpoint.file"}
"""Keys that name a group but take a value: ``checkpoint=FILE``."""

CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "data.color_order": ("bgr", "rgb"),
    "loss.name": ("ohem", "cross_entropy", "focal", "dice", "lovasz"),
    "train.amp": ("auto", "true", "false"),
    "train.optimizer": ("sgd", "adamw"),
    "train.schedule": ("poly", "linear", "cosine", "step", "constant"),
    "val.mode": ("ss", "sscrop", "ms", "mscrop"),
    "val.combine": ("sum", "mean", "softmax"),
    "val.interpolation": ("bilinear", "bicubic"),
}

AT_LEAST = {
    "seed": 0,
    "data.workers": 0,
    "data.short_side": 0,
    "data.long_side": 0,
    "data.brightness": 0,
    "data.rotation": 0,
    "train.max_iters": 1,
    "train.batch_size": 1,
    "train.micro_batch": 0,
    "train.lr": 0,
    "train.head_lr_factor": 0,
    "train.power": 0,
    "train.momentum": 0,
    "train.weight_decay": 0,
    "train.min_lr": 0,
    "train.warmup_iters": 0,
    "train.step_factor": 0,
    "train.clip_grad_norm": 0,
    "train.freeze_stages": -1,
    "loss.focal_gamma": 0,
    "val.batch_size": 1,
    "val.interval": 0,
    "val.pictures": 0,
    "val.short_side": 0,
    "val.long_side": 0,
    "val.pad_multiple": 1,
    "val.extremes": 0,
    "checkpoint.interval": 1,
    "checkpoint.keep": 1,
    "log.interval": 1,
    "loss.ohem_min_kept": 1,
    "loss.aux_weight": 0,
}


def load_config(file: str | Path, overrides: list[str]) -> Config:
    """Merge the defaults, ``file``'s ``_base_`` parents, ``file`` itself and ``overrides``, in this order.

    Args:
        file: a recipe, or the ``config.yaml`` of an earlier run.
        overrides: ``key=value`` strings; the value is taken as it stands where the key holds a string and is read
            as YAML elsewhere.

    Raises:
        UserError: a missing or broken file, an unknown key (with the nearest known one), a value of the wrong type
            or out of range.
    """
    file = Path(file)
    config = OmegaConf.structured(Config)
    tree = _load_yaml(file)
    _check_keys(tree, str(file))
    config = _merge(config, tree, str(file))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"'{override}' is not of the form key=value")
        key = SHORTHANDS.get(key, key)
        branch: Any = _parse(key, text)
        for part in reversed(key.split(".")):
            branch = {part: branch}
        _check_keys(branch, "the command line")
        config = _merge(config, branch, f"{key}={text}")
    if not config.recipe:
        config.recipe = file.stem
    try:
        merged = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error.msg or error).splitlines()[0]}") from None
    # YAML reads `amp: true` as a boolean.
    merged.train.amp = merged.train.amp.lower()
    _check_values(merged)
    return merged


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML that ``load_config`` reads back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _load_yaml(file: Path, seen: tuple[Path, ...] = ()) -> dict:
    if not file.is_file():
        raise UserError(f"configuration file {file} does not exist")
    if file.resolve() in seen:
        raise UserError(f"configuration file {file} names itself among its _base_ parents")
    try:
        tree = yaml.safe_load(file.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"configuration file {file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"configuration file {file} must hold 'key: value' lines")
    parents = tree.pop("_base_", [])
    merged: Any = {}
    for parent in [parents] if isinstance(parents, str) else parents:
        parent_tree = _load_yaml(file.parent / parent, (*seen, file.resolve()))
        merged = OmegaConf.merge(merged, parent_tree)
    return OmegaConf.to_container(OmegaConf.merge(merged, tree))


def _merge(config: Any, tree: dict, where: str) -> Any:
    try:
        return OmegaConf.merge(config, tree)
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise UserError(f"{where}: {error.full_key}: {reason}") from None


def _check_keys(tree: Any, where: str, schema: type = Config, prefix: str = "") -> None:
    hints = typing.get_type_hints(schema)
    for key, value in tree.items():
        if key not in hints:
            known = _all_keys() if len(difflib.get_close_matches(str(key), hints, 1)) == 0 else None
            near = difflib.get_close_matches(prefix + str(key), known or [prefix + name for name in hints], 1, 0.4)
            hint = f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(hints)}"
            raise UserError(f"unknown configuration key {prefix}{key} in {where}{hint}")
        if not dataclasses.is_dataclass(hints[key]):
            continue
        if not isinstance(value, dict):
            raise UserError(f"{prefix}{key} in {where} is a group of keys and cannot be set to '{value}'")
        _check_keys(value, where, hints[key], f"{prefix}{key}.")


def _all_keys(schema: type = Config, prefix: str = "") -> list[str]:
    keys = []
    for key, hint in typing.get_type_hints(schema).items():
        keys += _all_keys(hint, f"{prefix}{key}.") if dataclasses.is_dataclass(hint) else [prefix + key]
    return keys


def _parse(key: str, text: str) -> Any:
    hint: Any = Config
    for part in key.split("."):
        hint = typing.get_type_hints(hint).get(part) if dataclasses.is_dataclass(hint) else None
    if hint is str:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{key}={text}: '{text}' is not a valid value") from None


def _check_values(config: Config) -> None:
    def value_of(key: str) -> Any:
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        return value

    for key, choices in CHOICES.items():
        if value_of(key) not in choices:
            raise UserError(f"{key}={value_of(key)}: choose one of {', '.join(choices)}")
    for key, lowest in AT_LEAST.items():
        if not value_of(key) >= lowest:
            raise UserError(f"{key}={value_of(key)}: must be at least {lowest}")
    for key, length in (("crop_size", 2), ("scale", 2), ("aspect", 2), ("mean", 3), ("std", 3)):
        values = getattr(config.data, key)
        if len(values) != length:
            raise UserError(f"data.{key}={values}: must have {length} entries")
        if key != "mean" and min(values) <= 0:
            raise UserError(f"data.{key}={values}: entries must be positive")
        if key in ("scale", "aspect") and values[0] > values[1]:
            raise UserError(f"data.{key}={values}: the lower bound comes first")
    for key in ("data.flip", "model.head.dropout", "model.aux.dropout"):
        if not 0 <= value_of(key) <= 1:
            raise UserError(f"{key}={value_of(key)}: is a probability, from 0 to 1")
    _check_training(config)
    _check_evaluation(config)
    for part in ("task", "recipe", "tag"):
        name = getattr(config, part)
        if "/" in name or name in (".", "..") or name.startswith("-"):
            raise UserError(f"{part}={name}: is the name of a folder and may not hold '/' or start with '-'")


def _check_training(config: Config) -> None:
    data, train = config.data, config.train
    if data.long_side and not data.short_side:
        raise UserError(f"data.long_side={data.long_side}: bounds what data.short_side asks for: set that too")
    if not 0 < data.category_max_ratio <= 1:
        raise UserError(f"data.category_max_ratio={data.category_max_ratio}: is a share, above 0 and at most 1")
    for name, weight in config.loss.extra.items():
        known = CHOICES["loss.name"]
        if name not in known:
            raise UserError(f"loss.extra.{name}: there is no such loss: choose one of {', '.join(known)}")
        if not weight >= 0:
            raise UserError(f"loss.extra.{name}={weight}: must be at least 0")
    if len(train.betas) != 2 or not all(0 <= beta < 1 for beta in train.betas):
        raise UserError(f"train.betas={train.betas}: must be two numbers from 0 up to but without 1")
    if not 0 <= train.ema < 1:
        raise UserError(f"train.ema={train.ema}: must be from 0 (no average) up to but without 1")
    if not train.min_lr <= train.lr:
        raise UserError(f"train.min_lr={train.min_lr}: must be at most train.lr={train.lr}, from which it falls")
    if train.schedule == "step" and not train.steps:
        raise UserError("train.schedule=step: name the iterations at which the learning rate falls in train.steps")
    if any(before >= after for before, after in pairwise([0, *train.steps])):
        raise UserError(f"train.steps={train.steps}: must be ascending iterations, the first of them at least 1")
    if not 0 <= train.warmup_start <= 1:
        raise UserError(f"train.warmup_start={train.warmup_start}: is a part of the learning rate, from 0 to 1")
    if train.freeze_stages > 4:
        raise UserError(f"train.freeze_stages={train.freeze_stages}: a backbone has 4 stages: choose -1 to 4")


def _check_evaluation(config: Config) -> None:
    val = config.val
    if len(val.window) not in (0, 2) or any(side < 1 for side in val.window):
        raise UserError(f"val.window={val.window}: must be [width, height] in pixels, or [] for data.crop_size")
    window = val.window or config.data.crop_size
    if not 0 < val.stride <= min(window):
        raise UserError(
            f"val.stride={val.stride}: must be above 0: up to 1 in windows, above that in pixels, at most {min(window)}"
        )
    if not val.scales or min(val.scales) <= 0:
        raise UserError(f"val.scales={val.scales}: must be one or more positive factors")
    if val.long_side and not val.short_side:
        raise UserError(f"val.long_side={val.long_side}: bounds what val.short_side asks for: set that too")
