"""The run folder: where a run's files lie, and who may write them."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.config import Config
from lib.recipes import to_yaml


class RunFolder:
    """``<RUNS_DIR>/<task>/<dataset>/<recipe>/<tag>/`` and the files in it.

    Args:
        config: which names the folder. As ``configuration`` it also says what is recorded there, whether an old run
            may be replaced, and whether ``checkpoint=FILE`` takes the place of the run's own.
    """

    def __init__(self, config: Config):
        if not config.tag:
            raise UserError("the run has no name: give tag=NAME")
        root = Path(os.environ.get("RUNS_DIR") or Path(__file__).parents[2] / "runs")
        self.path = root / config.task / config.data.dataset / config.recipe / config.tag
        self.config = self.path / "config.yaml"
        self.log = self.path / "log.txt"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.launches = self.path / ".launches"
        self.recipe, self.tag = config.recipe, config.tag
        self.configuration = config

    def refuse_existing(self) -> None:
        """Raise UserError where a run of that tag already is, unless ``overwrite=true``."""
        if self.config.exists() and not self.configuration.overwrite:
            raise UserError(
                f"{self.path} already holds a run of tag '{self.tag}': continue it with resume, "
                "choose another tag, or replace it with overwrite=true"
            )
        if self.config.exists():
            with self.hold():
                pass

    def restart(self, launches: Sequence[str]) -> Path | None:
        """The checkpoint from which ``train`` goes on where torchrun restarts it; None where it begins.

        Args:
            launches: ids of the job's launchers, one a machine; they outlive the processes that they restart.

        Raises:
            UserError: from ``refuse_existing``, where the run in this folder is of none of them.
        """
        if not self.launches.exists() or not set(launches) & set(self.launches.read_text().split()):
            self.refuse_existing()
            return None
        latest = self.checkpoints / "latest.pth"
        return latest if latest.exists() else None

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the run to this process while the block lasts; raises UserError where another process has it."""
        with self.config.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is training in {self.path}: stop it first, or choose another tag"
                ) from None
            yield

    def create(self, launches: Sequence[str] = ()) -> None:
        """Make the folder of a new run, in place of an old one; record its configuration and who made it."""
        if self.config.exists():
            shutil.rmtree(self.path)
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomically(self.launches, lambda file: file.write("\n".join(launches).encode()))
        # `overwrite` is a word about this one start, not a property of the run.
        recorded = to_yaml(replace(self.configuration, overwrite=False))
        write_atomically(self.config, lambda file: file.write(recorded.encode()))

    def checkpoint(self, preference: tuple[str, ...]) -> Path:
        """The file named by ``checkpoint=FILE``, else the first of the run's own in the order of ``preference``."""
        if self.configuration.checkpoint.file:
            return Path(self.configuration.checkpoint.file)
        for name in preference:
            path = self.checkpoints / f"{name}.pth"
            if path.exists():
                return path
        raise UserError(
            f"run '{self.tag}' has no checkpoint in {self.checkpoints}: train it with overwrite=true, "
            "or give checkpoint=FILE"
        )
