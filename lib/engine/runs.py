"""The run folder: where a run's files lie, and who may write them."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.base.lock import acquire, release
from lib.base.regular import read_regular
from lib.config import Config
from lib.recipes import to_yaml

PATIENCE_SECONDS = 4
"""How long a claim waits: the loader's processes outlive a killed run, and hold its lock, for a moment."""

EVALUATIONS = ("val", "test")
"""What a folder may hold that is of no training."""


class RunFolder:
    """``<RUNS_DIR>/<task>/<dataset>/<recipe>/<tag>/`` and the files in it.

    Args:
        config: which names the folder. As ``configuration`` it also says what is recorded there, whether an old run
            may be replaced, and whether ``checkpoint=FILE`` takes the place of the run's own.
    """

    def __init__(self, config: Config):
        if not config.tag:
            raise UserError("the run has no name: give tag=NAME")
        self.root = Path(os.environ.get("RUNS_DIR") or Path(__file__).parents[2] / "runs")
        self.path = self.root / config.task / config.data.dataset / config.recipe / config.tag
        self.config = self.path / "config.yaml"
        self.log = self.path / "log.txt"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.launches = self.path / ".launches"
        self.recipe, self.tag = config.recipe, config.tag
        beside = self.path.parent
        self.lock = beside / f".{config.tag}.lock"
        self.replaced = beside / f".{config.tag}.replaced"
        self.removed = beside / f".{config.tag}.removed"
        self.configuration = config

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Keep the run to this job while the block lasts; nothing of the folder is to be looked at before.

        The claim is a lock (``flock``) on a file beside the folder, which the system drops when the process ends in
        whatever way. Of a job's processes the main one holds it. It holds between machines where their file system
        hands locks to its server, as NFS does unless it is mounted with ``nolock`` or ``local_lock``; where there are
        no locks at all, a warning says so.

        Raises:
            UserError: where another job has it.
        """
        if int(os.environ.get("RANK", 0)) > 0:
            yield
            return
        busy = f"another process is training in {self.path}: stop it first, or choose another tag"
        try:
            handle = acquire(self.lock, busy, PATIENCE_SECONDS)
        except OSError as error:
            raise UserError(
                f"the folder of runs, {self.root}, cannot take {self.path}: {error.strerror}; "
                "let RUNS_DIR name a folder that can be written to"
            ) from error
        try:
            self._recover()
            yield
        finally:
            if not self.path.exists():
                self._tidy()
            release(handle)

    def _tidy(self) -> None:
        """No run came of the claim: leave neither the lock nor folders with nothing in them."""
        self.lock.unlink(missing_ok=True)
        with suppress(OSError):
            for folder in self.path.relative_to(self.root).parents:
                if folder != Path():
                    (self.root / folder).rmdir()

    def _recover(self) -> None:
        """Undo what a kill left of a replacement: the old run counts until the new one has done an iteration."""
        _remove(self.removed)
        if self.replaced.exists():
            _remove(self.path)
            self.replaced.rename(self.path)

    def refuse_existing(self) -> None:
        """Raise UserError where a run of that tag already is, unless ``overwrite=true``.

        One that ended before anything came of it is none.
        """
        has_checkpoint = any(self.checkpoints.glob("*.pth"))
        has_rows = self.metrics.exists() and self.metrics.stat().st_size > 0
        if self.configuration.overwrite or not (has_checkpoint or has_rows):
            return
        can_resume = has_checkpoint and self.config.exists()
        raise UserError(
            f"{self.path} already holds a run of tag '{self.tag}'{'' if can_resume else ', which cannot be resumed'}: "
            f"{'continue it with resume, ' if can_resume else ''}choose another tag, or replace it with overwrite=true"
        )

    def restart(self, launches: Sequence[str]) -> Path | None:
        """The checkpoint from which ``train`` goes on where torchrun restarts it; None where it begins.

        Args:
            launches: ids of the job's launchers, one a machine; they outlive the processes that they restart.

        Raises:
            UserError: from ``refuse_existing``, where the run in this folder is of none of them.
        """
        if not self.launches.exists() or not set(launches) & set(
            read_regular(self.launches).decode(errors="replace").split()
        ):
            self.refuse_existing()
            return None
        latest = self.checkpoints / "latest.pth"
        return latest if latest.exists() else None

    def create(self, launches: Sequence[str] = ()) -> None:
        """Make the folder of a new run; record its configuration and who made it.

        An old run is put aside until ``settle``; ``withdraw`` brings it back.
        """
        if self.path.exists() and any(path.name not in (*EVALUATIONS, self.log.name) for path in self.path.iterdir()):
            self.path.rename(self.replaced)
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomically(self.launches, lambda file: file.write("\n".join(launches).encode()))
        write_atomically(self.config, lambda file: file.write(self.recorded.encode()))

    def settle(self) -> None:
        """The new run has begun: what it replaced goes."""
        if self.replaced.exists():
            # In two steps, so that a kill never leaves half of the old run for ``claim`` to bring back.
            self.replaced.rename(self.removed)
            _remove(self.removed)

    def withdraw(self) -> None:
        """The new run could not begin: undo ``create``."""
        for path in self.path.iterdir() if self.path.exists() else ():
            if path.name not in EVALUATIONS:
                _remove(path)
        with suppress(OSError):
            self.path.rmdir()
        self._recover()

    def record(self, iteration: int) -> None:
        """Let ``config.yaml`` say what the run uses from ``iteration`` on, and, as comments, what it used before."""
        before, after = self.config.read_text(), self.recorded
        old, new = (_flat(yaml.safe_load(text)) for text in (before, after))
        words = [f"{key}={_word(old[key])}" for key in old if key not in new or old[key] != new[key]]
        if not words and old.keys() == new.keys():
            return
        history = [line for line in before.splitlines() if line.startswith("# until")]
        if words:
            history.append(f"# until iteration {iteration}: {' '.join(words)}")
        content = "\n".join([after + "# Earlier starts of this run used:", *history]) + "\n" if history else after
        write_atomically(self.config, lambda file: file.write(content.encode()))

    @property
    def recorded(self) -> str:
        """The configuration, as YAML, without the words about a single start, which are no property of the run."""
        start = replace(self.configuration.checkpoint, file="")
        return to_yaml(replace(self.configuration, overwrite=False, checkpoint=start))

    def checkpoint(self, preference: tuple[str, ...]) -> Path:
        """The file or run named by ``checkpoint=``, else the run's own; of a run the first of ``preference``."""
        if self.configuration.checkpoint.file:
            # Needs PyTorch, whose start a configuration that is printed, explained or refused does not wait for.
            from lib.weights.files import find_checkpoint

            return find_checkpoint(self.configuration.checkpoint.file, preference)
        for name in preference:
            path = self.checkpoints / f"{name}.pth"
            if path.exists():
                return path
        raise UserError(
            f"run '{self.tag}' has no checkpoint in {self.checkpoints}: train it with overwrite=true, "
            "or give checkpoint=FILE"
        )


def _remove(path: Path) -> None:
    """A folder with all that is in it, a file, a link, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{key: value} with the keys as they are given on the command line."""
    flat = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return flat


def _word(value: Any) -> str:
    """As it could be given on the command line, in one line."""
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)
