"""Images of any number of bands, as samples are made of them: 8-bit pictures in the fast way, others in theirs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from datasets.seg.archive import ZipPath
from datasets.seg.files import ImageFile, open_image
from datasets.seg.raster import RasterFile
from lib.base.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg")
AT_ONCE = 3
"""Bands that OpenCV turns and resizes together: as many as a picture has, for which it rounds the same way."""
SHOWN = (2.0, 98.0)
"""Percentiles of a band that a picture shows as black and white."""
SAMPLES = 1 << 20
"""Values of a band of which percentiles are taken at most."""


class BandImage:
    """An image of ``bands`` bands whose first rows can be decoded without the rest, as ``ImageFile`` is for pictures.

    Args:
        path: a file that ``RasterFile`` reads.
        bands: as many as it has; of one with 2 or 4 bands opacity is one. Grey may stand for three equal ones.

    Attributes:
        size: (height, width) in pixels.

    Raises:
        UserError: the file is unreadable, or it has another number of bands.
    """

    def __init__(self, path: Path | ZipPath, bands: int) -> None:
        self.file = RasterFile(path, alpha=bands in (2, 4))
        self.bands, self.size = bands, self.file.size
        if self.file.bands not in (bands, 1 if bands == 3 else bands):
            raise UserError(
                f"{path} has {self.file.bands} band{'s' * (self.file.bands > 1)}, data.bands is {bands}: "
                f"set data.bands, data.mean and data.std for what the images have, or prepare them with {bands}"
            )

    def decode(self, rows: int | None = None) -> np.ndarray:
        """Decode the first ``rows`` rows (None = all): uint8, uint16 or float32 [rows, W, bands], three in BGR."""
        pixels = self.file.decode(rows)
        if self.bands != 3:
            return pixels
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels[..., ::-1])


def open_bands(path: Path | ZipPath, bands: int) -> ImageFile | BandImage:
    """Open an image of ``bands`` bands; raises UserError if it is unreadable or has others.

    A PNG or JPEG of three bands is an 8-bit picture whatever it holds: grey is made colour, opacity is left out.
    """
    if bands == 3 and path.suffix.lower() in PICTURES:
        return open_image(path)
    return BandImage(path, bands)


def by_bands(change: Callable[..., np.ndarray], image: np.ndarray, *options: object) -> np.ndarray:
    """``change(image, *options)`` of an image [H, W, C] to another, a few at a time: OpenCV turns four at most."""
    bands = image.shape[2]
    if bands == AT_ONCE:
        return change(image, *options)
    parts = []
    for first in range(0, bands, AT_ONCE):
        part = image[..., first : first + AT_ONCE]
        if part.shape[2] == 2:
            # OpenCV turns two bands by another rounding than one and three.
            part = np.concatenate([part, part[..., :1]], axis=2)
        changed = change(part, *options)
        # It drops the last axis of a single band.
        parts.append(changed.reshape(*changed.shape[:2], -1)[..., : bands - first])
    return np.concatenate(parts, axis=2)


def read_picture(path: Path | ZipPath) -> np.ndarray:
    """A picture of an image file of any kind, uint8 [H, W, 3], RGB, to look at.

    Of an 8-bit image of one or three bands its levels, of another what ``as_picture`` shows; raises UserError as
    ``RasterFile`` does.
    """
    pixels = RasterFile(path).decode()
    if pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3):
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    return as_picture(pixels)


def as_picture(values: np.ndarray) -> np.ndarray:
    """A picture of an image of any bands and values, [H, W, C]: uint8 [H, W, 3].

    Shown are the first three bands in their order, each from its 2nd to its 98th percentile; of one or two bands the
    first, in grey. What is not finite is black.
    """
    chosen = range(3) if values.shape[2] >= 3 else range(1)
    planes = [_stretched(values[..., band]) for band in chosen]
    return np.dstack(planes if len(planes) == 3 else planes * 3)


def _stretched(plane: np.ndarray) -> np.ndarray:
    sample = plane.ravel()[:: 1 + plane.size // SAMPLES]
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, SHOWN) if len(sample) else (0.0, 0.0)
    # In double precision, where the range of a float32 does not overflow.
    plane = np.where(np.isfinite(plane), plane, low).astype(np.float64)
    return np.clip((plane - low) * (255 / max(high - low, 1e-30)), 0, 255).round().astype(np.uint8)
