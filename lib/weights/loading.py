"""Checkpoints of this project, and how networks are filled from them or from other people's."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.base.errors import UserError
from lib.weights.bands import fit_bands
from lib.weights.checked import TEXTS, Checks, check_own, read_checkpoint
from lib.weights.checkpoints import check_network, import_network, is_foreign, rename_network
from lib.weights.comparison import COUNTER, compare
from lib.weights.pretrained import fill_backbone
from lib.weights.recorded import compare_options
from lib.weights.sources import read_source

FORMAT = 1
"""Of this project's checkpoints: a dictionary with ``format``, ``model``, ``iteration``, what a run adds, and the texts
``config`` and ``classes``, which old ones lack."""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this project; raises UserError where the file is missing, cut off or something else."""
    return check_own(read_checkpoint(path), path, FORMAT)


def read_network(path: Path) -> Any:
    """What a checkpoint holds of this project, seen to be sound, of torchcv or of mmsegmentation."""
    content = read_checkpoint(path)
    return content if is_foreign(content) else check_own(content, path, FORMAT)


def texts_of(content: Any) -> dict[str, str]:
    """The configuration and class table of what ``read_network`` read; old checkpoints and other people's have none."""
    return {} if is_foreign(content) else {name: content[name] for name in TEXTS if name in content}


def load_weights(
    model: nn.Module,
    path: Path,
    options: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """Load a checkpoint of this project, of torchcv or of mmsegmentation into ``model``; return its iteration, or 0.

    Of a run's checkpoint the averaged weights count, if it has any.

    Args:
        options: of the model and of its input, by the keys of the configuration; what another project's checkpoint
            says of them itself must agree.
        tell: takes lines on what was assumed because that checkpoint does not say it.
    """
    return fill(model, read_network(path), path, options, tell)


def fill(
    model: nn.Module,
    content: Any,
    path: Path,
    options: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """``load_weights`` of what ``read_network`` read from ``path``."""
    if is_foreign(content):
        state, report = import_network(model, content, f"checkpoint {path}", options)
        model.load_state_dict(state)
        for note in report.notes:
            tell(note)
        return 0
    iteration = Checks(path).count(content, "iteration")
    load_model(model, averaged_weights(content), path)
    return iteration


def averaged_weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The moving average of a checkpoint's weights, or the weights themselves where its run kept no average."""
    return state.get("ema", state["model"])


def start_from(model: nn.Module, path: str | Path, options: Mapping[str, Any] | None = None) -> str:
    """Let training start from ImageNet weights of the backbone, or from a checkpoint of the whole network.

    ``path`` is whatever ``read_source`` takes. One of a whole network is of this project (whose averaged weights
    count, if it has any), of torchcv or of mmsegmentation; an auxiliary head that it lacks, and a classifier of another
    number of classes, stay random. Where its images had another number of bands, the first convolution is spread over
    the network's (``lib.weights.bands``).

    Args:
        options: as for ``load_weights``.

    Returns:
        A line for the log.

    Raises:
        UserError: if the file is unreadable, holds another network or contradicts ``options``.
    """
    source = read_source(path)
    content, path, notes = source.content, source.path, source.note(options)
    what = f"pretrained file {path}"
    if not is_foreign(content):
        state = averaged_weights(check_own(content, path, FORMAT))
    else:
        renamed = rename_network(content, what)
        if renamed is None:
            return "\n".join([fill_backbone(model.backbone, content, path).summary, *notes])
        _, state, _ = renamed
    state, spread = fit_bands(state, model)
    found = check_network(model, state, what, any_classes=True)
    if options and is_foreign(content):
        notes += compare_options(content, options, what)
    model.load_state_dict({name: state[name] for name in found.matched}, strict=False)
    left = [*found.misshapen, *(name for name in found.missing if not name.endswith(COUNTER))]
    told = f"{path.name}: {len(found.matched)} entries of the whole network matched" + (
        f", left random {', '.join(left)}" if left else ""
    )
    return "\n".join([told, *([spread] if spread else []), *notes])


def load_model(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load a checkpoint's weights; raises UserError that names what does not fit another model."""
    check_model(model, state, path)
    model.load_state_dict(state)


def check_model(
    model: nn.Module, state: dict[str, torch.Tensor], path: Path, entry: str = "model", *, exactly: bool = False
) -> None:
    """Raise UserError where ``state``, the checkpoint's ``entry``, has not the names and shapes of ``model``.

    Its numbers may be of other types, as in imported files, if they need not be ``exactly`` those of the model.
    """
    found = compare(state, model)
    strangers = [*found.misshapen, *found.missing, *found.unexpected]
    if strangers:
        raise UserError(
            f"{path} holds another model: {len(found.missing)} parameters missing, {len(found.unexpected)} unknown, "
            f"{len(found.misshapen)} of another shape (for example {strangers[0][:200]}); "
            "use the configuration it was trained with"
        )
    for name, expected in model.state_dict().items():
        if exactly or (expected.is_floating_point() and not state[name].is_floating_point()):
            Checks(path).like(state[name], f"{entry}.{name}", expected)
