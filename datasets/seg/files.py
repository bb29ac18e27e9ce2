"""Reading one image or label file, whole or its first rows; needs no PyTorch."""

from pathlib import Path

import cv2
import numpy as np

from datasets.seg.archive import ZipPath
from datasets.seg.png import SIGNATURE, Png, PngError, imdecode
from lib.base.errors import UserError


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
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        self._png, self._pixels = None, None
        if content.startswith(SIGNATURE):
            try:
                self._png = Png.parse(content)
            except PngError as error:
                raise self._bad(error) from error
            self.size = self._png.size
        else:
            self._pixels = self._decode_other(content)
            self.size = self._pixels.shape[:2]

    def decode(self, rows: int | None = None) -> np.ndarray:
        """Decode the first ``rows`` rows (None = all), uint8 [rows, W, 3] in BGR or as ``flags`` say."""
        rows = self.size[0] if rows is None else rows
        if self._png is None:
            return self._pixels[:rows]
        try:
            return self._checked(self._png.decode(self.flags, rows))
        except PngError as error:
            raise self._bad(error) from error

    def _decode_other(self, content: bytes) -> np.ndarray:
        # Some OpenCV releases fill what is missing of a truncated file with grey and report no error. A thumbnail
        # inside a JPEG's header ends with a marker of its own, so the end is looked for after the last scan.
        cut_off = content.startswith(b"\xff\xd8") and content.rfind(b"\xff\xd9") <= content.rfind(b"\xff\xda")
        if cut_off or not content:
            raise self._bad("truncated")
        return self._checked(imdecode(content, self.flags))

    def _checked(self, pixels: np.ndarray | None) -> np.ndarray:
        if pixels is None:
            raise self._bad("not a readable PNG or JPEG image")
        return pixels

    def _bad(self, reason: object) -> UserError:
        return UserError(f"{self.path} is {reason}: copy or prepare it again")


class LabelFile(ImageFile):
    """A label file; what it decodes to are label ids, uint8 [rows, W], or else a ``UserError`` says so."""

    def __init__(self, path: Path | ZipPath) -> None:
        super().__init__(path, cv2.IMREAD_UNCHANGED)

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


def read_label(path: Path | ZipPath) -> np.ndarray:
    """Decode a label file to its ids, uint8 [H, W]; raises UserError if it is unreadable, cut off, or in colour."""
    return LabelFile(path).decode()
