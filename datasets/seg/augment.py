"""Random geometry of a training sample, worked out on the region that the crop shows alone."""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from datasets.seg.photometric import Distortion, draw_distortion
from lib.base.errors import UserError

DRIFT = 1 / 1024
"""How far, in source pixels, a partial resize may lie beside the full one: a quarter grey level at an edge of 255."""

REDRAWS = 10
"""How often at most a crop in which one class prevails is drawn again."""

RESIZES = ("once", "twice", "mmseg")
"""How an image comes to its random size, and in which order it is mirrored and padded: ``Augmentation.resize``."""


@dataclass(frozen=True)
class Augmentation:
    """What is random about a training sample, in this order: resize, rotation, crop, colours, brightness, flip.

    With ``resize`` other than "once", samples are bit for bit those of the published code with the same choices.

    Attributes:
        crop_size: (width, height) of every training image, in pixels.
        scale: range of the uniform resize factor.
        aspect: range of the uniform aspect a; the width is scaled by sqrt(a), the height by sqrt(1 / a).
        rotation: largest absolute value of the uniform angle by which the image is turned about its centre, in degrees.
        category_max_ratio: largest share that one class may have of a crop's pixels that count, 0..1; a crop where one
            has more, or where none count, is drawn again, ``REDRAWS`` times at most. 1 takes every crop.
        photometric: whether colours are distorted, as ``datasets.seg.photometric`` says.
        brightness: largest absolute value of the whole-number shift on the 0..255 scale; 0 switches it off.
        flip: probability of a horizontal flip.
        short_side: length in pixels that the shorter side is brought to before the random resize; 0 leaves it.
        long_side: with ``short_side``, most pixels that the longer side may get before the random resize; 0: any.
        resize: "once": to the short side and by the random factor in one resize, sides rounded to nearest; mirrored
            last, its padding included. "twice", as torchcv does on ADE20K and PASCAL: mirrored; resized to the short
            side, sides rounded to nearest; resized by the random factor, sides rounded down. "mmseg", as
            mmsegmentation does: short and long side (unless set, the image's own) times the factor, rounded down, are
            what one resize fits the image into, sides rounded half up; mirrored after the crop, then padded at the
            right and the bottom; a class must have less than ``category_max_ratio``, colours are rounded down.
    """

    crop_size: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    aspect: tuple[float, float] = (0.9, 1.1)
    brightness: int = 10
    flip: float = 0.5
    short_side: int = 0
    long_side: int = 0
    rotation: float = 0.0
    category_max_ratio: float = 1.0
    photometric: bool = False
    resize: str = "once"

    def __post_init__(self) -> None:
        for name in ("scale", "aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise UserError(f"{name} [{low}, {high}] is not a range: give 0 < lowest <= highest")
        if min(self.crop_size) < 1:
            raise UserError(f"crop_size {list(self.crop_size)} is not [width, height] in pixels, both at least 1")
        for name in ("brightness", "short_side", "long_side", "rotation"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} {getattr(self, name)} must be at least 0")
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip {self.flip} must be a probability between 0 and 1")
        if not 0 < self.category_max_ratio <= 1:
            raise UserError(f"category_max_ratio {self.category_max_ratio} must be a share above 0 and at most 1")
        if self.resize not in RESIZES:
            raise UserError(f"resize '{self.resize}' is unknown: choose one of {', '.join(RESIZES)}")


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
        flip: whether it is mirrored left to right: as ``resize`` says, the crop with its padding ("once"), the image
            before all else ("twice") or the part in ``window`` ("mmseg").
        angle: by which the resized image is turned about its centre before it is cropped, degrees counterclockwise.
        distortion: of the colours, before ``shift``; None leaves them.
        resize: ``Augmentation.resize``.
        between: (width, height) that the image is brought to before it gets ``window.resized``, none or one.
    """

    window: Window
    offset: tuple[int, int]
    shift: int
    flip: bool
    angle: float = 0.0
    distortion: Distortion | None = None
    resize: str = "once"
    between: tuple[tuple[int, int], ...] = ()


def fit_factor(size: tuple[int, int], short_side: int, long_side: int) -> float:
    """The factor that brings the shorter side of ``size`` to ``short_side``, the longer one to ``long_side`` at most.

    1 where ``short_side`` is 0; where only ``long_side`` is, the longer side may get any length.
    """
    if not short_side:
        return 1.0
    factor = short_side / min(size)
    return min(factor, long_side / max(size)) if long_side else factor


def draw(augmentation: Augmentation, size: tuple[int, int], rng: np.random.Generator) -> Draw:
    """Make the random choices for an image of ``size`` (height, width).

    The crop lies uniformly among all positions inside the resized image. Where that is smaller than the crop along a
    side, it lies uniformly among all positions inside the crop instead, and the rest is padding.
    """
    scale = rng.uniform(*augmentation.scale)
    aspect = rng.uniform(*augmentation.aspect)
    *between, resized = resized_sizes(augmentation, size, scale, aspect)
    window, offset = _draw_position(augmentation, resized, rng)
    shift = int(rng.integers(-augmentation.brightness, augmentation.brightness, endpoint=True))
    flip = bool(rng.random() < augmentation.flip)
    angle = rng.uniform(-augmentation.rotation, augmentation.rotation) if augmentation.rotation else 0.0
    distortion = draw_distortion(rng, augmentation.resize == "mmseg") if augmentation.photometric else None
    return Draw(window, offset, shift, flip, angle, distortion, augmentation.resize, tuple(between))


def resized_sizes(
    augmentation: Augmentation, size: tuple[int, int], scale: float, aspect: float
) -> list[tuple[int, int]]:
    """(width, height), at least 1 x 1, after each resize of an image of ``size`` (height, width).

    The roundings of "twice" are those of torchcv's ``Resize`` and ``RandomResize``, those of "mmseg" of mmcv's
    ``RandomResize`` and ``rescale_size``.
    """
    height, width = size
    if augmentation.resize == "mmseg":
        longest = augmentation.long_side if augmentation.short_side else max(size)
        factor = int((augmentation.short_side or min(size)) * scale) / min(size)
        factor = min(factor, int(longest * scale) / max(size)) if longest else factor
        across, down = math.sqrt(aspect) * factor, math.sqrt(1 / aspect) * factor
        return [(max(1, int(width * across + 0.5)), max(1, int(height * down + 0.5)))]
    factor = fit_factor(size, augmentation.short_side, augmentation.long_side)
    if augmentation.resize == "once":
        scale *= factor
        return [(max(1, round(width * scale * aspect**0.5)), max(1, round(height * scale / aspect**0.5)))]
    first = (max(1, round(width * factor)), max(1, round(height * factor)))
    across, down = math.sqrt(aspect) * scale, math.sqrt(1 / aspect) * scale
    return [first, (max(1, int(first[0] * across)), max(1, int(first[1] * down)))]


def redraw_position(augmentation: Augmentation, chosen: Draw, rng: np.random.Generator) -> Draw:
    """``chosen`` with another position of the crop in the resized image."""
    window, offset = _draw_position(augmentation, chosen.window.resized, rng)
    return replace(chosen, window=window, offset=offset)


def _draw_position(
    augmentation: Augmentation, resized: tuple[int, int], rng: np.random.Generator
) -> tuple[Window, tuple[int, int]]:
    """The part of the resized image that the crop shows, and where in the crop that lies."""
    slack = [whole - part for whole, part in zip(resized, augmentation.crop_size, strict=True)]
    x, y = (int(rng.integers(min(0, free), max(0, free), endpoint=True)) for free in slack)
    window = Window(
        resized,
        left=max(0, x),
        top=max(0, y),
        width=min(resized[0], augmentation.crop_size[0]),
        height=min(resized[1], augmentation.crop_size[1]),
    )
    return window, (0, 0) if augmentation.resize == "mmseg" else (max(0, -x), max(0, -y))


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
    rows = nearest(np.arange(window.top, window.top + window.height), size[0], window.resized[1])
    columns = nearest(np.arange(window.left, window.left + window.width), size[1], window.resized[0])
    first, last = columns[0], columns[-1]
    columns = columns[::-1] if flip else columns
    return np.take(label[rows, first : last + 1], columns - first, axis=1)


def turn_image(image: np.ndarray, window: Window, size: tuple[int, int], angle: float) -> np.ndarray:
    """Resize ``image`` bilinearly, turn it about its centre and return the part in ``window``, in one interpolation.

    Args:
        image: uint8 [H, W, C].
        window: the part of the resized image's frame, which stays where it is.
        size: (H, W).
        angle: degrees, counterclockwise.

    Returns:
        uint8 [window.height, window.width, C]; what comes from outside the image repeats its border.
    """
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    part = (window.width, window.height)
    return cv2.warpAffine(image, _source_of(window, size, angle), part, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def turn_label(label: np.ndarray, window: Window, size: tuple[int, int], angle: float, outside: int) -> np.ndarray:
    """``turn_image`` for a label, uint8 [H, W], by the nearest pixel; ``outside`` is what comes from outside."""
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    part = (window.width, window.height)
    return cv2.warpAffine(label, _source_of(window, size, angle), part, flags=flags, borderValue=outside)


def _source_of(window: Window, size: tuple[int, int], angle: float) -> np.ndarray:
    """The affine map [2, 3] from pixels (x, y) of the part in ``window`` to pixels of the image before resize and turn.

    Centres of pixels have whole coordinates here; the resize matches the edges, half a pixel before and after them.
    """
    resized = np.array(window.resized)
    back = cv2.getRotationMatrix2D(((resized - 1) / 2).tolist(), -angle, 1.0)
    turn, shift = back[:, :2], back[:, 2] + back[:, :2] @ (window.left, window.top)
    step = np.array(size[::-1]) / resized
    return np.column_stack([step[:, None] * turn, (shift + 0.5) * step - 0.5])


def nearest(positions: np.ndarray, source: int, resized: int) -> np.ndarray:
    """Source positions of ``positions`` along a resized side, by OpenCV's rule floor(position * step)."""
    step = 1 / (resized / source)
    return np.minimum(np.floor(positions * step).astype(np.intp), source - 1)


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
