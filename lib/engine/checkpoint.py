"""Checkpoints: written so that a kill at any moment leaves the last good one, read without running foreign code."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.atomic import write_atomically
from lib.errors import UserError
from lib.models import Segmentor
from lib.weights import load_pretrained, read_file
from lib.weights.checkpoints import check_network, import_network, is_foreign, rename_network
from lib.weights.comparison import COUNTER, compare

FORMAT = 1


class CheckpointFiles:
    """The files of one run's ``checkpoints/`` folder.

    One write serves every name: ``iter_<n>.pth`` is written, ``latest.pth`` and ``best.pth`` are links to it.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder = folder
        self.keep = keep

    def save(self, state: dict[str, Any], iteration: int, is_best: bool) -> None:
        """Write ``state`` as ``iter_<iteration>.pth`` and ``latest.pth``, and as ``best.pth`` if it is the best.

        Raises:
            UserError: the file could not be written (a full disk); what was there before is untouched.
        """
        path = self.folder / f"iter_{iteration}.pth"
        try:
            write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))
            self._name(path, "latest.pth")
            if is_best:
                self._name(path, "best.pth")
        except (OSError, RuntimeError) as error:
            # torch.save reports a failed write as a RuntimeError that hides the reason.
            cause = error.__context__ if isinstance(error, RuntimeError) and error.__context__ else error
            raise UserError(
                f"cannot write checkpoint {path}: {getattr(cause, 'strerror', None) or cause}; "
                "the previous one is intact: free some space, then resume"
            ) from error
        self._prune(iteration)

    def _name(self, path: Path, name: str) -> None:
        temporary = self.folder / f".{name}.part"
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:
            # A file system without hard links holds a copy instead.
            shutil.copyfile(path, temporary)
        os.replace(temporary, self.folder / name)

    def _prune(self, iteration: int) -> None:
        numbered = {int(path.stem.removeprefix("iter_")): path for path in self.folder.glob("iter_*.pth")}
        # Later ones are of a course that the run left when it was resumed from an earlier checkpoint.
        kept = sorted(number for number in numbered if number <= iteration)[-self.keep :]
        for number in numbered.keys() - kept:
            numbered[number].unlink(missing_ok=True)
        for path in self.folder.glob(".*.part"):
            path.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this project; raises UserError where the file is missing, cut off or something else."""
    return _checked(read_file(path, kind="checkpoint"), path)


def _checked(state: Any, path: Path) -> dict[str, Any]:
    if not isinstance(state, dict) or "format" not in state or "model" not in state:
        raise UserError(f"{path} is not a checkpoint of this project")
    if state["format"] != FORMAT:
        raise UserError(f"{path} has checkpoint format {state['format']}; this version reads format {FORMAT}")
    return state


def load_weights(model: nn.Module, path: Path) -> int:
    """Load a checkpoint of this project, of torchcv or of mmsegmentation into ``model``; return its iteration, or 0.

    Of a run's checkpoint the averaged weights count, if it has any.
    """
    content = read_file(path, kind="checkpoint")
    if is_foreign(content):
        state, _ = import_network(model, content, f"checkpoint {path}")
        model.load_state_dict(state)
        return 0
    state = _checked(content, path)
    load_model(model, averaged_weights(state), path)
    return state["iteration"]


def averaged_weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The moving average of a checkpoint's weights, or the weights themselves where its run kept no average."""
    return state.get("ema", state["model"])


def start_from(model: Segmentor, path: str | Path) -> str:
    """Let training start from ImageNet weights of the backbone, or from a checkpoint of the whole network.

    The latter is one of this project (whose averaged weights count, if it has any), of torchcv or of mmsegmentation. An
    auxiliary head that it lacks, and a classifier of another number of classes, stay random.

    Returns:
        A line for the log.

    Raises:
        UserError: if the file is unreadable or holds another network.
    """
    path = Path(path)
    content, what = read_file(path), f"pretrained file {path}"
    if not is_foreign(content):
        state = averaged_weights(_checked(content, path))
    else:
        renamed = rename_network(content, what)
        if renamed is None:
            return load_pretrained(model.backbone, path).summary
        _, state, _ = renamed
    found = check_network(model, state, what, any_classes=True)
    model.load_state_dict({name: state[name] for name in found.matched}, strict=False)
    left = [*found.misshapen, *(name for name in found.missing if not name.endswith(COUNTER))]
    return f"{path.name}: {len(found.matched)} entries of the whole network matched" + (
        f", left random {', '.join(left)}" if left else ""
    )


def load_model(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load a checkpoint's weights; raises UserError that names what does not fit another model."""
    found = compare(state, model)
    strangers = [*found.misshapen, *found.missing, *found.unexpected]
    if strangers:
        raise UserError(
            f"{path} holds another model: {len(found.missing)} parameters missing, {len(found.unexpected)} unknown, "
            f"{len(found.misshapen)} of another shape (for example {strangers[0]}); "
            "use the configuration it was trained with"
        )
    model.load_state_dict(state)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """State of the generators that training draws from (dropout)."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Undo ``random_state``."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
