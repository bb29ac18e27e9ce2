"""Tasks: what is trained. A task is one file here, with what it adds to the configuration and the parts of its runs.

The file names its class as ``TASK``.
"""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

from lib.base.errors import UserError
from lib.config import Config
from lib.engine.runs import RunFolder
from lib.engine.task import Task
from lib.recipes import Recipe, load_recipe


@cache
def tasks() -> dict[str, type[Task]]:
    """The tasks, by the names that ``task`` gives them in a configuration."""
    files = sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py") if "\nTASK = " in file.read_text())
    found = [import_module(f"{__name__}.{file}").TASK for file in files]
    return {task.name: task for task in found}


def load(file: str | Path | None, overrides: Sequence[str], text: str | None = None, *, fit: bool = True) -> Recipe:
    """A recipe's configuration, in its task's schema, and where it comes from; see ``load_recipe``."""

    def schema_of(name: str) -> type:
        if name not in tasks():
            raise UserError(f"task={name}: choose one of {', '.join(tasks())}")
        return tasks()[name].schema

    return load_recipe(file, overrides, schema_of, text, fit=fit)


def load_config(
    file: str | Path | None, overrides: Sequence[str], text: str | None = None, *, fit: bool = True
) -> Config:
    """The configuration alone."""
    return load(file, overrides, text, fit=fit).config


def make_task(config: Config) -> Task:
    """The task of a configuration: the one place where it turns into the parts of a run."""
    return tasks()[config.task](config)


def open_run(file: str, overrides: Sequence[str], *, needs_run: bool) -> tuple[Config, RunFolder]:
    """The configuration and folder of an existing run.

    What the run recorded in its ``config.yaml`` counts, not the recipe; ``overrides`` still come last. With
    ``needs_run`` False, ``checkpoint=FILE`` stands in for a run that was never trained here; its own configuration
    counts where the recipe's would be fitted to other data.
    """
    # What was measured of the data since the run began is nothing to it.
    config = load_config(file, overrides, fit=False)
    folder = RunFolder(config)
    if folder.config.exists():
        recorded = load_config(folder.config, overrides, fit=False)
        recorded.recipe, recorded.tag = config.recipe, config.tag
        folder.configuration = recorded
        return recorded, folder
    if needs_run or not config.checkpoint.file:
        remedy = "train it first" if needs_run else "train it first, or give checkpoint=FILE"
        raise UserError(f"there is no run of tag '{config.tag}' in {folder.path}: {remedy}")
    found = load(file, overrides)
    if found.note:
        # Fitted to the data at hand, which need not be those that the network learnt from.
        from lib.weights.files import find_checkpoint
        from lib.weights.loading import read_network, texts_of

        path = find_checkpoint(config.checkpoint.file)
        text = texts_of(read_network(path)).get("config")
        if text is not None:
            recorded = load_config(path, overrides, text, fit=False)
            recorded.recipe, recorded.tag = config.recipe, config.tag
            return recorded, RunFolder(recorded)
    return found.config, RunFolder(found.config)
