"""What a checkpoint says of a run, seen to be sound and of this run before any of it is used."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.base.errors import UserError
from lib.weights.checked import Checks, describe
from lib.weights.loading import averaged_weights, check_model, load_checkpoint, texts_of

STATELESS = "stateless"
"""In a checkpoint's ``optimizer``: the parameters of which it had no state, since they had no gradient yet."""


@dataclass(frozen=True)
class Restored:
    """A checkpoint's entries, each of the type and shape that the run needs."""

    model: dict[str, Tensor]
    average: dict[str, Tensor]
    """The averaged weights, or the weights themselves where the checkpoint has no average."""
    optimizer: dict[str, Any]
    """For ``load_state_dict``; its groups are those of the optimiser that was given, settings included."""
    iteration: int
    best_score: float
    validation_is_due: bool
    unlogged: list[list[float]]
    loss_names: list[str]
    random: list[dict[str, Tensor]]
    """Of each process."""


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of ``optimizer`` for a checkpoint, with a note of the parameters that it has none of."""
    state = optimizer.state_dict()
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    return {**state, STATELESS: [number for number in numbers if not _has_state(state["state"].get(number, {}))]}


def _has_state(entries: dict[str, Any]) -> bool:
    return any(value is not None for value in entries.values())


def read_run(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    best_key: str,
    compare: Callable[[dict[str, str], Path], object] = lambda texts, path: None,
) -> Restored:
    """Read a run's checkpoint for ``model`` and ``optimizer``, and check everything in it.

    Args:
        best_key: its name of the best score.
        compare: takes its configuration and classes, which old checkpoints lack, and ``path``, and raises UserError
            where the run has others; asked first, for other classes make another model.

    Raises:
        UserError: the file cannot be read, an entry is missing or of another type or shape, or it is of another model
            or optimiser.
    """
    state, checks = load_checkpoint(path), Checks(path)
    if path.suffix == ".safetensors":
        raise UserError(
            f"cannot resume from {path}: what is published has weights alone: train on with pretrained={path.parent}"
        )
    iteration = checks.count(state, "iteration")
    compare(texts_of(state), path)
    check_model(model, state["model"], path, exactly=True)
    if "ema" in state:
        check_model(model, state["ema"], path, "ema", exactly=True)
    best = float(checks.entry(state, best_key, (int, float), "a number"))
    if not math.isfinite(best):
        raise checks.wrong(best_key, f"is {best}, not a score")
    schedule = checks.entry(state, "schedule", dict, "a dictionary")
    if checks.count(schedule, "last_epoch", "schedule.") != iteration:
        raise checks.wrong("schedule.last_epoch", f"is {schedule['last_epoch']}, but iteration is {iteration}")
    checks.count(checks.entry(state, "sampler", dict, "a dictionary"), "position", "sampler.")
    names, unlogged = _losses(checks, state, iteration)
    return Restored(
        model=state["model"],
        average=averaged_weights(state),
        optimizer=_optimizer(checks, state, optimizer),
        iteration=iteration,
        best_score=best,
        validation_is_due=checks.entry(state, "validation_is_due", bool, "true or false"),
        unlogged=unlogged,
        loss_names=names,
        random=_random(checks, state),
    )


def _losses(checks: Checks, state: dict[str, Any], iteration: int) -> tuple[list[str], list[list[float]]]:
    """The names of the losses, none in old checkpoints, and the losses that no row of metrics has told yet."""
    names = checks.kind(state.get("loss_names", []), "loss_names", list, "a list of names")
    for name in names:
        checks.kind(name, "loss_names", str, "a name")
    rows = checks.entry(state, "unlogged", list, "a list of losses")
    for row in rows:
        for value in checks.kind(row, "unlogged", list, "a list of losses"):
            checks.kind(value, "unlogged", (int, float), "a loss")
        if len(row) != len(names or rows[0]):
            raise checks.wrong("unlogged", f"has {len(row)} losses where there are {len(names or rows[0])}")
    if len(rows) > iteration or len(set(names)) < len(names):
        raise checks.wrong("unlogged" if len(rows) > iteration else "loss_names", "has too many entries")
    return names, rows


def _random(checks: Checks, state: dict[str, Any]) -> list[dict[str, Tensor]]:
    found = checks.entry(state, "random", list, "a list of states, one for each process")
    if not found:
        raise checks.wrong("random", "is empty")
    for rank, states in enumerate(found):
        within = f"random.{rank}."
        checks.kind(states, within[:-1], dict, "a dictionary")
        own = torch.Generator()
        checks.like(checks.entry(states, "cpu", Tensor, "a tensor", within), f"{within}cpu", own.get_state())
        if "cuda" in states:
            checks.like(states["cuda"], f"{within}cuda", torch.empty(16, dtype=torch.uint8))
        try:
            own.set_state(states["cpu"])
            if "cuda" in states and torch.cuda.is_available():
                torch.Generator("cuda").set_state(states["cuda"])
        except RuntimeError:
            raise checks.wrong(within[:-1], "is no state of a generator of random numbers") from None
    return found


def _optimizer(checks: Checks, state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state, in the memory layout of its parameters, with ``optimizer``'s own settings.

    Fused kernels go through parameter, gradient and state as they lie in memory and look at no shape.
    """
    found = checks.entry(state, "optimizer", dict, "a dictionary")
    groups = _groups(checks, found, optimizer)
    parameters = dict(zip((n for group in groups for n in group["params"]), _parameters(optimizer), strict=True))
    states = checks.entry(found, "state", dict, "a dictionary", "optimizer.")
    stateless = checks.kind(found.get(STATELESS, []), f"optimizer.{STATELESS}", list, "a list")
    for number in [*states, *stateless]:
        if type(number) is not int or number not in parameters:
            raise checks.wrong("optimizer.state", f"has {describe(number)} for the number of a parameter")
    for number, entries in states.items():
        checks.kind(entries, f"optimizer.state.{number}", dict, "a dictionary")
    if STATELESS in found:
        for number in parameters:
            if (number in stateless) == _has_state(states.get(number, {})):
                raise checks.wrong(f"optimizer.state.{number}", "is missing or should be")
    is_adamw = "betas" in optimizer.defaults
    kept = {}
    for number, parameter in parameters.items():
        within = f"optimizer.state.{number}"
        entries = states.get(number, {})
        restored = _moments(checks, entries, f"{within}.", parameter, state["iteration"]) if is_adamw else {}
        if not is_adamw and (unknown := [name for name in entries if name != "momentum_buffer"]):
            raise checks.wrong(within, f"has an unknown entry {describe(unknown[0])}")
        if not is_adamw and entries.get("momentum_buffer") is not None:
            buffer = checks.like(entries["momentum_buffer"], f"{within}.momentum_buffer", parameter)
            restored = {"momentum_buffer": _laid_out(buffer, parameter)}
        if restored:
            kept[number] = restored
    if kept and not is_adamw:
        # A first step is one from no momentum; the fused kernel takes either none of all parameters or that of all.
        for number in parameters.keys() - kept.keys():
            kept[number] = {"momentum_buffer": torch.zeros_like(parameters[number].detach())}
    return {"state": kept, "param_groups": groups}


def _groups(checks: Checks, found: dict[str, Any], optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The groups of ``optimizer``, which have to be of the checkpoint's parameters, by the same kind of optimiser."""
    theirs = checks.entry(found, "param_groups", list, "a list", "optimizer.")
    for index, group in enumerate(theirs):
        within = f"optimizer.param_groups.{index}"
        numbers = checks.entry(checks.kind(group, within, dict, "a dictionary"), "params", list, "a list", f"{within}.")
        for number in numbers:
            checks.kind(number, f"{within}.params", int, "a number")
    groups = optimizer.state_dict()["param_groups"]
    was_adamw = bool(theirs) and "betas" in theirs[0]
    if was_adamw != ("betas" in optimizer.defaults):
        raise UserError(
            f"cannot resume from {checks.path}: it was trained with train.optimizer={'adamw' if was_adamw else 'sgd'}"
        )
    if [group["params"] for group in theirs] != [group["params"] for group in groups]:
        raise UserError(
            f"cannot resume from {checks.path}: its optimizer.param_groups have other parameters than this run's; "
            "resume with the train.freeze_stages and train.freeze_norm it was trained with"
        )
    return groups


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _moments(
    checks: Checks, entries: dict[str, Any], within: str, parameter: Tensor, iteration: int
) -> dict[str, Tensor]:
    """AdamW's state of one parameter; none where it has had no gradient yet."""
    if not entries:
        return {}
    names = ("exp_avg", "exp_avg_sq")
    for name in entries:
        if name not in ("step", *names):
            raise checks.wrong(within[:-1], f"has an unknown entry {describe(name)}")
    step = checks.like(checks.entry(entries, "step", Tensor, "a tensor", within), f"{within}step", torch.zeros(()))
    if not 1 <= step.item() <= iteration or not step.item().is_integer():
        raise checks.wrong(f"{within}step", f"is {step.item()}, not a number of steps from 1 to {iteration}")
    found = {"step": step.clone()}
    for name in names:
        value = checks.like(checks.entry(entries, name, Tensor, "a tensor", within), f"{within}{name}", parameter)
        found[name] = _laid_out(value, parameter)
    return found


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    return torch.empty_like(parameter.detach(), device="cpu").copy_(value)
