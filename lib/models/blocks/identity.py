"""How each block starts so that it returns its input, bit by bit, and is trained from there all the same."""

from torch import nn

from lib.base.errors import UserError
from lib.models.blocks.compact_generalized import CompactGeneralizedNonLocal
from lib.models.blocks.criss_cross import CrissCrossAttention
from lib.models.blocks.double_attention import DoubleAttention
from lib.models.blocks.global_context import GlobalContext
from lib.models.blocks.nonlocal_block import NonLocal
from lib.models.blocks.spectral import SpectralStage


def start_as_identity(block: nn.Module) -> None:
    """Set what a new block ends with to 0, so that it returns x + 0, and gradients still reach its weights.

    Raises:
        UserError: that completes "NAME cannot start as an identity: ", where no start of the block does both.
    """
    for kind, start in STARTS.items():
        if isinstance(block, kind):
            start(block)
            return
    raise UserError("it returns another map than its input plus something; use start='default'")


def _nonlocal(block: NonLocal) -> None:
    if block.mask is None and not block.query_mean and block.gamma is not None:
        # The gain is all that leads to the output. With anything behind it at 0 too, nothing would ever be learned.
        nn.init.zeros_(block.gamma)
        return
    _zero(block.output_norm or block.output or block.value)
    if block.output_norm is not None and block.gamma is not None:
        # Of one image, a norm of the unary term alone, which is constant, passes no gradient to its own weight.
        nn.init.ones_(block.gamma)


def _global_context(block: GlobalContext) -> None:
    if block.multiply is not None:
        raise UserError("with multiply=true it halves its input; use multiply=false or start='default'")
    # It starts so already.


def _spectral(block: SpectralStage) -> None:
    for unit in block.units:
        if isinstance(unit.relu, nn.ReLU):
            raise UserError("behind a norm at 0 its ReLU passes no gradient; use relu=false or start='default'")
        _zero(unit.norm)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


STARTS = {
    NonLocal: _nonlocal,
    GlobalContext: _global_context,
    SpectralStage: _spectral,
    DoubleAttention: lambda block: _zero(block.output),
    CompactGeneralizedNonLocal: lambda block: _zero(block.norm),
    CrissCrossAttention: lambda block: nn.init.zeros_(block.gamma),
}
"""By class, whose subclasses are among it: disentangled and unary blocks are ``NonLocal``."""
