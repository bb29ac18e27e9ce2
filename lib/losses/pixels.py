"""Losses of single pixels: cross entropy, OHEM, focal."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.base.errors import UserError
from lib.base.peers import ALONE, Peers
from lib.losses.mining import hard_pixels

MEANS = ("valid", "labelled", "all")
"""Over which pixels a mean is: those that the loss counts, all that are not ignored, or ignored ones too."""

EPSILON = torch.finfo(torch.float32).eps
"""What mmsegmentation adds to the number of pixels."""


def cross_entropy(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    ignore: int = 255,
    *,
    mean: str = "valid",
    peers: Peers = ALONE,
) -> Tensor:
    """Mean cross entropy, weighted by class; 0 with zero gradient where every pixel is ignored.

    Where several processes share the batch, each has a part of the loss whose mean over the processes, in value and in
    gradient, is the loss of the whole batch; DistributedDataParallel takes that mean of the gradients.

    Args:
        logits: [B, K, h, w], of any floating type; computed in float32 or wider.
        label: int64 [B, H, W], train ids; resized to h x w by nearest neighbour where the sizes differ.
        weight: [K], loss weights of the classes; the mean is divided by the weights of the pixels, not their number.
        ignore: train id of the pixels that do not count.
        mean: what the sum is divided by. ``valid``: the pixels that are not ignored. ``all``: all pixels, which
            mmsegmentation does unless told ``avg_non_ignore``; that is ``labelled``, here the same as ``valid``. An
            ignored pixel has no class and so no class weight: with ``weight``, all three are the same.
        peers: the processes that share the batch.

    Returns:
        A float32 scalar.
    """
    nll, pixel_weight, _ = pixel_terms(logits, label, weight, ignore)
    return _mean(nll * pixel_weight, pixel_weight, pixel_weight, mean, weight is not None, peers)


def ohem_cross_entropy(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    ignore: int = 255,
    threshold: float | None = 0.7,
    min_kept: int = 100_000,
    *,
    mean: str = "valid",
    peers: Peers = ALONE,
) -> Tensor:
    """Cross entropy of the hard pixels only: online hard example mining as the DNL recipes use it.

    A pixel is hard if its true class has a probability below ``threshold``; where fewer than k = ``min_kept`` x B
    pixels are, the bound rises to the probability of the (k + 1)-th hardest. Without a threshold, as mmsegmentation
    has it too, the k pixels of the largest loss are hard. Class weights scale the loss of a pixel. 0 with zero gradient
    where none is hard. The hardest are chosen among the pixels that all processes hold at a time: each round of
    micro-batches chooses its own.

    Args:
        logits, label, weight, ignore, peers: as for ``cross_entropy``.
        threshold: probability, 0..1, or None.
        min_kept: pixels kept for each image of the batch, on average, if that many are not ignored.
        mean: what the sum is divided by. ``valid``: the number of hard pixels, whatever their classes' weights, as
            torchcv has it. As mmsegmentation has them, whether a pixel is hard or not: ``labelled``: the pixels that
            are not ignored (``avg_non_ignore``), and ``all``: all pixels; with ``weight``, the weights of the pixels.

    Returns:
        A float32 scalar.
    """
    nll, pixel_weight, valid = pixel_terms(logits, label, weight, ignore)
    hard = hard_pixels(nll, pixel_weight, valid, threshold, min_kept, peers)
    return _mean(nll * (pixel_weight * hard), hard, pixel_weight, mean, weight is not None, peers)


def focal_loss(
    logits: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    ignore: int = 255,
    gamma: float = 2.0,
    alpha: float = 1.0,
    *,
    mean: str = "valid",
    peers: Peers = ALONE,
) -> Tensor:
    """Mean focal loss ``-alpha * (1 - p) ** gamma * log(p)`` of the true class's probability p, weighted by class.

    Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017), equation 5, for classes that exclude each other
    and one alpha for all of them. The mean is that of ``cross_entropy``, which it equals for gamma = 0 and alpha = 1; 0
    with zero gradient where every pixel is ignored.

    Args:
        logits, label, weight, ignore, mean, peers: as for ``cross_entropy``.
        gamma: at least 0; the larger, the less the easy pixels count.
        alpha: at least 0, a factor of all pixels; 0.25 in torchcv's focal loss.

    Returns:
        A float32 scalar.
    """
    nll, pixel_weight, _ = pixel_terms(logits, label, weight, ignore)
    # Not down to 0, where the power's derivative is infinite for gamma < 1.
    doubt = -torch.expm1(-nll).clamp(max=-1e-12)
    terms = alpha * doubt.pow(gamma) * nll * pixel_weight
    return _mean(terms, pixel_weight, pixel_weight, mean, weight is not None, peers)


def _mean(terms: Tensor, counted: Tensor, labelled: Tensor, mean: str, is_weighted: bool, peers: Peers) -> Tensor:
    """This process's ``terms``, summed, over the mean of all processes' number of pixels; 0 where no pixel counts.

    Args:
        terms: [B, h, w], 0 where a pixel does not count.
        counted: [B, h, w], the share that each pixel has in the number of ``valid`` ones.
        labelled: [B, h, w], class weights, 1 where there are none; 0 where ignored.
        mean: one of ``MEANS``.
        is_weighted: whether there are class weights.
    """
    if mean == "valid":
        count = peers.sum(counted.sum()) / peers.size
        return terms.sum() / torch.where(count > 0, count, 1)
    # Every process has as many pixels.
    count = terms.numel() if mean == "all" and not is_weighted else peers.sum(labelled.sum()) / peers.size
    return terms.sum() / (count + EPSILON / peers.size)


def pixel_terms(logits: Tensor, label: Tensor, weight: Tensor | None, ignore: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each pixel, [B, h, w]: negative log-likelihood, class weight (both 0 where ignored), whether it is valid."""
    if weight is not None and len(weight) != logits.shape[1]:
        raise UserError(f"{len(weight)} class weights for {logits.shape[1]} classes: give one weight for each class")
    label = at_size(label, logits.shape[-2:])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nll = F.cross_entropy(logits, label, ignore_index=ignore, reduction="none")
    valid = label != ignore
    if weight is None:
        return nll, valid.float(), valid
    return nll, weight.float()[label.masked_fill(~valid, 0)] * valid, valid


def at_size(label: Tensor, size: tuple[int, int]) -> Tensor:
    """``label`` resized to ``size`` (height, width) by nearest neighbour."""
    if label.shape[-2:] == size:
        return label
    # Through float, the one type that "nearest" takes on all devices; exact for ids below 2^24.
    return F.interpolate(label[:, None].float(), size=size, mode="nearest")[:, 0].long()
