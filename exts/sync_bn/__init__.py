"""Batch norm over the batches of all processes, with the activation that follows it, as one compiled layer."""

from exts.sync_bn.convert import convert_sync_batchnorm
from exts.sync_bn.module import SyncBatchNorm
from exts.sync_bn.ops import COMPILED

__all__ = ["COMPILED", "SyncBatchNorm", "convert_sync_batchnorm"]
