"""Whole segmentation networks of torchcv and mmsegmentation for a ``Segmentor``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lib.base.errors import UserError
from lib.weights.comparison import COUNTER, Comparison, compare, describe, is_inserted
from lib.weights.names import rename
from lib.weights.networks import TORCHCV_NETWORK, mmseg_table
from lib.weights.pretrained import find_state_dict
from lib.weights.recorded import compare_options

AUXILIARY = "aux_head."
CLASSIFIER = (".classifier.weight", ".classifier.bias")


@dataclass(frozen=True)
class ImportReport:
    """What became of the entries of another project's checkpoint."""

    project: str
    matched: list[str]
    """Entries of the network that are in the file."""
    missing: list[str]
    """Entries of the network that the file does not have and need not have."""
    left_out: list[str]
    """Entries of the file, under their own names or as they were renamed, that the network has no use for."""
    notes: list[str] = field(default_factory=list)
    """What was assumed where neither weights nor the file's own configuration say it."""

    @property
    def summary(self) -> str:
        """A line each for what was matched, left out and missing, and for each note."""
        lists = (("matched", self.matched, False), ("left out", self.left_out, True), ("missing", self.missing, True))
        lines = [
            f"{what}: {len(names)} entries" + (f" ({', '.join(names)})" if names and shown else "")
            for what, names, shown in lists
        ]
        return "\n".join([f"{self.project} checkpoint", *lines, *(f"note: {note}" for note in self.notes)])


def import_network(
    network: nn.Module, content: object, what: str, options: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], ImportReport]:
    """The whole state dict of ``network`` from another project's checkpoint, recognised by its names.

    Args:
        network: a ``Segmentor``; what the file need not have, auxiliary head and step counters, is taken from it.
        content: what the file holds.
        what: what errors call the file.
        options: of the network and of its input, by the keys of the configuration, to be compared with what the file
            says of them; see ``compare_options``.

    Raises:
        UserError: if the names are of no project known here, if they do not fill the network exactly, or if the file
            contradicts ``options``.
    """
    renamed = rename_network(content, what)
    if renamed is None:
        raise UserError(f"{what} is not a checkpoint of this project, of torchcv or of mmsegmentation")
    project, state, unknown = renamed
    found = check_network(network, state, what)
    report = ImportReport(
        project=project,
        matched=found.matched,
        missing=found.missing,
        left_out=[*unknown, *found.unexpected],
        notes=compare_options(content, options, what) if options else [],
    )
    return {name: state.get(name, tensor) for name, tensor in network.state_dict().items()}, report


def rename_network(content: object, what: str) -> tuple[str, dict[str, Tensor], list[str]] | None:
    """The project whose whole network ``content`` holds, the entries under this project's names, and unknown names.

    None if it holds no whole network; raises UserError, that calls the file ``what``, if it holds no state dict.
    """
    published = find_state_dict(content, what)
    bare = [name.removeprefix("module.") for name in published]
    in_backbone = [name.startswith("backbone.") for name in bare]
    if any(name.startswith("decode_head.") for name in bare):
        return "mmsegmentation", *rename(published, mmseg_table(bare))
    if any(in_backbone) and not all(in_backbone) and "head.classifier.weight" not in bare:
        return "torchcv", *rename(published, TORCHCV_NETWORK)
    return None


def check_network(
    network: nn.Module, state: Mapping[str, Tensor], what: str, *, any_classes: bool = False
) -> Comparison:
    """Compare a whole ``network`` with a state dict that may lack, or have too much of, no more than a training needs.

    That is the auxiliary head and step counters; with ``any_classes``, classifiers may be for another number of
    classes, and are among the misshapen entries that come back, and blocks in the backbone may be missing.

    Raises:
        UserError: that calls the file ``what``, if the state dict is of another network.
    """
    found = compare(state, network)
    expected = network.state_dict()
    spared = {
        name
        for name in found.misshapen
        if any_classes and name.endswith(CLASSIFIER) and state[name].shape[1:] == expected[name].shape[1:]
    }
    problems = {
        "missing": [
            name
            for name in found.missing
            if not (name.endswith(COUNTER) or name.startswith(AUXILIARY) or (any_classes and is_inserted(name)))
        ],
        "of another shape": [name for name in found.misshapen if name not in spared],
        "too many": [name for name in found.unexpected if not name.startswith(AUXILIARY)],
    }
    if any(problems.values()):
        raise UserError(f"{what} holds another network than the configuration: {describe(problems)}")
    return found


def is_foreign(content: object) -> bool:
    """Whether a checkpoint's content is another project's: no format of this one, but a state dict."""
    return not (isinstance(content, Mapping) and "format" in content and "model" in content)
