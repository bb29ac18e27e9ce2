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
MOST_PIXELS = 1 << 30
"""OpenCV refuses larger images."""
STORED_BLOCK = 65535
"""Most bytes of a deflate block without compression."""


def imdecode(content: bytes, flags: int) -> np.ndarray | None:
    """``cv2.imdecode`` that returns None, and never raises, if the file cannot be decoded."""
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
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
    """

    content: bytes
    size: tuple[int, int]
    channels: int
    data: bytes

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
        width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", parts[b"IHDR"][0])
        if not 0 < width * height <= MOST_PIXELS:
            raise PngError("damaged")
        plain = depth == 8 and not interlaced and not parts.keys() & {b"tRNS", b"acTL"}
        return cls(content, (height, width), CHANNELS.get(colour, 0) if plain else 0, b"".join(parts[b"IDAT"]))

    def decode(self, flags: int, rows: int) -> np.ndarray | None:
        """Decode the first ``rows`` rows, 1 .. height, as ``cv2.imdecode`` with ``flags`` decodes all of them.

        Most of a decode is the inflation, which ISA-L does in less than half of zlib's time and for the wanted rows
        alone; OpenCV is then given a shorter PNG with the inflated rows. PNGs that are not plain are decoded whole.

        Returns:
            [rows, W] or [rows, W, C]; None if OpenCV cannot decode the file.

        Raises:
            PngError: the compressed pixels are damaged or too few.
        """
        content = self._first_rows(rows) if self.channels else self.content
        pixels = imdecode(content, flags)
        return None if pixels is None else pixels[:rows]

    def _first_rows(self, rows: int) -> bytes:
        width = self.size[1]
        needed = rows * (1 + width * self.channels)
        try:
            inflated = isal_zlib.decompressobj().decompress(self.data, needed)
        except isal_zlib.error as error:
            raise PngError("damaged") from error
        if len(inflated) < needed:
            raise PngError("damaged")
        header = struct.pack(">IIBBBBB", width, rows, 8, {1: 0, 3: 2}[self.channels], 0, 0, 0)
        chunks = _chunk(b"IHDR", header), _chunk(b"IDAT", *_stored(inflated)), _chunk(b"IEND")
        return b"".join([SIGNATURE, *(part for chunk in chunks for part in chunk)])


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
