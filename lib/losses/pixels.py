"""Losses of single pixels: cross entropy, OHEM, focal."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.base.errors import UserError
from lib.base.peers import ALONE, Peers


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
