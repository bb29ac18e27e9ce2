"""From an image to the logits of all its pixels, by the validation protocols, on the image's device throughout."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.seg.pixels import Pixels
from lib import resizing
from lib.base.errors import UserError
from lib.resizing import Size

Segmentor = Callable[[Tensor], dict[str, Tensor]]
"""image [B, C, H, W] -> {"out": logits [B, K, H, W], ...}"""

Stride = float | tuple[float, float]
"""Step between windows: up to 1 as a part of the window, rounded down to pixels, above 1 in pixels; (across, down)
where the two differ."""

WINDOWS = ("torchcv", "mmseg")
OPENCV_FLAGS = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}

CLASSES_AT_ONCE = 16
"""Classes that are brought to the image's size together before they are added to the others' sum."""


def predictor(
    mode: str, *, scales: Sequence[float] = (1.0,), flip: bool = False, combine: str = "sum", **settings
) -> "Predictor":
    """The inference of a validation protocol.

    Args:
        mode: "ss" (single scale, the whole image at once), "sscrop" (single scale, sliding windows), "ms" or "mscrop"
            (the same at several scales).
        scales, flip, combine: as for ``Predictor``; without effect in modes "ss" and "sscrop".
        settings: the other arguments of ``Predictor``.

    Raises:
        UserError: for an unknown mode or settings that cannot be.
    """
    if mode not in ("ss", "sscrop", "ms", "mscrop"):
        raise UserError(f"unknown validation mode '{mode}': choose ss, sscrop, ms or mscrop")
    if mode.startswith("ms"):
        settings |= {"scales": tuple(scales), "flip": flip, "combine": combine}
    return Predictor(slides=mode.endswith("crop"), **settings)


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Inference on whole images or sliding windows, at one or more scales: a function of model and image.

    Attributes:
        slides: by sliding windows rather than whole.
        window: (width, height) of the windows, in pixels.
        stride: as for ``sliding_window``.
        windows: of an image below the window on one side: "torchcv" shows it whole, "mmseg" clips the window there and
            slides along the other side.
        batch_size: windows in one forward pass. An image and its mirror image go through the network together where
            their pixels are no more than that, one after the other where they are more.
        resize: how an image comes to the sizes of its scales, a key of ``lib.resizing.WAYS``: "centres" (between pixel
            centres, in one step, nothing rounded), "torchcv" (whole grey levels to ``short_side``, then aligned
            corners) or "mmseg" (whole grey levels, sizes rounded twice).
        pixels: how images were normalised; with None "torchcv" and "mmseg" do not round grey levels.
        short_side: the image is resized so that its shorter side has this many pixels; 0 leaves it as it is.
        long_side: with ``short_side``: a smaller factor where the longer side would exceed this; 0 for no bound.
        pad_multiple: the resized image is padded with 0, the mean colour, at the right and the bottom until both sides
            are multiples of this; the logits of the padding are cut off.
        scales: factors of the image's size, on top of ``short_side``.
        flip: whether the image mirrored left to right is evaluated as well.
        combine: "sum" or "mean" of the logits of scales and flips, or "softmax": the mean of their probabilities.
        interpolation: "bilinear" or "bicubic" (the kernel of ``cv2.INTER_CUBIC``), from the resized image's size to
            the image's own.
        align_corners: whether bilinear interpolation of logits aligns corners, as the model's own does.

    Raises:
        UserError: for settings that cannot be.
    """

    slides: bool
    window: tuple[int, int]
    stride: Stride = 0.667
    windows: str = "torchcv"
    batch_size: int = 1
    resize: str = "centres"
    pixels: Pixels | None = None
    short_side: int = 0
    long_side: int = 0
    pad_multiple: int = 1
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    combine: str = "sum"
    interpolation: str = "bilinear"
    align_corners: bool = False

    def __post_init__(self) -> None:
        if min(self.window) < 1:
            raise UserError(
                f"window {self.window[0]} x {self.window[1]} is empty: give a width and a height of at least 1"
            )
        for stride, side in zip(_pair(self.stride), self.window, strict=True):
            most = side if isinstance(self.stride, tuple) else min(self.window)
            if not 0 < stride <= most:
                raise UserError(
                    f"window stride {stride} would leave gaps or stand still: choose a part of the window in 0..1, or "
                    f"pixels up to {most}"
                )
        if self.batch_size < 1 or self.pad_multiple < 1:
            raise UserError(
                f"batch_size {self.batch_size} and pad_multiple {self.pad_multiple} must both be at least 1"
            )
        if not self.scales or min(self.scales) <= 0:
            raise UserError(f"scales {list(self.scales)} must be one or more positive factors")
        for name, choices in (
            ("combine", ("sum", "mean", "softmax")),
            ("interpolation", ("bilinear", "bicubic")),
            ("resize", resizing.WAYS),
            ("windows", WINDOWS),
        ):
            if getattr(self, name) not in choices:
                raise UserError(f"{name} '{getattr(self, name)}' is unknown: choose {', '.join(choices)}")

    @torch.no_grad()
    def __call__(self, model: Segmentor, image: Tensor) -> Tensor:
        """Logits, float32 [B, K, H, W] (probabilities with ``combine`` "softmax"), of normalised images [B, C, H, W].

        Beside the forward passes this holds the sum over the views and the logits of those in work, for "softmax" once
        more at the image's size.
        """
        size = tuple(image.shape[-2:])
        total = None
        for resized in self._resizing.images(image, self.scales):
            for mirrored in self._groups(resized):
                total = self._add_views(total, model, resized, mirrored, size)
        if self.combine != "sum":
            total /= len(self.scales) * (1 + self.flip)
        return total

    def scaled_size(self, size: Size, scale: float) -> Size:
        """The size at which an image of ``size`` is evaluated: short and long side first, then the scale."""
        return self._resizing.size(size, scale)

    def shown(self, image: Tensor) -> tuple[Tensor, Size]:
        """Images [B, C, H, W] as the model is shown them whole at scale 1, padded, and their size without padding."""
        (resized,) = self._resizing.images(image, (1.0,))
        return self._padded(resized), tuple(resized.shape[-2:])

    def _padded(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        padding = (0, -width % self.pad_multiple, 0, -height % self.pad_multiple)
        return F.pad(image, padding) if any(padding) else image

    @property
    def _resizing(self) -> resizing.Resizing:
        way = resizing.WAYS[self.resize]
        return way(short_side=self.short_side, long_side=self.long_side, pixels=self.pixels)

    def _groups(self, image: Tensor) -> list[list[bool]]:
        """Which views of ``image`` are evaluated together; True stands for the mirrored one."""
        views = [False, True] if self.flip else [False]
        pixels = len(views) * len(image) * image.shape[-2] * image.shape[-1]
        fits = pixels <= self.batch_size * self.window[0] * self.window[1]
        return [views] if fits else [[view] for view in views]

    def _add_views(
        self, total: Tensor | None, model: Segmentor, image: Tensor, mirrored: list[bool], size: Size
    ) -> Tensor:
        """Add to ``total`` (None: start it) what the model says of ``image`` and its mirror image, at ``size``."""
        views = [image.flip(-1) if mirror else image for mirror in mirrored]
        views = views[0] if len(views) == 1 else torch.cat(views)
        logits = self._logits(model, views).split(len(image))
        for view, mirror in zip(logits, mirrored, strict=True):
            total = self._add(total, view.flip(-1) if mirror else view, size)
        return total

    def _logits(self, model: Segmentor, image: Tensor) -> Tensor:
        """Float32 [B, K, h, w] of resized images [B, C, h, w], padded on the way."""
        height, width = image.shape[-2:]
        padded = self._padded(image)
        if self.slides:
            logits = sliding_window(
                model,
                padded,
                window=self.window,
                stride=self.stride,
                batch_size=self.batch_size,
                clip=self.windows == "mmseg",
            )
        else:
            logits = whole_image(model, padded).float()
        return logits[..., :height, :width]

    def _add(self, total: Tensor | None, logits: Tensor, size: Size) -> Tensor:
        """Add one view's logits or probabilities at the image's size to ``total``, in place unless it is None."""
        align_corners = self.align_corners and self.interpolation == "bilinear"
        if total is None or self.combine == "softmax":
            resized = resize_logits(logits, size, self.interpolation, align_corners)
            if self.combine == "softmax":
                softmax_(resized)
            return resized if total is None else total.add_(resized)
        for some, target in zip(logits.split(CLASSES_AT_ONCE, 1), total.split(CLASSES_AT_ONCE, 1), strict=True):
            target += resize_logits(some, size, self.interpolation, align_corners)
        return total


def predict(logits: Tensor) -> Tensor:
    """Train ids, uint8 [B, H, W], of logits [B, K, H, W]: the class with the largest logit."""
    return logits.max(dim=1).indices.to(torch.uint8)  # on a CPU three times as fast as argmax


@torch.no_grad()
def whole_image(model: Segmentor, image: Tensor) -> Tensor:
    """Logits [B, K, H, W] of images [B, C, H, W] by one forward pass."""
    return model(image)["out"]


@torch.no_grad()
def sliding_window(
    model: Segmentor,
    image: Tensor,
    *,
    window: tuple[int, int],
    stride: Stride = 0.667,
    batch_size: int = 1,
    clip: bool = False,
) -> Tensor:
    """Logits of overlapping windows, averaged where they overlap.

    Windows are summed as they come, so that memory grows with ``batch_size`` and not with their number.

    Args:
        model: the segmentor, in evaluation mode.
        image: [B, C, H, W].
        window: its (width, height) in pixels.
        stride: step between windows, along each side of the ``window`` as it is given.
        batch_size: windows in one forward pass.
        clip: whether an image smaller than the window on one side is evaluated in windows as small as it on that side;
            otherwise one that is smaller on either side is evaluated whole.

    Returns:
        float32 [B, K, H, W] on the image's device.
    """
    height, width = image.shape[-2:]
    across, down = step_pixels(window, stride)
    window_width, window_height = (min(window[0], width), min(window[1], height)) if clip else window
    if height < window_height or width < window_width or (clip and (height, width) == (window_height, window_width)):
        return whole_image(model, image).float()
    rows = window_starts(height, window_height, down)
    columns = window_starts(width, window_width, across)
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
    total /= coverage(height, window_height, rows, image.device)[:, None]
    total /= coverage(width, window_width, columns, image.device)
    return total


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along a side of ``length`` >= ``window`` pixels.

    0, stride, 2 stride, ... while the window fits, then length - window if the last one does not reach the end.
    """
    last = length - window
    return [*range(0, last, stride), last]


def resize_logits(logits: Tensor, size: Size, interpolation: str, align_corners: bool) -> Tensor:
    """Float32 logits [B, K, h, w] at ``size``, "bilinear" or "bicubic"; the tensor itself where it has that size."""
    if tuple(logits.shape[-2:]) == size:
        return logits
    if logits.device.type != "cpu" or align_corners:
        return F.interpolate(logits, size, mode=interpolation, align_corners=align_corners)
    # On a CPU OpenCV does the same several times as fast.
    resized = logits.new_empty(*logits.shape[:2], *size)
    for plane, target in zip(logits.flatten(0, 1).numpy(), resized.flatten(0, 1).numpy(), strict=True):
        cv2.resize(plane, size[::-1], dst=target, interpolation=OPENCV_FLAGS[interpolation])
    return resized


def softmax_(logits: Tensor) -> Tensor:
    """Turn logits [B, K, H, W] into probabilities without a second tensor of their size."""
    logits -= logits.amax(dim=1, keepdim=True)
    logits.exp_()
    logits /= logits.sum(dim=1, keepdim=True)
    return logits


def _pair(stride: Stride) -> tuple[float, float]:
    return stride if isinstance(stride, tuple) else (stride, stride)


def step_pixels(window: tuple[int, int], stride: Stride) -> tuple[int, int]:
    """The step between windows in pixels, (across, down), of a ``window`` as it is given, (width, height)."""
    across, down = (
        max(1, int(side * step)) if step <= 1 else int(step) for side, step in zip(window, _pair(stride), strict=True)
    )
    return across, down


def coverage(length: int, window: int, starts: list[int], device: torch.device) -> Tensor:
    """How many windows cover each pixel of a side: float32 [length]."""
    covered = torch.zeros(length, device=device)
    for start in starts:
        covered[start : start + window] += 1
    return covered
