"""Whole segmentation networks of torchcv and mmsegmentation for a ``Segmentor``."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lib.errors import UserError
from lib.weights.names import rename
from lib.weights.networks import TORCHCV_NETWORK, mmseg_table
from lib.weights.pretrained import COUNTER, find_state_dict

AUXILIARY = "aux_head."


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

    @property
    def summary(self) -> str:
        """A line each for what was matched, left out and missing."""
        lists = (("matched", self.matched, False), ("left out", self.left_out, True), ("missing", self.missing, True))
        return f"{self.project} checkpoint\n" + "\n".join(
            f"{what}: {len(names)} entries" + (f" ({', '.join(names)})" if names and shown else "")
            for what, names, shown in lists
        )


def import_network(network: nn.Module, content: object, what: str) -> tuple[dict[str, Tensor], ImportReport]:
    """The whole state dict of ``network`` from another project's checkpoint, recognised by its names.

    Args:
        network: a ``Segmentor``; what the file need not have, auxiliary head and step counters, is taken from it.
        content: what the file holds.
        what: what errors call the file.

    Raises:
        UserError: if the names are of no project known here, or if they do not fill the network exactly.
    """
    published = find_state_dict(content, what)
    bare = [name.removeprefix("module.") for name in published]
    if any(name.startswith("decode_head.") for name in bare):
        project, table = "mmsegmentation", mmseg_table(bare)
    elif any(name.startswith("backbone.") for name in bare) and "head.classifier.weight" not in bare:
        project, table = "torchcv", TORCHCV_NETWORK
    else:
        raise UserError(f"{what} is not a checkpoint of this project, of torchcv or of mmsegmentation")
    state, unknown = rename(published, table)
    expected = network.state_dict()
    matched = [name for name in expected if name in state]
    missing = [name for name in expected if name not in state]
    unused = [name for name in state if name not in expected]
    problems = {
        "missing": [name for name in missing if not (name.endswith(COUNTER) or name.startswith(AUXILIARY))],
        "of another shape": [name for name in matched if state[name].shape != expected[name].shape],
        "too many": [name for name in unused if not name.startswith(AUXILIARY)],
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(names)} entries {kind} ({names[0]}...)" for kind, names in problems.items() if names)
        raise UserError(f"{what} holds another network than the configuration: {listed}")
    report = ImportReport(project=project, matched=matched, missing=missing, left_out=[*unknown, *unused])
    return {name: state.get(name, tensor) for name, tensor in expected.items()}, report


def is_foreign(content: object) -> bool:
    """Whether a checkpoint's content is another project's: no format of this one, but a state dict."""
    return not (isinstance(content, Mapping) and "format" in content and "model" in content)
