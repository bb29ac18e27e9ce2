"""Losses of whole regions rather than single pixels: Dice and Lovász-softmax, means over the classes of the batch.

Every class that the labels show counts alike, whatever its number of pixels, so that class weights have no place here.
The regions are those of the batch that one process sees at a time.
"""

import torch
from torch import Tensor

SORTED_AT_ONCE = 1 << 24
"""Errors that the Lovász loss sorts at a time; a sort needs 12 bytes for each."""


def dice_loss(logits: Tensor, label: Tensor, ignore: int = 255) -> Tensor:
    """Soft Dice loss with squares in the denominator (Milletari et al., "V-Net", 2016), mean over present classes.

    For probabilities p and one-hot labels g of one class: ``1 - 2 sum(p g) / (sum(p^2) + sum(g^2))``, computed as
    ``sum((p - g)^2)`` over the same denominator, which keeps small losses exact.

    Args:
        logits: [B, K, H, W], of any floating type; computed in float32 or wider.
        label: int64 [B, H, W], train ids.
        ignore: train id of the pixels that do not count; 0 with zero gradient where every pixel is ignored.

    Returns:
        A scalar of 0..1.
    """
    probability = _probabilities(logits)
    counted = (label != ignore)[:, None]
    present = _present(label, ignore)
    truth = _one_hot(label, present)
    predicted = probability[:, present]
    misses = (torch.where(truth, 1 - predicted, predicted).square() * counted).sum((0, 2, 3))
    squares = (predicted.square() * counted).sum((0, 2, 3)) + truth.sum((0, 2, 3))
    return (misses / squares).sum() / max(1, len(present))


def lovasz_softmax(logits: Tensor, label: Tensor, ignore: int = 255) -> Tensor:
    """Lovász-softmax loss, a surrogate of 1 - mIoU over the present classes (Berman et al., CVPR 2018, equation 11).

    Arguments and result as of ``dice_loss``.
    """
    probability = _probabilities(logits)
    counted = label != ignore
    present = _present(label, ignore)
    total = 0.0
    for classes in present.split(max(1, SORTED_AT_ONCE // label.numel())):
        truth = _one_hot(label, classes)
        predicted = probability[:, classes]
        error = torch.where(truth, 1 - predicted, predicted)
        total = total + (error * _lovasz_gradient(error.detach(), truth, counted)).sum()
    return total / max(1, len(present))


def _probabilities(logits: Tensor) -> Tensor:
    return logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))


def _present(label: Tensor, ignore: int) -> Tensor:
    """The train ids in ``label``, ascending, but for ``ignore``: int64 [k]."""
    ids = label.unique()
    return ids[ids != ignore]


def _one_hot(label: Tensor, classes: Tensor) -> Tensor:
    """bool [B, k, H, W]: where ``label`` is which of the k ``classes``."""
    return label[:, None] == classes[:, None, None]


@torch.no_grad()
def _lovasz_gradient(error: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """Gradient of the Lovász extension of each class's Jaccard loss (equation 9); 0 at the pixels that do not count.

    In the order of falling errors, a pixel's part is what it adds to the loss of the set of those before it. With m of
    the class's pixels not yet in the set and u in the union of class and set, both counted after the pixel joined,
    that is 1 / u for a pixel of the class and m / (u (u - 1)) for any other: no difference of nearly equal numbers.

    Args:
        error: [B, k, H, W], |g - p|.
        truth: bool [B, k, H, W], g.
        counted: bool [B, H, W].
    """
    # [B, k, H, W] -> [k, BHW]; pixels that do not count come last
    rows = error.masked_fill(~counted[:, None], -1).transpose(0, 1).flatten(1)
    hits = truth.transpose(0, 1).flatten(1)
    order = rows.argsort(dim=1, descending=True)
    hit = hits.gather(1, order)
    found = hit.cumsum(1, dtype=torch.int32)
    missing = (found[:, -1:] - found).to(rows.dtype)
    rank = torch.arange(1, rows.shape[1] + 1, device=rows.device, dtype=torch.int32)
    union = (missing + rank).to(rows.dtype)
    steps = torch.where(hit, 1 / union, missing / (union * (union - 1)))
    gradient = torch.empty_like(rows).scatter_(1, order, steps)
    return gradient.unflatten(1, counted.shape).transpose(0, 1) * counted[:, None]
