"""The loss of a segmentor: the sum of losses over its outputs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lib.base.errors import UserError
from lib.base.peers import ALONE, Peers
from lib.losses.pixels import MEANS, at_size, cross_entropy, focal_loss, ohem_cross_entropy
from lib.losses.regions import dice_loss, lovasz_softmax

LOSSES = ("ohem", "cross_entropy", "focal", "dice", "lovasz")
"""Names of the losses of the main output."""


class SegmentationLoss(nn.Module):
    """The loss of a segmentor: that of "out", further ones of it, and cross entropy of "aux", each times its weight.

    Args:
        name: the loss of the main output, one of ``LOSSES``.
        extra: names and weights of further losses of the main output.
        weight: K class weights, for both outputs, or None; Dice and Lovász loss have no use for them.
        ignore: train id of the pixels that do not count.
        mean: over which pixels the losses of single pixels are means, that of "aux" too: one of ``MEANS``, as each
            of these losses says.
        ohem_threshold, ohem_min_kept: ``threshold`` and ``min_kept`` of ``ohem_cross_entropy``.
        focal_gamma, focal_alpha: ``gamma`` and ``alpha`` of ``focal_loss``.
        aux_weight: factor of the auxiliary loss in the total.
        peers: the processes that share a batch; Dice and Lovász loss are means of theirs. ``ALONE``: every process
            has the loss of its own pixels, and what averages the gradients averages the losses.

    Raises:
        UserError: for an unknown name or mean, a threshold outside 0..1 or fewer than 0 kept pixels.
    """

    def __init__(
        self,
        name: str = "ohem",
        *,
        extra: Mapping[str, float] | None = None,
        weight: Sequence[float] | None = None,
        ignore: int = 255,
        mean: str = "valid",
        ohem_threshold: float | None = 0.7,
        ohem_min_kept: int = 100_000,
        focal_gamma: float = 2.0,
        focal_alpha: float = 1.0,
        aux_weight: float = 0.4,
        peers: Peers = ALONE,
    ) -> None:
        super().__init__()
        for known in (name, *(extra or {})):
            if known not in LOSSES:
                raise UserError(f"unknown loss '{known}': choose one of {', '.join(LOSSES)}")
        if mean not in MEANS:
            raise UserError(f"unknown mean '{mean}': choose one of {', '.join(MEANS)}")
        if ohem_threshold is not None and not 0 <= ohem_threshold <= 1:
            raise UserError(f"OHEM threshold {ohem_threshold} is not a probability: choose one in 0..1, or none")
        if ohem_min_kept < 0:
            raise UserError(f"OHEM cannot keep {ohem_min_kept} pixels: choose 0 or more")
        self.name = name
        self.extra = dict(extra or {})
        self.ignore = ignore
        self.mean = mean
        self.ohem_threshold = ohem_threshold
        self.ohem_min_kept = ohem_min_kept
        self.focal_gamma = focal_gamma
        self.focal_alpha = focal_alpha
        self.aux_weight = aux_weight
        self.peers = peers
        # Not persistent: the weights belong to the recipe, not to a checkpoint.
        self.register_buffer("weight", None if weight is None else torch.tensor(weight).float(), persistent=False)

    def forward(self, outputs: dict[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Losses of one batch.

        Args:
            outputs: logits "out" and, where the segmentor has an auxiliary head, "aux", each [B, K, h, w].
            label: int64 [B, H, W], train ids.

        Returns:
            Scalars: "loss", to differentiate; "out", the further losses by their names and, if given, "aux" (none of
            them weighted yet), detached, to log.
        """
        logits = outputs["out"]
        losses = {"out": self._loss(self.name, logits, label)}
        weights = {"out": 1.0, **self.extra}
        losses |= {name: self._loss(name, logits, label) for name in self.extra}
        if "aux" in outputs:
            losses["aux"] = self._loss("cross_entropy", outputs["aux"], label)
            weights["aux"] = self.aux_weight
        total = sum(weights[name] * loss for name, loss in losses.items())
        return {"loss": total, **{name: loss.detach() for name, loss in losses.items()}}

    def _loss(self, name: str, logits: Tensor, label: Tensor) -> Tensor:
        """One of ``LOSSES`` of one output."""
        common = {"weight": self.weight, "ignore": self.ignore, "mean": self.mean, "peers": self.peers}
        if name == "ohem":
            return ohem_cross_entropy(
                logits, label, threshold=self.ohem_threshold, min_kept=self.ohem_min_kept, **common
            )
        if name == "cross_entropy":
            return cross_entropy(logits, label, **common)
        if name == "focal":
            return focal_loss(logits, label, gamma=self.focal_gamma, alpha=self.focal_alpha, **common)
        region_loss = {"dice": dice_loss, "lovasz": lovasz_softmax}[name]
        return region_loss(logits, at_size(label, logits.shape[-2:]), self.ignore)
