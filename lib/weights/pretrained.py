"""ImageNet weights of torchcv, torchvision, timm, mmcv and HRNet's and MobileNet's authors for a backbone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from lib.base.errors import UserError
from lib.weights.bands import fit_bands
from lib.weights.comparison import COUNTER, compare, describe, is_inserted
from lib.weights.files import read_file
from lib.weights.names import Table, rename
from lib.weights.networks import HRNET, MOBILENET_V2, RESNET_V1C
from lib.weights.timm_names import TIMM_DEEP_RESNET, TIMM_MOBILENET_V2, TORCHVISION_MOBILENET_V2

# How a network is recognised, its names, and the beginnings of those of its classifier
KINDS: tuple[tuple[str, Table, tuple[str, ...]], ...] = (
    ("transition1.", HRNET, ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")),
    ("features.1.conv.0.0.", TORCHVISION_MOBILENET_V2, ("features.18.", "classifier.")),
    ("features.", MOBILENET_V2, ("features.18.", "conv.", "classifier.")),
    ("blocks.", TIMM_MOBILENET_V2, ("conv_head.", "bn2.", "classifier.")),
    ("conv1.0.", TIMM_DEEP_RESNET, ("fc.",)),
    ("layer1.", RESNET_V1C, ("fc.",)),
)


@dataclass(frozen=True)
class LoadReport:
    """What became of the entries of a file of pretrained weights."""

    path: Path
    matched: list[str]
    """Entries of the backbone that were loaded."""
    missing: list[str]
    """Entries of the backbone that the file did not need to have."""
    unexpected: list[str]
    """Entries of the file that the backbone has no use for: the classifier."""
    spread: str | None = None
    """How the first convolution was made to fit images of another number of bands, if it was."""

    @property
    def summary(self) -> str:
        """One line for a log."""
        left_out = f", left out {', '.join(self.unexpected)}" if self.unexpected else ""
        line = f"{self.path.name}: {len(self.matched)} entries matched, {len(self.missing)} missing{left_out}"
        return f"{line}, {self.spread}" if self.spread else line


def load_pretrained(backbone: nn.Module, path: str | Path) -> LoadReport:
    """Load a classification network's weights, recognised by their names, into a backbone.

    ResNets of torchcv, torchvision and mmcv, HRNetV2 and MobileNetV2 of their authors; of a whole segmentation network
    the part that is called `backbone`. For images of another number of bands, C, than the 3 of ImageNet, the first
    convolution becomes w'[:, c] = w[:, c mod 3] * 3 / C, or for C = 1 the sum over the three, as in timm
    (``lib.weights.bands``).

    Raises:
        UserError: if the file is unreadable, if nothing in it matches, or if it does not fill the backbone exactly:
            half a pretrained network trains without complaint and never gets good.
    """
    return fill_backbone(backbone, read_file(path), Path(path))


def fill_backbone(backbone: nn.Module, content: object, path: Path) -> LoadReport:
    """``load_pretrained`` of what was read from ``path``."""
    published = find_state_dict(content, f"pretrained file {path}")
    state, unknown, classifier = _rename_backbone(published)
    state, spread = fit_bands(state, backbone)
    found = compare(state, backbone)
    if not found.matched and not found.misshapen:
        raise UserError(
            f"pretrained file {path} holds no weights of such a network: nothing in it matches the backbone"
        )
    problems = {
        "missing": [name for name in found.missing if not (name.endswith(COUNTER) or is_inserted(name))],
        "of another shape": found.misshapen,
        "too many": found.unexpected
        + [name for name in unknown if not name.removeprefix("module.").startswith(classifier)],
    }
    if any(problems.values()):
        theirs, ours = (_stem(entries) for entries in (state, backbone.state_dict()))
        remedy = (
            f": its stem is another: set model.backbone.stem={theirs}" if theirs and ours not in (None, theirs) else ""
        )
        raise UserError(f"pretrained file {path} holds another network than the backbone: {describe(problems)}{remedy}")
    backbone.load_state_dict({name: state[name] for name in found.matched}, strict=False)
    return LoadReport(path=path, matched=found.matched, missing=found.missing, unexpected=unknown, spread=spread)


def _rename_backbone(
    published: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], list[str], tuple[str, ...]]:
    """The renamed entries, the unknown names, and the beginnings of those that belong to the classifier."""
    bare = {name.removeprefix("module."): name for name in published}
    inner = {name.removeprefix("backbone."): name for name in bare if name.startswith("backbone.")}
    if inner:
        state = {name: published[bare[whole]] for name, whole in inner.items()}
        unused = [name for name in published if name.removeprefix("module.") not in inner.values()]
    else:
        state, unused = published, []
        inner = bare
    for beginning, table, classifier in KINDS:
        if any(name.startswith(beginning) for name in inner):
            renamed, unknown = rename(state, table)
            return renamed, unknown + unused, (*classifier, *unused)
    return {}, list(published), ()


def _stem(state: Mapping[str, Tensor]) -> str | None:
    """What ``model.backbone.stem`` calls the stem of a ResNet's entries; None for another network."""
    first = state.get("stem.0.conv.weight")
    if first is None or "layer4.0.conv1.weight" not in state:
        return None
    if "stem.1.conv.weight" not in state:
        return "plain"
    return {64: "deep", 32: "v1c"}.get(len(first))


def find_state_dict(content: object, what: str) -> Mapping[str, Tensor]:
    """The state dict in a checkpoint, which may be all of it; ``what`` is what errors call the file.

    Raises:
        UserError: if there is none.
    """
    if isinstance(content, Mapping):
        content = content.get("state_dict", content)
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and name.isprintable() and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise UserError(f"{what} holds no state dict: names and tensors")
    return content
