"""Checkpoints: written so that a kill at any moment leaves the last good one, read without running foreign code."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.atomic import write_atomically
from lib.errors import UserError
from lib.weights import read_file
from lib.weights.checkpoints import import_network, is_foreign

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
    """Load a checkpoint of this project, of torchcv or of mmsegmentation into ``model``; return its iteration, or 0."""
    content = read_file(path, kind="checkpoint")
    if is_foreign(content):
        state, _ = import_network(model, content, f"checkpoint {path}")
        model.load_state_dict(state)
        return 0
    state = _checked(content, path)
    load_model(model, state["model"], path)
    return state["iteration"]


def load_model(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load a checkpoint's weights; raises UserError that names what does not fit another model."""
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    misshapen = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or unexpected or misshapen:
        example = (misshapen or missing or unexpected)[0]
        raise UserError(
            f"{path} holds another model: {len(missing)} parameters missing, {len(unexpected)} unknown, "
            f"{len(misshapen)} of another shape (for example {example}); use the configuration it was trained with"
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
