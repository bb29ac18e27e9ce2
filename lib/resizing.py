"""The sizes at which a network is shown an image, and how the image is brought to them: one class for each way."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.seg.augment import fit_factor
from datasets.seg.pixels import Pixels

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """A way of resizing normalised images [B, C, H, W].

    Attributes:
        short_side: the shorter side is brought to this many pixels before any scale; 0 leaves it as it is.
        long_side: with ``short_side``: a smaller factor where the longer side would exceed this; 0 for no bound.
        pixels: how the images were normalised. Where a way resizes grey levels, they are rounded to whole ones if this
            is given, as ``cv2.resize`` does, and stay fractions if it is None. Images of other than three bands, or of
            other values than whole ones from 0 to 255, are resized as they are.
    """

    short_side: int = 0
    long_side: int = 0
    pixels: Pixels | None = None

    def size(self, size: Size, scale: float) -> Size:
        """The size at which an image of ``size`` is shown at ``scale``; no side is less than one pixel."""
        raise NotImplementedError

    def images(self, image: Tensor, scales: Sequence[float]) -> Iterator[Tensor]:
        """The image at each of ``scales``, in order; each is made when it is asked for."""
        raise NotImplementedError


class BetweenCentres(Resizing):
    """In one step, between pixel centres and without antialiasing, to the nearest whole size; nothing is rounded."""

    def size(self, size: Size, scale: float) -> Size:
        factor = fit_factor(size, self.short_side, self.long_side)
        return _at_least_one(int(side * factor * scale + 0.5) for side in size)

    def images(self, image: Tensor, scales: Sequence[float]) -> Iterator[Tensor]:
        for scale in scales:
            size = self.size(_size(image), scale)
            yield image if size == _size(image) else F.interpolate(image, size, mode="bilinear")


class LevelsThenAligned(Resizing):
    """As torchcv: the grey levels to the short and long side, then the normalised image by the scale.

    The second step aligns the centres of the corner pixels, and its size is rounded down.
    """

    def size(self, size: Size, scale: float) -> Size:
        return _at_least_one(int(side * scale) for side in self._fitted(size))

    def images(self, image: Tensor, scales: Sequence[float]) -> Iterator[Tensor]:
        (fitted,) = resize_levels(image, [self._fitted(_size(image))], self.pixels)
        for scale in scales:
            size = self.size(_size(image), scale)
            same = size == _size(fitted)
            yield fitted if same else F.interpolate(fitted, size, mode="bilinear", align_corners=True)

    def _fitted(self, size: Size) -> Size:
        factor = fit_factor(size, self.short_side, self.long_side)
        return _at_least_one(round(side * factor) for side in size)


class LevelsFromBase(Resizing):
    """As mmsegmentation 0.x: the grey levels, once for each scale, to the short and long side times the scale.

    Those products are rounded down, then the size that fits into them to the nearest. Without a short side the scale
    is one of the image's own size, as mmsegmentation 1.x has it everywhere.
    """

    def size(self, size: Size, scale: float) -> Size:
        factor = scale
        if self.short_side:
            # 0 would mean that there is no bound.
            short, long = (side and max(1, int(side * scale)) for side in (self.short_side, self.long_side))
            factor = fit_factor(size, short, long)
        return _at_least_one(int(side * factor + 0.5) for side in size)

    def images(self, image: Tensor, scales: Sequence[float]) -> Iterator[Tensor]:
        return resize_levels(image, [self.size(_size(image), scale) for scale in scales], self.pixels)


WAYS: dict[str, type[Resizing]] = {
    "centres": BetweenCentres,
    "torchcv": LevelsThenAligned,
    "mmseg": LevelsFromBase,
}


def resize_levels(image: Tensor, sizes: Iterable[Size], pixels: Pixels | None) -> Iterator[Tensor]:
    """Normalised images [B, C, H, W] at each of ``sizes``, resized bilinearly between pixel centres.

    With ``pixels`` OpenCV resizes the 8-bit grey levels, rounding to whole ones, which are normalised again; without,
    or if they are none, the images are resized as they are. Where an image has the size already, it is yielded itself.
    """
    levels = None
    if pixels is not None and not pixels.are_grey_levels(image):
        pixels = None
    for size in sizes:
        if size == _size(image):
            yield image
        elif pixels is None:
            yield F.interpolate(image, size, mode="bilinear")
        else:
            levels = levels or [pixels.restore(one) for one in image]
            resized = torch.empty(len(image), 3, *size)
            for source, target in zip(levels, resized.numpy(), strict=True):
                pixels.normalise(cv2.resize(source, size[::-1], interpolation=cv2.INTER_LINEAR), target)
            last = image.is_contiguous(memory_format=torch.channels_last)
            yield resized.to(image.device, memory_format=torch.channels_last if last else torch.contiguous_format)


def _size(image: Tensor) -> Size:
    return tuple(image.shape[-2:])


def _at_least_one(sides: Iterable[int]) -> Size:
    height, width = (max(1, side) for side in sides)
    return height, width
