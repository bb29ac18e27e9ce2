"""What was trained, ready to be used: a checkpoint is enough for it, and a run folder serves too."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib.base.errors import UserError
from lib.config import Config
from lib.engine.task import Task
from lib.tasks import load_config, make_task

if TYPE_CHECKING:
    import torch
    from torch import nn

CONFIG = "config.yaml"
"""Of a run folder."""


@dataclass(frozen=True)
class Trained:
    """A network with its weights, and all that is known of it.

    Attributes:
        config: the run's own, with what overrides it.
        task: makes its parts; its classes are those that the network was trained on, whatever DATA_DIR says now.
        network: on ``device``, in evaluation mode, with averaged weights where the run keeps any; its parameters ask
            for no gradient.
        iteration: at which the checkpoint was written.
        path: the file with the weights.
        notes: lines on what was assumed.
    """

    config: Config
    task: Task
    network: "nn.Module"
    device: "torch.device"
    iteration: int
    path: Path
    notes: tuple[str, ...] = ()


def open_trained(path: str | Path, overrides: Sequence[str] = ()) -> Trained:
    """The network of a run folder (its best checkpoint, else the latest), a checkpoint file or a published folder.

    The configuration is the run folder's ``config.yaml`` where a folder is named, else the checkpoint's own; a
    checkpoint of before they carried it finds the ``config.yaml`` of the run folder that it lies in. The class table
    is the checkpoint's own, else the one that the configuration names.

    Args:
        path: of any of these.
        overrides: ``key=value``; ``device=cpu`` for one.

    Raises:
        UserError: there is no such thing, it is damaged, has no configuration or is another project's, or its
            configuration and weights do not fit each other.
    """

    from lib.engine.distribute import choose_device
    from lib.engine.evaluate import memory_format
    from lib.weights.checkpoints import is_foreign
    from lib.weights.files import find_checkpoint
    from lib.weights.loading import fill, read_network, texts_of

    path = Path(path)
    file = find_checkpoint(path)
    content = read_network(file)
    if is_foreign(content):
        raise UserError(
            f"{file} is another project's checkpoint, without a configuration of this one: "
            f"write it anew with main.py import-weights {file} DST --config FILE, and use DST"
        )
    texts = texts_of(content)
    config = _configuration(path, file, texts, overrides)
    device = choose_device(config.device)
    task = make_task(config)
    task.adopt(texts, file)
    network, notes = task.network(), []
    iteration = fill(network, content, file, task.options, notes.append)
    network.to(device, memory_format=memory_format(config.train)).eval().requires_grad_(False)
    return Trained(config, task, network, device, iteration, file, tuple(notes))


def _configuration(path: Path, file: Path, texts: dict[str, str], overrides: Sequence[str]) -> Config:
    """The configuration for the checkpoint ``file`` that ``path`` stands for."""
    # What `val` of the run reads: it may have been resumed with other words since this checkpoint.
    if path.is_dir() and (found := _beside(file)):
        return load_config(found, overrides, fit=False)
    if "config" in texts:
        # By itself first: what is wrong with it is not to be looked for on the command line.
        try:
            load_config(file, (), texts["config"], fit=False)
        except UserError as error:
            raise UserError(f"the configuration in {file}: {error}") from None
        return load_config(file, overrides, texts["config"], fit=False)
    found = _beside(file) or _beside(file.resolve())
    if found is None:
        raise UserError(
            f"{file} carries no configuration, for it is of before checkpoints did, and has no run folder's {CONFIG} "
            f"above it: put {CONFIG} there, as RUN/{CONFIG} and RUN/checkpoints/{file.name}"
        )
    return load_config(found, overrides, fit=False)


def _beside(file: Path) -> Path | None:
    """The ``config.yaml`` of the run folder whose ``checkpoints`` hold ``file``; None where there is none."""
    found = file.parent.parent / CONFIG
    lies_in_run = file.parent.name == "checkpoints" and file.suffix == ".pth"
    return found if lies_in_run and found.is_file() else None
