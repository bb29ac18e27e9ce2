"""The run folder: where a run's files lie, and who may write them."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.config import Config
from lib.recipes import to_yaml


class RunFolder:
    """``<RUNS_DIR>/<task>/<dataset>/<recipe>/<tag>/`` and the files in it."""

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
        self.tag = config.tag

    def refuse_existing(self, config: Config) -> None:
        """Raise UserError where a run of that tag already is, unless ``overwrite=true``."""
        if self.config.exists() and not config.overwrite:
            raise UserError(
                f"{self.path} already holds a run of tag '{self.tag}': continue it with resume, "
                "choose another tag, or replace it with overwrite=true"
            )
        if self.config.exists():
            with self.hold():
                pass

    def restart(self, config: Config, launches: Sequence[str]) -> Path | None:
        """The checkpoint from which ``train`` goes on where torchrun restarts it; None where it begins.

        Args:
            config: of the run.
            launches: ids of the job's launchers, one a machine; they outlive the processes that they restart.

        Raises:
            UserError: from ``refuse_existing``, where the run in this folder is of none of them.
        """
        if not self.launches.exists() or not set(launches) & set(self.launches.read_text().split()):
            self.refuse_existing(config)
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

    def create(self, config: Config, launches: Sequence[str] = ()) -> None:
        """Make the folder of a new run, in place of an old one if there is one; record ``config`` and who made it."""
        if self.config.exists():
            shutil.rmtree(self.path)
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomically(self.launches, lambda file: file.write("\n".join(launches).encode()))
        # `overwrite` is a word about this one start, not a property of the run.
        config.overwrite = False
        write_atomically(self.config, lambda file: file.write(to_yaml(config).encode()))

    def checkpoint(self, config: Config, preference: tuple[str, ...]) -> Path:
        """The file named by ``checkpoint=FILE``, else the first of the run's own in the order of ``preference``."""
        if config.checkpoint.file:
            return Path(config.checkpoint.file)
        for name in preference:
            path = self.checkpoints / f"{name}.pth"
            if path.exists():
                return path
        raise UserError(
            f"run '{self.tag}' has no checkpoint in {self.checkpoints}: train it with overwrite=true, "
            "or give checkpoint=FILE"
        )
