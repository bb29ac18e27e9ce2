"""From an image to the logits of all its pixels, whole or by sliding windows, on the image's device throughout."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lib.errors import UserError

Segmentor = Callable[[Tensor], dict[str, Tensor]]
"""image [B, 3, H, W] -> {"out": logits [B, K, H, W], ...}"""


def predictor(
    mode: str, *, window: tuple[int, int], stride: float = 0.667, batch_size: int = 1
) -> Callable[[Segmentor, Tensor], Tensor]:
    """The inference of a validation protocol, as a function of (model, image [B, 3, H, W]) to logits [B, K, H, W].

    Args:
        mode: "ss" (single scale, the whole image at once) or "sscrop" (single scale, sliding windows).
        window, stride, batch_size: as for ``sliding_window``; without effect in mode "ss".

    Raises:
        UserError: for an unknown mode, or a window, stride or batch size that cannot be.
    """
    if mode == "ss":
        return whole_image
    if mode != "sscrop":
        raise UserError(f"unknown validation mode '{mode}': choose ss (whole image) or sscrop (sliding windows)")
    if min(window) < 1:
        raise UserError(f"window {window[0]} x {window[1]} is empty: give a width and a height of at least 1")
    if not 0 < stride <= 1:
        raise UserError(f"window stride {stride} would leave gaps or stand still: choose a part of the window in 0..1")
    if batch_size < 1:
        raise UserError(f"{batch_size} windows in a batch are too few: choose at least 1")
    return partial(sliding_window, window=window, stride=stride, batch_size=batch_size)


def predict(logits: Tensor) -> Tensor:
    """Train ids, uint8 [B, H, W], of logits [B, K, H, W]: the class with the largest logit."""
    return logits.argmax(dim=1).to(torch.uint8)


@torch.no_grad()
def whole_image(model: Segmentor, image: Tensor) -> Tensor:
    """Logits [B, K, H, W] of images [B, 3, H, W] by one forward pass."""
    return model(image)["out"]


@torch.no_grad()
def sliding_window(
    model: Segmentor, image: Tensor, *, window: tuple[int, int], stride: float = 0.667, batch_size: int = 1
) -> Tensor:
    """Logits of overlapping windows, averaged where they overlap.

    Images smaller than the window on either side are evaluated whole. Windows are summed as they come, so that memory
    grows with ``batch_size`` and not with their number.

    Args:
        model: the segmentor, in evaluation mode.
        image: [B, 3, H, W].
        window: its (width, height) in pixels.
        stride: as a part of the window, in (0, 1]; rounded down to pixels.
        batch_size: windows in one forward pass.

    Returns:
        float32 [B, K, H, W] on the image's device.
    """
    height, width = image.shape[-2:]
    window_width, window_height = window
    if height < window_height or width < window_width:
        return whole_image(model, image).float()
    rows = window_starts(height, window_height, _pixels(window_height, stride))
    columns = window_starts(width, window_width, _pixels(window_width, stride))
    corners = [(index, top, left) for index in range(len(image)) for top in rows for left in columns]
    total = None
    for first in range(0, len(corners), batch_size):
        regions = [
            (slice(index, index + 1), slice(None), slice(top, top + window_height), slice(left, left + window_width))
            for index, top, left in corners[first : first + batch_size]
        ]
        logits = model(torch.cat([image[region] for region in regions]))["out"]
        if total is None:
            total = logits.new_zeros(len(image), logits.shape[1], height, width, dtype=torch.float32)
        for region, window_logits in zip(regions, logits, strict=True):
            total[region] += window_logits
    total /= _coverage(height, window_height, rows, image.device)[:, None]
    total /= _coverage(width, window_width, columns, image.device)
    return total


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along a side of ``length`` >= ``window`` pixels.

    0, stride, 2 stride, ... while the window fits, then length - window if the last one does not reach the end.
    """
    last = length - window
    return [*range(0, last, stride), last]


def _pixels(window: int, stride: float) -> int:
    return max(1, int(window * stride))


def _coverage(length: int, window: int, starts: list[int], device: torch.device) -> Tensor:
    """How many windows cover each pixel of a side: float32 [length]."""
    covered = torch.zeros(length, device=device)
    for start in starts:
        covered[start : start + window] += 1
    return covered
