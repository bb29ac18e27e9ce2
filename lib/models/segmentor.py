"""The segmentor: a backbone, a head, and an auxiliary head for training."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Segmentor(nn.Module):
    """Classifies every pixel of an image.

    Args:
        backbone: takes an image, returns the outputs of its stages; its ``stages`` are the layers of stem and stages.
        head: takes these, returns logits.
        aux_head: the same for the auxiliary loss, or None.
        align_corners: how logits are brought to the image's size, bilinearly: whether corners or edges coincide.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, aux_head: nn.Module | None = None, *, align_corners: bool = True
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.aux_head = aux_head
        self.align_corners = align_corners
        self.frozen_stages, self.frozen_norm = -1, False

    def freeze(self, *, stages: int = -1, norm: bool = False) -> None:
        """Keep parts of the backbone as they are: no gradients, and evaluation mode while the rest is trained.

        Args:
            stages: 0: the stem; n: the stem and the first n stages; -1: none.
            norm: every batch norm: its statistics, scales and shifts.
        """
        self.frozen_stages, self.frozen_norm = stages, norm
        for layer in self._frozen_layers():
            layer.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Segmentor":
        """Set training or evaluation mode, the latter in any case for what is frozen."""
        super().train(mode)
        for layer in self._frozen_layers():
            layer.eval()
        return self

    def _frozen_layers(self) -> Iterator[nn.Module]:
        # Looked up anew each time: to synchronise batch norm among processes is to replace its layers.
        if self.frozen_stages >= 0:
            for stage in self.backbone.stages[: self.frozen_stages + 1]:
                yield from stage
        if self.frozen_norm:
            yield from (layer for layer in self.backbone.modules() if isinstance(layer, _BatchNorm))

    def forward(self, image: Tensor, with_aux: bool | None = None) -> dict[str, Tensor]:
        """Classify the pixels of B x 3 x H x W.

        Args:
            with_aux: whether the auxiliary head's logits are wanted; default in training mode only.

        Returns:
            Logits B x K x H x W, of float32 or wider: ``out`` and, if wanted and there is that head, ``aux``.
        """
        if with_aux is None:
            with_aux = self.training
        features = self.backbone(image)
        logits = {"out": self.head(features)}
        if with_aux and self.aux_head is not None:
            logits["aux"] = self.aux_head(features)
        return {name: self._upsample(low, image.shape[-2:]) for name, low in logits.items()}

    def _upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        # Widened while small: a loss in float32 would otherwise make a second copy at the full size.
        # And with its classes as planes: sampling and log-softmax are slow over a short last dimension.
        dtype = torch.promote_types(logits.dtype, torch.float32)
        wide = logits.to(dtype, memory_format=torch.contiguous_format)
        return F.interpolate(wide, size, mode="bilinear", align_corners=self.align_corners)
