"""Reading a PNG (ISO/IEC 15948) in part: its size without decoding, its first rows without the rest."""

import struct
from dataclasses import dataclass
from functools import reduce

import cv2
import numpy as np
from isal import isal_zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3}
"""Channels of the plain colour types, grey and RGB."""
PALETTE = 3
"""The colour type of indices of a palette."""
SAMPLES = {0: 1, 2: 3, PALETTE: 1, 4: 2, 6: 4}
"""Samples of a pixel by colour type."""
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), PALETTE: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits that a sample may have by colour type."""
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
"""First column and row, and steps, of the passes of an interlaced image."""
LAST_FILTER = 4
MOST_PIXELS = 1 << 30
"""OpenCV refuses larger images."""
STORED_BLOCK = 65535
"""Most bytes of a deflate block without compression."""


def imdecode(content: bytes, flags: int) -> np.ndarray | None:
    """``cv2.imdecode`` that returns None if the file cannot be decoded; raises MemoryError for want of memory alone."""
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(error.err) from error
        return None


class PngError(Exception):
    """A PNG is not whole; the message completes "FILE is ..."."""


@dataclass(frozen=True)
class Png:
    """A PNG file in memory whose chunks are all there and undamaged.

    Attributes:
        content: the file.
        size: (height, width) in pixels.
        channels: 1 or 3 for a plain PNG, which is 8 bits deep, grey or RGB, and neither interlaced, transparent nor
            animated; 0 for any other.
        data: the compressed pixels.
        depth, colour, interlaced: bits of a sample, the colour type, and whether there are seven passes.
        colours: palette and transparency, as (kind, contents).
        animated: whether OpenCV may take its first picture from elsewhere.
    """

    content: bytes
    size: tuple[int, int]
    channels: int
    data: bytes
    depth: int = 8
    colour: int = 2
    interlaced: int = 0
    colours: tuple[tuple[bytes, bytes], ...] = ()
    animated: bool = False

    @classmethod
    def parse(cls, content: bytes) -> "Png":
        """Take a file apart and compare every chunk with its check sum; raises ``PngError``."""
        parts: dict[bytes, list[memoryview]] = {}
        view, at = memoryview(content), len(SIGNATURE)
        while b"IEND" not in parts:
            length = int.from_bytes(view[at : at + 4], "big")
            kind, end = bytes(view[at + 4 : at + 8]), at + 8 + length
            if end + 4 > len(content):
                raise PngError("truncated")
            if isal_zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
                raise PngError("damaged")
            parts.setdefault(kind, []).append(view[at + 8 : end])
            at = end + 4
        if len(parts.get(b"IHDR", [b""])[0]) != 13 or b"IDAT" not in parts:
            raise PngError("damaged")
        width, height, depth, colour, method, filtering, interlaced = struct.unpack(">IIBBBBB", parts[b"IHDR"][0])
        if not 0 < width * height <= MOST_PIXELS or depth not in DEPTHS.get(colour, ()):
            raise PngError("damaged")
        if method or filtering or interlaced > 1:
            raise PngError("damaged")
        animated = b"acTL" in parts
        plain = depth == 8 and not interlaced and not animated and b"tRNS" not in parts
        return cls(
            content,
            (height, width),
            CHANNELS.get(colour, 0) if plain else 0,
            b"".join(parts[b"IDAT"]),
            depth,
            colour,
            interlaced,
            tuple((kind, bytes(parts[kind][0])) for kind in (b"PLTE", b"tRNS") if kind in parts),
            animated,
        )

    @property
    def has_palette(self) -> bool:
        return self.colour == PALETTE

    @property
    def has_alpha(self) -> bool:
        """Whether pixels have a sample of opacity of their own."""
        return self.colour in (4, 6)

    def decode(self, flags: int, rows: int) -> np.ndarray | None:
        """Decode the first ``rows`` rows, 1 .. height, as ``cv2.imdecode`` with ``flags`` decodes all of them.

        Most of a decode is the inflation, which ISA-L does in less than half of zlib's time and for the wanted rows
        alone; OpenCV is then given a shorter PNG with the inflated rows. PNGs that are not plain are decoded whole.

        Returns:
            [rows, W] or [rows, W, C]; None if OpenCV cannot decode the file.

        Raises:
            PngError: the compressed pixels are damaged or too few.
        """
        if self.animated:
            content = self.content
        elif self.channels:
            content = self._rebuilt((rows, self.size[1]), 8, {1: 0, 3: 2}[self.channels])
        else:
            content = self._rebuilt(self.size, self.depth, self.colour, *self.colours)
        pixels = imdecode(content, flags)
        return None if pixels is None else pixels[:rows]

    def indices(self) -> np.ndarray | None:
        """The indices, uint8 [H, W], of a PNG with a palette: it is decoded as if they were levels of grey."""
        levels = imdecode(self._rebuilt(self.size, self.depth, 0), cv2.IMREAD_UNCHANGED)
        return None if levels is None else levels // (255 // (2**self.depth - 1))

    def _rebuilt(self, size: tuple[int, int], depth: int, colour: int, *colours: tuple[bytes, bytes]) -> bytes:
        """A PNG of the rows of ``size``, inflated and checked: libpng would print what it finds wrong."""
        passes = self._passes(size, depth * SAMPLES[colour])
        needed = sum(rows * (1 + row) for rows, row in passes)
        try:
            inflated = isal_zlib.decompressobj().decompress(self.data, needed)
        except isal_zlib.error as error:
            raise PngError("damaged") from error
        if len(inflated) < needed:
            raise PngError("damaged")
        at, levels = 0, np.frombuffer(inflated, np.uint8)
        for rows, row in passes:
            end = at + rows * (1 + row)
            if (levels[at : end : 1 + row] > LAST_FILTER).any():
                raise PngError("damaged")
            at = end
        header = struct.pack(">IIBBBBB", size[1], size[0], depth, colour, 0, 0, self.interlaced)
        chunks = [(b"IHDR", header), *colours, (b"IDAT", *_stored(inflated)), (b"IEND",)]
        return b"".join([SIGNATURE, *(part for chunk in chunks for part in _chunk(*chunk))])

    def _passes(self, size: tuple[int, int], bits: int) -> list[tuple[int, int]]:
        """Rows and bytes of a row of each pass (ISO/IEC 15948, section 8.2), for ``bits`` of a pixel."""
        found = []
        for x, y, dx, dy in ADAM7 if self.interlaced else [(0, 0, 1, 1)]:
            rows, columns = -(-(size[0] - y) // dy), -(-(size[1] - x) // dx)
            if rows > 0 and columns > 0:
                found.append((rows, (columns * bits + 7) // 8))
        return found


def _chunk(kind: bytes, *data: bytes | memoryview) -> list[bytes | memoryview]:
    checksum = reduce(lambda so_far, part: isal_zlib.crc32(part, so_far), (kind, *data), 0)
    return [struct.pack(">I", sum(map(len, data))), kind, *data, struct.pack(">I", checksum)]


def _stored(content: bytes) -> list[bytes | memoryview]:
    """A zlib stream (RFC 1950, 1951) of ``content`` as it is: blocks of the final flag, the length, its complement."""
    view, parts = memoryview(content), [b"\x78\x01"]
    for at in range(0, len(content), STORED_BLOCK):
        block = view[at : at + STORED_BLOCK]
        parts += [struct.pack("<BHH", at + STORED_BLOCK >= len(content), len(block), len(block) ^ 0xFFFF), block]
    return [*parts, struct.pack(">I", isal_zlib.adler32(content))]
