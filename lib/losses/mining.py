"""Which pixels of a batch are hard: online hard example mining, without a sort."""

import torch
from torch import Tensor

from lib.base.peers import Peers


@torch.no_grad()
def hard_pixels(
    nll: Tensor, pixel_weight: Tensor, valid: Tensor, threshold: float | None, min_kept: int, peers: Peers
) -> Tensor:
    """The pixels that online hard example mining keeps, of the kept number k = ``min_kept`` x images of all peers.

    With a threshold: those whose true class has a probability below the larger of ``threshold`` and the (k + 1)-th
    smallest (of the largest, where there are no more than k). Without: those of the k largest losses.

    Args:
        nll: [B, h, w], negative log-likelihood of the true class; 0 where ignored.
        pixel_weight: [B, h, w], class weights, by which a loss without threshold is larger.
        valid: bool [B, h, w], where a pixel is not ignored; an ignored one is never hard.
        threshold: probability, 0..1, or None.
        min_kept: pixels for each image, on average.
        peers: the processes among whose pixels is chosen; each has as many.

    Returns:
        bool [B, h, w].
    """
    kept = min_kept * len(nll) * peers.size
    if threshold is None:
        return _largest((nll * pixel_weight).masked_fill(~valid, -torch.inf), kept, peers) & valid
    probability = torch.exp(-nll)  # 1 where ignored: below no bound
    return probability < _hardness_bound(probability, valid, threshold, kept, peers)


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


def _largest(loss: Tensor, kept: int, peers: Peers) -> Tensor:
    """Where the ``kept`` largest of all processes' losses are, exactly so many of equal ones too; bool, like ``loss``.

    Never waits for the device: what is chosen stays there as a mask.
    """
    largest, places = loss.flatten().topk(min(kept, loss.numel()), sorted=False)
    chosen = torch.ones_like(places, dtype=torch.bool)
    if peers.size > 1:
        everyones = peers.concatenate(largest)
        chosen = torch.zeros_like(everyones, dtype=torch.bool)
        chosen.index_fill_(0, everyones.topk(min(kept, len(everyones)), sorted=False).indices, True)
        chosen = chosen.unflatten(0, (peers.size, -1))[peers.rank]
    return torch.zeros_like(loss, dtype=torch.bool).flatten().scatter_(0, places, chosen).view_as(loss)
