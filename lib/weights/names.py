"""From other projects' parameter names to this one's: the only place where those names are written."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from lib.base.errors import UserError

Table = Sequence[tuple[str, str]]
"""Regular expressions of a name's beginning and what replaces it; the first that matches counts."""

# The bare classification networks of torchvision and of torchcv (`3x3resnet*-imagenet.pth`), which share their stages'
# names with ``lib.models.backbones.resnet``. They count a stem's layers from 1.
RESNET: Table = (
    *((rf"(?:prefix\.)?conv{layer}\.", f"stem.{layer - 1}.conv.") for layer in (1, 2, 3)),
    *((rf"(?:prefix\.)?bn{layer}\.", f"stem.{layer - 1}.norm.") for layer in (1, 2, 3)),
    (r"(layer[1-4]\.)", r"\1"),
)


def layers(theirs: str, ours: str, *, conv: int | str = 0, norm: int | str = 1) -> Table:
    """A convolution and its norm, which the published networks number inside a sequence."""
    return ((rf"{theirs}\.{conv}\.(?=\w+$)", f"{ours}.conv."), (rf"{theirs}\.{norm}\.(?=\w+$)", f"{ours}.norm."))


# mmsegmentation's and mmcv's ResNets: three convolutions in one sequence, or the bare network's names
RESNET_V1C: Table = (
    *(entry for index in range(3) for entry in layers("stem", f"stem.{index}", conv=3 * index, norm=3 * index + 1)),
    *RESNET,
)

# torchcv's `nonlocal_nowd` block
DISENTANGLED: Table = (
    (r"gamma$", "gamma"),
    (r"conv_(query|key|value|mask)\.", r"\1."),
    (r"conv_out\.", "output."),
    (r"out_bn\.", "output_norm."),
)

# A stage of torchcv's segmentation heads: `conva` before the context block, `convb` after it.
_HEAD: Table = (
    (r"conva\.0\.", "reduce.conv."),
    (r"conva\.1\.0\.", "reduce.norm."),
    (r"convb\.0\.", "refine.conv."),
    (r"convb\.1\.0\.", "refine.norm."),
    (r"bottleneck\.0\.", "fuse.conv."),
    (r"bottleneck\.1\.0\.", "fuse.norm."),
    (r"bottleneck\.3\.", "classifier."),
)

_AUXILIARY: Table = (
    (r"0\.conv\.", "reduce.conv."),
    (r"0\.bn_relu\.0\.", "reduce.norm."),
    (r"2\.", "classifier."),
)


def nest(outer: str, ours: str, table: Table) -> Table:
    """``table`` for the part of a network that is called ``outer``, a regular expression, there and ``ours`` here."""
    return tuple((outer + theirs, ours + renamed) for theirs, renamed in table)


# torchcv's segmentation networks `nonlocalnowd` (head `nlm`, block `ctb`) and `basenet` (head `gcb`)
TORCHCV: Table = (
    *nest(r"backbone\.", "backbone.", RESNET),
    *nest(r"(?:nlm|gcb)\.", "head.", _HEAD),
    *nest(r"nlm\.ctb\.", "head.block.", DISENTANGLED),
    *nest(r"dsn\.", "aux_head.", _AUXILIARY),
)


def rename(state: Mapping[str, Tensor], table: Table) -> tuple[dict[str, Tensor], list[str]]:
    """Rename a state dict's entries by ``table``, whatever ``module.`` data parallelism put in front of them.

    Returns:
        The renamed entries, and the names that the table does not know.
    """
    renamed, unknown = {}, []
    for name, tensor in state.items():
        bare = name.removeprefix("module.")
        for pattern, replacement in table:
            new, count = re.subn("^" + pattern, replacement, bare)
            if count:
                renamed[new] = tensor
                break
        else:
            unknown.append(name)
    return renamed, unknown


def convert(state: Mapping[str, Tensor], table: Table, network: str) -> dict[str, Tensor]:
    """``state`` renamed by ``table``; ``network`` is what the error calls it.

    Raises:
        UserError: naming an entry that the table does not know.
    """
    converted, unknown = rename(state, table)
    if unknown:
        raise UserError(f"{unknown[0]} is no parameter of a {network}")
    return converted
