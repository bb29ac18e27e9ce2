"""Losses: tensors in, scalars out; what they need of the other processes of a job they ask their ``Peers``."""

from lib.losses.pixels import cross_entropy, focal_loss, ohem_cross_entropy
from lib.losses.segmentation import SegmentationLoss

__all__ = ["SegmentationLoss", "cross_entropy", "focal_loss", "ohem_cross_entropy"]
