"""Heads: the outputs of a backbone's stages in, logits at their size out."""

from lib.models.heads.fcn import AuxiliaryHead, FCNHead
from lib.models.heads.nonlocal_head import NonLocalHead

HEADS = {"nonlocal": NonLocalHead, "fcn": FCNHead, "auxiliary": AuxiliaryHead}
