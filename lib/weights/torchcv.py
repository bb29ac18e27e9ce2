"""Parameters of torchcv's segmentation networks and context blocks under this project's names."""

from collections.abc import Mapping

from torch import Tensor

from lib.errors import UserError
from lib.weights.names import DISENTANGLED, TORCHCV, Table, rename


def convert_torchcv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of torchcv's `nonlocalnowd` or `basenet` on a ResNet, for a ``Segmentor``.

    Raises:
        UserError: naming an entry that those networks do not have.
    """
    return _convert(state, TORCHCV, network="torchcv nonlocalnowd or basenet")


def convert_torchcv_disentangled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of torchcv's `nonlocal_nowd` block, for a ``DisentangledNonLocal``; errors as above."""
    return _convert(state, DISENTANGLED, network="torchcv nonlocal_nowd block")


def _convert(state: Mapping[str, Tensor], table: Table, *, network: str) -> dict[str, Tensor]:
    converted, unknown = rename(state, table)
    if unknown:
        raise UserError(f"{unknown[0]} is no parameter of a {network}")
    return converted
