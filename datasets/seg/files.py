"""Reading one image or label file, whole or its first rows; needs no PyTorch."""

from pathlib import Path

import cv2
import numpy as np

from datasets.seg.archive import ZipPath
from datasets.seg.jpeg import SOI, JpegError, check_whole
from datasets.seg.png import SIGNATURE, Png, PngError, imdecode
from lib.base.errors import UserError
from lib.base.regular import read_with_status

KNOWN_WHOLE: set[tuple] = set()
"""What identifies the JPEGs that this process has checked. The check takes half the time of decoding, so it is done
once: a sample is read in every epoch."""


class ImageFile:
    """An image file, found whole, whose first rows can be decoded without the rest.

    A PNG's ``size`` comes from its header; a JPEG is decoded to learn it.

    Args:
        path: a PNG or JPEG.
        flags: of ``cv2.imdecode``.

    Attributes:
        size: (height, width) in pixels.

    Raises:
        UserError: the file is unreadable, cut off or damaged.
    """

    def __init__(self, path: Path | ZipPath, flags: int) -> None:
        self.path = path
        self.flags = flags
        content, identity = read_content(path)
        self._png, self._pixels = None, None
        try:
            if content.startswith(SIGNATURE):
                self._png = Png.parse(content)
                self.size = self._png.size
            else:
                self._pixels = self._decode_jpeg(content, identity)
                self.size = self._pixels.shape[:2]
        except (PngError, JpegError) as error:
            raise self._bad(error) from error
        except MemoryError as error:
            raise self._too_large() from error

    def decode(self, rows: int | None = None) -> np.ndarray:
        """Decode the first ``rows`` rows (None = all), uint8 [rows, W, 3] in BGR or as ``flags`` say."""
        rows = self.size[0] if rows is None else rows
        if self._png is None:
            return self._pixels[:rows]
        try:
            return self._checked(self._png.decode(self.flags, rows))
        except PngError as error:
            raise self._bad(error) from error
        except MemoryError as error:
            raise self._too_large() from error

    def _decode_jpeg(self, content: bytes, identity: tuple) -> np.ndarray:
        if not content.startswith(SOI):
            raise self._bad("not a readable PNG or JPEG image" if content else "truncated")
        check_jpeg(content, identity)
        return self._checked(imdecode(content, self.flags))

    def _checked(self, pixels: np.ndarray | None) -> np.ndarray:
        if pixels is None:
            raise self._bad("not a readable PNG or JPEG image")
        return pixels

    def _too_large(self) -> UserError:
        return UserError(
            f"{self.path} needs more memory than this machine has left to decode: lower data.workers or make it smaller"
        )

    def _bad(self, reason: object) -> UserError:
        return UserError(f"{self.path} is {reason}: copy or prepare it again")


def read_content(path: Path | ZipPath) -> tuple[bytes, tuple]:
    """A file's contents, and what identifies these."""
    if isinstance(path, ZipPath):
        return path.read_bytes(), (str(path), path.archive.members[path.inside])
    content, status = read_with_status(path)
    return content, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def check_jpeg(content: bytes, identity: tuple) -> None:
    """Raise ``JpegError`` unless a JPEG is whole; ``content`` and ``identity`` are what ``read_content`` returned."""
    if identity not in KNOWN_WHOLE:
        check_whole(content)
        KNOWN_WHOLE.add(identity)


class LabelFile(ImageFile):
    """A label file; what it decodes to are label ids, uint8 [rows, W], or else a ``UserError`` says so.

    Args:
        path: a PNG.
        indices: whether the ids of a PNG with a palette are its indices; otherwise it is an error.
    """

    def __init__(self, path: Path | ZipPath, indices: bool = False) -> None:
        super().__init__(path, cv2.IMREAD_UNCHANGED)
        if indices and self._png and self._png.has_palette:
            try:
                self._png, self._pixels = None, super()._checked(self._png.indices())
            except PngError as error:
                raise self._bad(error) from error

    def _checked(self, pixels: np.ndarray | None) -> np.ndarray:
        pixels = super()._checked(pixels)
        if pixels.ndim != 2 or pixels.dtype != np.uint8:
            raise UserError(
                f"{self.path} is not a label: a label is an 8-bit PNG with one channel that holds label ids"
            )
        return pixels


def open_image(path: Path | ZipPath) -> ImageFile:
    """Open an image that decodes to uint8 [rows, W, 3], BGR; raises UserError if it is unreadable or cut off."""
    # Labels know nothing of a camera's orientation tag, so the pixels are taken as they are stored.
    return ImageFile(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def read_image(path: Path | ZipPath) -> np.ndarray:
    """Decode an image file to uint8 [H, W, 3], BGR; raises UserError if it is unreadable or cut off."""
    return open_image(path).decode()


def read_label(path: Path | ZipPath, indices: bool = False) -> np.ndarray:
    """Decode a label file to its ids, uint8 [H, W]; raises UserError if it is unreadable, cut off, or in colour.

    Args:
        path: a PNG.
        indices: whether the ids of a PNG with a palette are its indices; otherwise it is an error.
    """
    return LabelFile(path, indices).decode()
