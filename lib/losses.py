"""Losses of single pixels: cross entropy, OHEM, focal; and the sum of losses over the outputs of a segmentor."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.errors import UserError
from lib.peers import ALONE, Peers
from lib.region_losses import dice_loss, lovasz_softmax

LOSSES = ("ohem", "cross_entropy", "focal", "dice", "lovasz")
"""Names of the losses of the main output."""


def cross_entropy(
    logits: Tensor, label: Tensor, weight: Tensor | None = None, ignore: int = 255, *, peers: Peers = ALONE
) -> Tensor:
    """Mean cross entropy, weighted by class; 0 with zero gradient where every pixel is ignored.

    Where several processes share the batch, each has a part of the loss whose mean over the processes, in value and in
    gradient, is the loss of the whole batch.

    Args:
        logits: [B, K, h, w], of any floating type; computed in float32 or wider.
        label: int64 [B, H, W], train ids; resized to h x w by nearest neighbour where the sizes differ.
        weight: [K], loss weights of the classes; the mean is divided by the weights of the pixels, not their number.
        ignore: train id of the pixels that do not count.
        peers: the processes that share the batch.

    Returns:
        A float32 scalar.
    """
    nll, pixel_weight, _ = _pixel_terms(logits, label, weight, ignore)
    return _mean(nll * pixel_weight, pixel_weight.sum(), peers)


def ohem_cross_entropy(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    ignore: int = 255,
    threshold: float = 0.7,
    min_kept: int = 100_000,
    *,
    peers: Peers = ALONE,
) -> Tensor:
    """Cross entropy of the hard pixels only: online hard example mining as the DNL recipes use it.

    A pixel is hard if its true class has a probability below ``threshold``; where fewer than k = ``min_kept`` x B
    pixels are, the bound rises to the probability of the (k + 1)-th hardest. Class weights scale the loss of a pixel;
    the mean is over the number of hard pixels. 0 with zero gradient where none is hard. The hardest are chosen among
    the pixels that all processes hold at a time: each round of micro-batches chooses its own.

    Args:
        logits, label, weight, ignore, peers: as for ``cross_entropy``.
        threshold: probability, 0..1.
        min_kept: pixels kept for each image of the batch, on average, if that many are not ignored.

    Returns:
        A float32 scalar.
    """
    nll, pixel_weight, valid = _pixel_terms(logits, label, weight, ignore)
    with torch.no_grad():
        probability = torch.exp(-nll)  # 1 where ignored: below no bound
        bound = _hardness_bound(probability, valid, threshold, min_kept * len(label) * peers.size, peers)
        hard = probability < bound
        pixel_weight = pixel_weight * hard
    return _mean(nll * pixel_weight, hard.sum(), peers)


def focal_loss(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    ignore: int = 255,
    gamma: float = 2.0,
    *,
    peers: Peers = ALONE,
) -> Tensor:
    """Mean focal loss ``-(1 - p) ** gamma * log(p)`` of the true class's softmax probability p, weighted by class.

    Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017), equation 4, for classes that exclude each other.
    The mean is that of ``cross_entropy``, which it equals for gamma = 0; 0 with zero gradient where every pixel is
    ignored.

    Args:
        logits, label, weight, ignore, peers: as for ``cross_entropy``.
        gamma: at least 0; the larger, the less the easy pixels count.

    Returns:
        A float32 scalar.
    """
    nll, pixel_weight, _ = _pixel_terms(logits, label, weight, ignore)
    # Not down to 0, where the power's derivative is infinite for gamma < 1.
    doubt = -torch.expm1(-nll).clamp(max=-1e-12)
    return _mean(doubt.pow(gamma) * nll * pixel_weight, pixel_weight.sum(), peers)


def _mean(terms: Tensor, count: Tensor, peers: Peers) -> Tensor:
    """This process's ``terms``, summed, over the mean of all processes' ``count``; 0 where that is 0."""
    mean_count = peers.sum(count) / peers.size
    return terms.sum() / torch.where(mean_count > 0, mean_count, 1)


def _pixel_terms(logits: Tensor, label: Tensor, weight: Tensor | None, ignore: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each pixel, [B, h, w]: negative log-likelihood, class weight (both 0 where ignored), whether it is valid."""
    if weight is not None and len(weight) != logits.shape[1]:
        raise UserError(f"{len(weight)} class weights for {logits.shape[1]} classes: give one weight for each class")
    label = _at_size(label, logits.shape[-2:])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nll = F.cross_entropy(logits, label, ignore_index=ignore, reduction="none")
    valid = label != ignore
    if weight is None:
        return nll, valid.float(), valid
    return nll, weight.float()[label.masked_fill(~valid, 0)] * valid, valid


def _at_size(label: Tensor, size: tuple[int, int]) -> Tensor:
    """``label`` resized to ``size`` (height, width) by nearest neighbour."""
    if label.shape[-2:] == size:
        return label
    # Through float, the one type that "nearest" takes on all devices; exact for ids below 2^24.
    return F.interpolate(label[:, None].float(), size=size, mode="nearest")[:, 0].long()


def _hardness_bound(probability: Tensor, valid: Tensor, threshold: float, kept: int, peers: Peers) -> Tensor | float:
    """max(threshold, k-th smallest probability counted from 0), k = min(kept, n - 1) of all processes' n valid pixels.

    Selects instead of sorting, and only where the k-th smallest reaches the threshold.
    """
    counts = torch.stack([valid.sum(), (probability < threshold).sum()])
    count, below = peers.sum(counts).tolist()
    k = min(kept, count - 1)
    if below > k:
        return threshold
    # topk rather than kthvalue, which selects with a single thread block on a GPU.
    smallest = probability.flatten().topk(min(k + 1, probability.numel()), largest=False, sorted=False).values
    if peers.size > 1:
        smallest = peers.concatenate(smallest).topk(k + 1, largest=False, sorted=False).values
    return smallest.max()


class SegmentationLoss(nn.Module):
    """The loss of a segmentor: that of "out", further ones of it, and cross entropy of "aux", each times its weight.

    Args:
        name: the loss of the main output, one of ``LOSSES``.
        extra: names and weights of further losses of the main output.
        weight: K class weights, for both outputs, or None; Dice and Lovász loss have no use for them.
        ignore: train id of the pixels that do not count.
        ohem_threshold, ohem_min_kept: ``threshold`` and ``min_kept`` of ``ohem_cross_entropy``.
        focal_gamma: ``gamma`` of ``focal_loss``.
        aux_weight: factor of the auxiliary loss in the total.
        peers: the processes that share a batch; Dice and Lovász loss are means of theirs.

    Raises:
        UserError: for an unknown name, a threshold outside 0..1 or fewer than 0 kept pixels.
    """

    def __init__(
        self,
        name: str = "ohem",
        *,
        extra: Mapping[str, float] | None = None,
        weight: Sequence[float] | None = None,
        ignore: int = 255,
        ohem_threshold: float = 0.7,
        ohem_min_kept: int = 100_000,
        focal_gamma: float = 2.0,
        aux_weight: float = 0.4,
        peers: Peers = ALONE,
    ) -> None:
        super().__init__()
        for known in (name, *(extra or {})):
            if known not in LOSSES:
                raise UserError(f"unknown loss '{known}': choose one of {', '.join(LOSSES)}")
        if not 0 <= ohem_threshold <= 1:
            raise UserError(f"OHEM threshold {ohem_threshold} is not a probability: choose one in 0..1")
        if ohem_min_kept < 0:
            raise UserError(f"OHEM cannot keep {ohem_min_kept} pixels: choose 0 or more")
        self.name = name
        self.extra = dict(extra or {})
        self.ignore = ignore
        self.ohem_threshold = ohem_threshold
        self.ohem_min_kept = ohem_min_kept
        self.focal_gamma = focal_gamma
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
        losses = {"out": self._main(self.name, logits, label)}
        weights = {"out": 1.0, **self.extra}
        losses |= {name: self._main(name, logits, label) for name in self.extra}
        if "aux" in outputs:
            losses["aux"] = cross_entropy(outputs["aux"], label, self.weight, self.ignore, peers=self.peers)
            weights["aux"] = self.aux_weight
        total = sum(weights[name] * loss for name, loss in losses.items())
        return {"loss": total, **{name: loss.detach() for name, loss in losses.items()}}

    def _main(self, name: str, logits: Tensor, label: Tensor) -> Tensor:
        """One of ``LOSSES`` of the main output."""
        common = {"weight": self.weight, "ignore": self.ignore, "peers": self.peers}
        if name == "ohem":
            return ohem_cross_entropy(
                logits, label, threshold=self.ohem_threshold, min_kept=self.ohem_min_kept, **common
            )
        if name == "cross_entropy":
            return cross_entropy(logits, label, **common)
        if name == "focal":
            return focal_loss(logits, label, gamma=self.focal_gamma, **common)
        region_loss = {"dice": dice_loss, "lovasz": lovasz_softmax}[name]
        return region_loss(logits, _at_size(label, logits.shape[-2:]), self.ignore)
