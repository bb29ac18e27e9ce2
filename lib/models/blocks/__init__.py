"""A context block takes features B x C x H x W and returns the same shape."""

from lib.models.blocks.asymmetric import AsymmetricPyramid
from lib.models.blocks.compact_generalized import CompactGeneralizedNonLocal
from lib.models.blocks.criss_cross import CrissCrossAttention
from lib.models.blocks.disentangled import DisentangledNonLocal
from lib.models.blocks.double_attention import DoubleAttention
from lib.models.blocks.global_context import GlobalContext
from lib.models.blocks.nonlocal_block import NonLocal
from lib.models.blocks.spectral import SpectralStage
from lib.models.blocks.unary import Unary

BLOCKS = {
    "nonlocal": NonLocal,
    "disentangled": DisentangledNonLocal,
    "unary": Unary,
    "global_context": GlobalContext,
    "asymmetric_pyramid": AsymmetricPyramid,
    "spectral": SpectralStage,
    "double_attention": DoubleAttention,
    "compact_generalized": CompactGeneralizedNonLocal,
    "criss_cross": CrissCrossAttention,
}
