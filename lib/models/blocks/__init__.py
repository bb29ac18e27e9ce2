"""Context blocks: B x C x H x W in, the same shape out."""

from lib.models.blocks.disentangled import DisentangledNonLocal

BLOCKS = {"disentangled": DisentangledNonLocal}
