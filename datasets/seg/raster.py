"""Reading an image of any number of bands and of 8 bits, 16 bits or floats; needs no PyTorch."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.WebPImagePlugin import WebPImageFile

from datasets.seg.archive import ZipPath
from datasets.seg.files import check_jpeg, read_content
from datasets.seg.jpeg import SOI, JpegError
from datasets.seg.npy import SIGNATURE as NPY
from datasets.seg.npy import Npy, NpyError
from datasets.seg.png import SIGNATURE as PNG
from datasets.seg.png import Png, PngError
from datasets.seg.tiff import Tiff, TiffError
from lib.base.errors import UserError
from lib.base.memory import require_memory

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".npy")
MOST_PIXELS = 1 << 30
MOST_BANDS = 4096
INFLATION = 1033
"""Bytes that one byte of deflate can stand for (RFC 1951: a match of 258 in two bits)."""
GREY, GREY_ALPHA = 0, 4
"""Colour types of PNG."""


class RasterFile:
    """An image file of any kind that is read, found whole as far as that can be told without decoding.

    ``.npy`` is an array [H, W] or [H, W, C]. A TIFF's bands are all its samples, or its pictures of one sample each;
    what GDAL marks as without data is NaN where numbers are floats or signed. Colours come in the file's order, RGB.

    Args:
        path: a PNG, JPEG, BMP, WebP, TIFF or ``.npy`` file, told apart by its contents.
        alpha: whether the opacity of a PNG or WebP is a further band; otherwise it is left out.

    Attributes:
        size: (height, width) in pixels.
        bands: C.
        dtype: of what ``decode`` gives: uint8, uint16 or float32.

    Raises:
        UserError: the file is unreadable, cut off, damaged, of another kind, or larger than any image.
    """

    def __init__(self, path: Path | ZipPath, alpha: bool = False) -> None:
        self.path, self.alpha = path, alpha
        self._source: Png | Tiff | Npy | None = None
        try:
            if path.suffix.lower() == ".npy":
                self._source = Npy.parse(path)
                self._set(self._source.size, self._source.bands, self._source.dtype)
            else:
                self._open(*read_content(path))
        except (PngError, JpegError, TiffError, NpyError) as error:
            raise self._bad(error) from error

    def decode(self, rows: int | None = None) -> np.ndarray:
        """Decode the first ``rows`` rows (None = all): uint8, uint16 or float32 [rows, W, C].

        Floats of 64 bits, and whole numbers of 32 and 64 bits, keep the 24 bits of precision that a float32 has.
        """
        rows = self.size[0] if rows is None else rows
        try:
            if isinstance(self._source, Png):
                return self._checked(_png_pixels(self._source, rows, self.alpha))
            if self._source is None:
                return self._pixels[:rows]
            pixels = self._source.decode(rows)
        except (PngError, TiffError, NpyError) as error:
            raise self._bad(error) from error
        return as_numbers(pixels, self._source.nodata if isinstance(self._source, Tiff) else None)

    def _open(self, content: bytes, identity: tuple) -> None:
        if content.startswith(PNG):
            source = self._source = Png.parse(content)
            is_grey, has_alpha = source.colour in (GREY, GREY_ALPHA), source.has_alpha
            bands = (1 if is_grey else 3) + (has_alpha and self.alpha)
            self._set(source.size, bands, np.dtype(np.uint16 if source.depth == 16 else np.uint8), len(content))
        elif content[:2] in (b"II", b"MM"):
            self._source = Tiff.parse(content)
            self._set(self._source.size, self._source.bands, self._source.dtype)
        else:
            plugin = _plugin(content)
            if plugin is None:
                wrong = content.startswith(NPY) and "a NumPy array: give its name the ending .npy"
                raise self._bad(wrong or ("not a readable image" if content else "truncated"))
            if content.startswith(SOI):
                check_jpeg(content, identity)
            elif content[:4] == b"RIFF" and int.from_bytes(content[4:8], "little") + 8 > len(content):
                raise self._bad("truncated")
            self._pixels = self._by_pillow(plugin, content)
            self._set(self._pixels.shape[:2], self._pixels.shape[2], self._pixels.dtype)

    def _set(self, size: tuple[int, int], bands: int, dtype: np.dtype, packed: int | None = None) -> None:
        """Take these for the file's own, if they are sane."""
        self.size, self.bands = size, bands
        dtype = dtype.newbyteorder("=")
        self.dtype = dtype if dtype in (np.uint8, np.uint16) else np.dtype(np.float32)
        pixels = size[0] * size[1]
        if pixels > MOST_PIXELS or bands > MOST_BANDS:
            raise self._bad(f"too large with {size[1]} x {size[0]} pixels of {bands} bands")
        if packed is not None and pixels > 8 * INFLATION * packed:
            raise self._bad(f"damaged: it claims {size[1]} x {size[0]} pixels, which its {packed} bytes cannot hold")
        needed = pixels * bands * (dtype.itemsize + self.dtype.itemsize)
        require_memory(needed, f"image {self.path}", "cut it into smaller ones")

    def _by_pillow(self, plugin: type[ImageFile], content: bytes) -> np.ndarray:
        """The pixels that Pillow, which prints nothing on what it finds wrong, decodes: uint8 [H, W, C]."""
        try:
            # Not by ``Image.open``, whose bound on sizes is another.
            with plugin(io.BytesIO(content)) as image:
                channels = 3 + (self.alpha and image.mode == "RGBA")
                bands = channels if image.mode in ("RGB", "RGBA", "RGBX", "P", "CMYK") else 1
                self._set((image.height, image.width), bands, np.dtype(np.uint8))
                mode = {1: "L", 3: "RGB", 4: "RGBA"}[bands]
                pixels = np.asarray(image.convert(mode))
        except (UserError, MemoryError):
            raise
        except Exception as error:  # Pillow raises almost anything
            raise self._bad("damaged or cut off") from error
        return pixels.reshape(*pixels.shape[:2], -1)

    def _checked(self, pixels: np.ndarray | None) -> np.ndarray:
        if pixels is None:
            raise self._bad("not a readable image")
        return pixels

    def _bad(self, reason: object) -> UserError:
        # Most reasons that are none of a damaged file say themselves what helps.
        remedy = "" if ": " in str(reason) else ": copy or prepare it again"
        return UserError(f"{self.path} is {reason}{remedy}")


def as_numbers(pixels: np.ndarray, nodata: float | None = None) -> np.ndarray:
    """Stored numbers of any kind as uint8, uint16 or float32; where these are floats, ``nodata`` is NaN."""
    dtype = pixels.dtype.newbyteorder("=")
    if dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(pixels, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        single = np.ascontiguousarray(pixels, np.float32)
    if nodata is not None:
        single = single if single.flags.writeable else single.copy()
        single[pixels == nodata] = np.nan
    return single


def read_raster(path: Path | ZipPath, alpha: bool = False) -> np.ndarray:
    """Read an image, uint8, uint16 or float32 [H, W, C], as ``RasterFile`` does, whose errors it raises."""
    return RasterFile(path, alpha).decode()


def _png_pixels(png: Png, rows: int, alpha: bool) -> np.ndarray | None:
    """The first ``rows`` rows, [rows, W, C], in RGB."""
    pixels = png.decode(cv2.IMREAD_UNCHANGED, rows)
    if pixels is None:
        return None
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    opacity = pixels[..., 3:] if png.has_alpha and alpha else pixels[..., :0]
    colours = pixels[..., :1] if png.colour in (GREY, GREY_ALPHA) else pixels[..., 2::-1]
    return np.ascontiguousarray(np.concatenate([colours, opacity], 2) if opacity.size else colours)


def _plugin(content: bytes) -> type[ImageFile] | None:
    """What of Pillow reads a file that begins so."""
    if content.startswith(SOI):
        return JpegImageFile
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return WebPImageFile
    return BmpImageFile if content[:2] == b"BM" else None
