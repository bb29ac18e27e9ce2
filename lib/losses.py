"""Losses of the published recipes: cross entropy, OHEM cross entropy, and their sum over the outputs of a segmentor."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.errors import UserError


def cross_entropy(logits: Tensor, label: Tensor, weight: Tensor | None = None, ignore: int = 255) -> Tensor:
    """Mean cross entropy, weighted by class; 0 with zero gradient where every pixel is ignored.

    Args:
        logits: [B, K, h, w], of any floating type; computed in float32.
        label: int64 [B, H, W], train ids; resized to h x w by nearest neighbour where the sizes differ.
        weight: [K], loss weights of the classes; the mean is divided by the weights of the pixels, not their number.
        ignore: train id of the pixels that do not count.

    Returns:
        A float32 scalar.
    """
    nll, pixel_weight, _ = _pixel_terms(logits, label, weight, ignore)
    total = pixel_weight.sum()
    return (nll * pixel_weight).sum() / torch.where(total > 0, total, 1)


def ohem_cross_entropy(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    ignore: int = 255,
    threshold: float = 0.7,
    min_kept: int = 100_000,
) -> Tensor:
    """Cross entropy of the hard pixels only: online hard example mining as the DNL recipes use it.

    A pixel is hard if its true class has a probability below ``threshold``; where fewer than k = ``min_kept`` x B
    pixels are, the bound rises to the probability of the (k + 1)-th hardest. Class weights scale the loss of a pixel;
    the mean is over the number of hard pixels. 0 with zero gradient where none is hard.

    Args:
        logits, label, weight, ignore: as for ``cross_entropy``.
        threshold: probability, 0..1.
        min_kept: pixels kept for each image of the batch, on average, if that many are not ignored.

    Returns:
        A float32 scalar.
    """
    nll, pixel_weight, valid = _pixel_terms(logits, label, weight, ignore)
    with torch.no_grad():
        probability = torch.exp(-nll)  # 1 where ignored: below no bound
        bound = _hardness_bound(probability, int(valid.sum()), threshold, min_kept * len(label))
        hard = probability < bound
        pixel_weight = pixel_weight * hard
    return (nll * pixel_weight).sum() / hard.sum().clamp(min=1)


def _pixel_terms(logits: Tensor, label: Tensor, weight: Tensor | None, ignore: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each pixel, [B, h, w]: negative log-likelihood, class weight (both 0 where ignored), whether it is valid."""
    if weight is not None and len(weight) != logits.shape[1]:
        raise UserError(f"{len(weight)} class weights for {logits.shape[1]} classes: give one weight for each class")
    if label.shape[-2:] != logits.shape[-2:]:
        # Through float, the one type that "nearest" takes on all devices; exact for ids below 2^24.
        label = F.interpolate(label[:, None].float(), size=logits.shape[-2:], mode="nearest")[:, 0].long()
    nll = F.cross_entropy(logits.float(), label, ignore_index=ignore, reduction="none")
    valid = label != ignore
    if weight is None:
        return nll, valid.float(), valid
    return nll, weight.float()[label.masked_fill(~valid, 0)] * valid, valid


def _hardness_bound(probability: Tensor, count: int, threshold: float, kept: int) -> Tensor | float:
    """max(threshold, the k-th smallest probability counted from 0), k = min(kept, count - 1) of ``count`` valid pixels.

    Selects instead of sorting, and only where the k-th smallest reaches the threshold.
    """
    k = min(kept, count - 1)
    if count == 0 or int((probability < threshold).sum()) > k:
        return threshold
    # topk rather than kthvalue, which selects with a single thread block on a GPU.
    return probability.flatten().topk(k + 1, largest=False, sorted=False).values.max()


class SegmentationLoss(nn.Module):
    """The loss of a segmentor: OHEM or plain cross entropy of "out", plus cross entropy of "aux" times its weight.

    Args:
        name: "ohem" or "cross_entropy", the loss of the main output.
        weight: K class weights, for both outputs, or None.
        ignore: train id of the pixels that do not count.
        ohem_threshold, ohem_min_kept: ``threshold`` and ``min_kept`` of ``ohem_cross_entropy``.
        aux_weight: factor of the auxiliary loss in the total.

    Raises:
        UserError: for an unknown name, a threshold outside 0..1 or fewer than 0 kept pixels.
    """

    def __init__(
        self,
        name: str = "ohem",
        *,
        weight: Sequence[float] | None = None,
        ignore: int = 255,
        ohem_threshold: float = 0.7,
        ohem_min_kept: int = 100_000,
        aux_weight: float = 0.4,
    ) -> None:
        super().__init__()
        if name not in ("ohem", "cross_entropy"):
            raise UserError(f"unknown loss '{name}': choose ohem or cross_entropy")
        if not 0 <= ohem_threshold <= 1:
            raise UserError(f"OHEM threshold {ohem_threshold} is not a probability: choose one in 0..1")
        if ohem_min_kept < 0:
            raise UserError(f"OHEM cannot keep {ohem_min_kept} pixels: choose 0 or more")
        self.name = name
        self.ignore = ignore
        self.ohem_threshold = ohem_threshold
        self.ohem_min_kept = ohem_min_kept
        self.aux_weight = aux_weight
        # Not persistent: the weights belong to the recipe, not to a checkpoint.
        self.register_buffer("weight", None if weight is None else torch.tensor(weight).float(), persistent=False)

    def forward(self, outputs: dict[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Losses of one batch.

        Args:
            outputs: logits "out" and, where the segmentor has an auxiliary head, "aux", each [B, K, h, w].
            label: int64 [B, H, W], train ids.

        Returns:
            Scalars: "loss", to differentiate; "out" and, if given, "aux" (not yet weighted), detached, to log.
        """
        logits = outputs["out"]
        if self.name == "ohem":
            main = ohem_cross_entropy(
                logits, label, self.weight, self.ignore, threshold=self.ohem_threshold, min_kept=self.ohem_min_kept
            )
        else:
            main = cross_entropy(logits, label, self.weight, self.ignore)
        if "aux" not in outputs:
            return {"loss": main, "out": main.detach()}
        aux = cross_entropy(outputs["aux"], label, self.weight, self.ignore)
        return {"loss": main + self.aux_weight * aux, "out": main.detach(), "aux": aux.detach()}
