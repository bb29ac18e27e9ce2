"""How a task's networks are asked what they see: the inference protocol, and what memory allows of it."""

from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

from datasets.seg.classes import ClassTable

if TYPE_CHECKING:
    from torch import Tensor

    from datasets.seg.dataset import Pixels
    from lib.frugal import Frugal
    from lib.inference import Predictor
    from lib.models import Segmentor


class Infers:
    """The part of a ``lib.engine.task.Task`` that predicts the classes of pixels."""

    config: Any
    table: ClassTable
    pixels: "Pixels"

    @cached_property
    def predictor(self) -> "Predictor":
        """The inference protocol."""
        from lib.inference import predictor

        val = self.config.val
        return predictor(
            val.mode,
            window=tuple(val.window or self.config.data.crop_size),
            stride=val.stride,
            windows=val.windows,
            resize=val.resize,
            pixels=self.pixels,
            batch_size=val.batch_size,
            short_side=val.short_side,
            long_side=val.long_side,
            pad_multiple=val.pad_multiple,
            scales=tuple(val.scales),
            flip=val.flip,
            combine=val.combine,
            interpolation=val.interpolation,
            align_corners=self.config.model.align_corners,
        )

    def predict(self, network: "Segmentor", image: "Tensor") -> "Tensor":
        """Train ids, uint8 [B, H, W], of normalised images [B, 3, H, W], by the inference protocol."""
        return self.frugal(network, image)

    @cached_property
    def frugal(self) -> "Frugal":
        """The inference protocol, or what memory allows of it."""
        import torch

        from lib.engine.log import logger
        from lib.frugal import Frugal

        bfloat16 = torch.is_autocast_enabled("cpu")
        return Frugal(self.predictor, len(self.table), bfloat16=bfloat16, tell=logger.warning)

    @property
    def protocol(self) -> dict[str, Any]:
        """The inference protocol in words and numbers."""
        return {"mode": self.config.val.mode, "protocol": asdict(self.predictor)}
