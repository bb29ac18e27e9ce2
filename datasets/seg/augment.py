"""Random geometry and brightness of a training sample, worked out on the region that the crop shows alone."""

from dataclasses import dataclass

import cv2
import numpy as np

from lib.errors import UserError

DRIFT = 1 / 1024
"""How far, in source pixels, a partial resize may lie beside the full one: a quarter grey level at an edge of 255."""


@dataclass(frozen=True)
class Augmentation:
    """What is random about a training sample, in the order of the DNL recipes: resize, crop, brightness, flip.

    Attributes:
        crop_size: (width, height) of every training image, in pixels.
        scale: range of the uniform resize factor.
        aspect: range of the uniform aspect a; the width is scaled by sqrt(a), the height by sqrt(1 / a).
        brightness: largest absolute value of the whole-number shift on the 0..255 scale; 0 switches it off.
        flip: probability of a horizontal flip.
        short_side: length in pixels that the shorter side is brought to before the random resize; 0 leaves it.
    """

    crop_size: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    aspect: tuple[float, float] = (0.9, 1.1)
    brightness: int = 10
    flip: float = 0.5
    short_side: int = 0

    def __post_init__(self) -> None:
        for name in ("scale", "aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise UserError(f"{name} [{low}, {high}] is not a range: give 0 < lowest <= highest")
        if min(self.crop_size) < 1:
            raise UserError(f"crop_size {list(self.crop_size)} is not [width, height] in pixels, both at least 1")
        if self.brightness < 0 or self.short_side < 0 or not 0 <= self.flip <= 1:
            raise UserError("brightness and short_side must be at least 0, and flip a probability between 0 and 1")


@dataclass(frozen=True)
class Window:
    """A part of a resized image: columns left .. left + width, rows top .. top + height, all inside it.

    Attributes:
        resized: (width, height) of the whole image after the resize.
        left, top, width, height: the part, in pixels of the resized image.
    """

    resized: tuple[int, int]
    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Draw:
    """The outcome of all random choices for one sample.

    Attributes:
        window: the part of the resized image that the crop shows.
        offset: (x, y) of that part in the crop; above (0, 0) only where the resized image is smaller than the crop.
        shift: added to every channel, saturating at 0 and 255.
        flip: whether the crop, its padding included, is mirrored left to right.
    """

    window: Window
    offset: tuple[int, int]
    shift: int
    flip: bool


def draw(augmentation: Augmentation, size: tuple[int, int], rng: np.random.Generator) -> Draw:
    """Make the random choices for an image of ``size`` (height, width).

    The crop lies uniformly among all positions inside the resized image. Where that is smaller than the crop along a
    side, it lies uniformly among all positions inside the crop instead, and the rest is padding.
    """
    height, width = size
    scale = rng.uniform(*augmentation.scale)
    aspect = rng.uniform(*augmentation.aspect)
    if augmentation.short_side:
        scale *= augmentation.short_side / min(height, width)
    resized = (max(1, round(width * scale * aspect**0.5)), max(1, round(height * scale / aspect**0.5)))
    slack = [whole - part for whole, part in zip(resized, augmentation.crop_size, strict=True)]
    x, y = (int(rng.integers(min(0, free), max(0, free), endpoint=True)) for free in slack)
    window = Window(
        resized,
        left=max(0, x),
        top=max(0, y),
        width=min(resized[0], augmentation.crop_size[0]),
        height=min(resized[1], augmentation.crop_size[1]),
    )
    shift = int(rng.integers(-augmentation.brightness, augmentation.brightness, endpoint=True))
    return Draw(window, offset=(max(0, -x), max(0, -y)), shift=shift, flip=bool(rng.random() < augmentation.flip))


def source_rows(window: Window, height: int) -> int:
    """How many of the first rows of an image ``height`` pixels high and of its label the part in ``window`` needs."""
    # Bilinear sampling reaches no less far than the nearest pixel.
    return _source_span(window.top, window.height, height, window.resized[1])[1].stop


def resize_image(image: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
    """Resize ``image`` bilinearly and return the part in ``window``, touching only the source pixels it needs.

    Equal to ``cv2.resize(image, window.resized)`` and cropping, but for a grey level where ``DRIFT`` tips the rounding.

    Args:
        image: uint8 [>= source_rows, W, C]; rows that the window does not need may be missing at the bottom.
        window: the part.
        size: (H, W) of the image with all its rows.

    Returns:
        uint8 [window.height, window.width, C].
    """
    height, width = size
    x_skip, columns, x_factor = _source_span(window.left, window.width, width, window.resized[0])
    y_skip, rows, y_factor = _source_span(window.top, window.height, height, window.resized[1])
    resized = cv2.resize(image[rows, columns], None, fx=x_factor, fy=y_factor, interpolation=cv2.INTER_LINEAR)
    return resized[y_skip : y_skip + window.height, x_skip : x_skip + window.width]


def resize_label(label: np.ndarray, window: Window, size: tuple[int, int], flip: bool = False) -> np.ndarray:
    """Resize ``label`` to the nearest pixel and return the part in ``window``, mirrored if ``flip``.

    Equal to ``cv2.resize(label, window.resized, interpolation=cv2.INTER_NEAREST)``, cropping and mirroring.

    Args:
        label: uint8 [>= source_rows, W]; rows that the window does not need may be missing at the bottom.
        window: the part.
        size: (H, W) of the label with all its rows.
        flip: whether to mirror the part left to right.

    Returns:
        uint8 [window.height, window.width].
    """
    rows = _nearest(window.top, window.height, size[0], window.resized[1])
    columns = _nearest(window.left, window.width, size[1], window.resized[0])
    first, last = columns[0], columns[-1]
    columns = columns[::-1] if flip else columns
    return np.take(label[rows, first : last + 1], columns - first, axis=1)


def _nearest(start: int, count: int, source: int, resized: int) -> np.ndarray:
    """Source positions of ``count`` resized positions from ``start`` on, by OpenCV's rule floor(position * step)."""
    step = 1 / (resized / source)
    return np.minimum(np.floor(np.arange(start, start + count) * step).astype(np.intp), source - 1)


def _source_span(start: int, count: int, source: int, resized: int) -> tuple[int, slice, float]:
    """Choose the source positions to resize so that ``count`` resized positions from ``start`` on come out right.

    ``cv2.resize`` samples position i at (i + 0.5) * step - 0.5, so a part that begins at source position n is sampled
    where the whole would be only if n = first * step for a whole number ``first``. The nearest ``first`` before
    ``start`` for which that holds within ``DRIFT`` is taken; 0 always qualifies.

    Returns:
        How many resized positions to skip, the span of source positions, and the resize factor.
    """
    factor = resized / source
    step = 1 / factor
    # The first sample must not reach before the span, where OpenCV would repeat the border: (i + 0.5) * step >= 0.5.
    margin = max(0, int(np.ceil(0.5 * factor - 0.5)))
    candidates = np.arange(max(0, start - margin), -1, -1)
    begins = candidates * step
    found = int(np.argmax(np.abs(begins - np.rint(begins)) <= DRIFT))
    first, begin = int(candidates[found]), round(float(begins[found]))
    end = min(source, int(np.ceil((start + count) * step)) + 2)
    return start - first, slice(begin, end), factor
