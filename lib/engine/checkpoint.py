"""A run's checkpoints, written so that a kill at any moment leaves the last good one; and its random states."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.weights.checked import NUMBERED
from lib.weights.loading import FORMAT


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
        # The user may keep files, and folders, of his own here: only what this class wrote goes.
        numbered = {
            int(name[1]): path
            for path in self.folder.iterdir()
            if (name := NUMBERED.fullmatch(path.name)) and path.is_file()
        }
        # Later ones are of a course that the run left when it was resumed from an earlier checkpoint.
        kept = sorted(number for number in numbered if number <= iteration)[-self.keep :]
        for number in numbered.keys() - kept:
            numbered[number].unlink(missing_ok=True)
        for path in self.folder.glob(".*.part"):
            if path.is_file() or path.is_symlink():
                path.unlink(missing_ok=True)


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
