"""Whether a JPEG (ITU-T T.81) holds all the pixels that its header promises.

Decoders fill what a scan lacks with grey, tell no program of it, and so take a file that was cut and then got an end
marker as whole. But libjpeg, once data have run out within a unit, skips all later units. It is therefore asked for a
few units more than the header promises. If the file is whole, the first of these is still decoded, from the zeros that
libjpeg supplies, and differs from the later ones, which are skipped; if not, all of them are skipped and alike. An
eighth of the size will do mostly, for which little more than the Huffman codes is decoded.

Where that cannot tell (a picture that ends in mid-grey; several scans), the picture is decoded with various bits in
place of what may be missing: if nothing is, the pixels are always the same.
"""

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil

import numpy as np
from PIL import JpegImagePlugin

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
DHT, END, SOS, DQT, DRI = 0xC4, 0xD9, 0xDA, 0xDB, 0xDD
TABLES = {DHT, DQT, 0xCC}
"""Segments of Huffman, quantisation and arithmetic tables."""
HUFFMAN, PROGRESSIVE = {0xC0, 0xC1}, {0xC2, 0xCA}
FRAMES = HUFFMAN | PROGRESSIVE | {0xC9}
"""Starts of a frame: sequential and progressive, by Huffman or arithmetic codes."""
OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""A marker that is neither a stuffed zero nor a restart."""
RESTART = re.compile(rb"\xff+[\xd0-\xd7]")
FILLINGS = [b"\xff\x00" * 64, *(bytes([level]) * 64 for level in (0x12, 0x55, 0x6B, 0x9D, 0xAA, 0xC7, 0xE3))]
"""Data of a scan, its bits 1 or various. libjpeg itself goes on with zeros."""
EXTRA = 9
"""Units asked for beyond the last; the up to 7 bits that fill its last byte may hold some."""
LONGEST_SIDE = 65500
"""libjpeg's."""


class JpegError(Exception):
    """A JPEG is not whole; the message completes "FILE is ..."."""


@dataclass
class Jpeg:
    """A JPEG file in memory, taken apart.

    Attributes:
        kind: the marker that starts its frame.
        size: (height, width) in pixels.
        factors: (horizontal, vertical) sampling factors by the component's id.
        frame: the frame's segment.
        tables: the segments of tables before the first scan.
        parts: all segments and scans in their order, without comments and what applications add.
        scans: each scan's segment and data.
        interval: units between restarts in the last scan; 0 where there are none.
    """

    kind: int = 0
    size: tuple[int, int] = (0, 0)
    factors: dict[int, tuple[int, int]] = field(default_factory=dict)
    frame: bytes = b""
    tables: list[bytes] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    scans: list[tuple[bytes, bytes]] = field(default_factory=list)
    interval: int = 0

    @classmethod
    def parse(cls, content: bytes) -> "Jpeg":
        """Take a file apart up to its end marker; raises ``JpegError`` if there is none, or no frame or no scan."""
        jpeg, at = cls(), len(SOI)
        while True:
            found = MARKER.search(content, at)
            if not found:
                raise JpegError("truncated")
            at, code = found.end(), content[found.end() - 1]
            if code == END:
                break
            end = at + max(2, int.from_bytes(content[at : at + 2], "big"))
            if end > len(content):
                raise JpegError("truncated")
            segment, at = content[at - 2 : end], end
            if code == SOS:
                found = MARKER.search(content, at)
                at = found.start() if found else len(content)
                jpeg._add_scan(segment, content[end:at])
            else:
                jpeg._add(code, segment)
        if not jpeg.scans:
            raise JpegError("truncated")
        return jpeg

    def _add(self, code: int, segment: bytes) -> None:
        if code in OTHER_FRAMES:
            raise JpegError("neither a sequential nor a progressive JPEG")
        if code in FRAMES:
            if self.frame or len(segment) < 13 or len(segment) != 10 + 3 * segment[9]:
                raise JpegError("damaged")
            self.kind, self.frame, self.size = code, segment, struct.unpack(">HH", segment[5:9])
            self.factors = {segment[i]: divmod(segment[i + 1], 16) for i in range(10, len(segment), 3)}
            sides, factors = self.size, [factor for both in self.factors.values() for factor in both]
            if not (0 < min(sides) <= max(sides) <= LONGEST_SIDE and 0 < min(factors) <= max(factors) <= 4):
                raise JpegError("damaged")
        elif code == DRI:
            self.interval = int.from_bytes(segment[4:6], "big")
        elif code not in TABLES:
            return
        elif not self.scans:
            self.tables.append(segment)
        self.parts.append(segment)

    def _add_scan(self, segment: bytes, data: bytes) -> None:
        ids = segment[5:-3:2]
        if len(segment) < 10 or len(ids) != segment[4] or not set(ids) <= self.factors.keys():
            raise JpegError("damaged")
        self.scans.append((segment, data))
        self.parts.append(segment + data)

    def check(self) -> None:
        """Raise ``JpegError`` unless every pixel is there."""
        segment, data = self.scans[-1]
        units, restarts = self._units(segment), 0
        if self.interval:
            restarts = (units - 1) // self.interval
            pieces = RESTART.split(data)
            if len(pieces) != restarts + 1:
                raise JpegError("truncated" if len(pieces) <= restarts else "damaged")
            data, units = pieces[-1], units - restarts * self.interval
        try:
            if self._is_plain():
                is_whole = any(self._goes_on(data, units, scale) for scale in (8, 1)) or (
                    self._zeros_are_flat() and self._is_indifferent()
                )
            else:
                is_whole = self._has_all_scans() and self._is_indifferent()
        except MemoryError:
            raise
        except Exception as error:  # damaged tables make Pillow raise almost anything
            raise JpegError("damaged") from error
        if not is_whole:
            raise JpegError("truncated")

    def _is_plain(self) -> bool:
        segment, _ = self.scans[0]
        return self.kind in HUFFMAN and len(self.scans) == 1 and segment[4] == len(self.factors)

    def _most(self) -> tuple[int, int]:
        """The largest (horizontal, vertical) sampling factors."""
        across, down = zip(*self.factors.values(), strict=True)
        return max(across), max(down)

    def _units(self, segment: bytes) -> int:
        """How many minimum coded units the scan of ``segment`` has: blocks, if it has one component (A.2)."""
        (height, width), (across, down) = self.size, self._most()
        if segment[4] == 1:
            own_across, own_down = self.factors[segment[5]]
            height, width, across, down = ceil(height * own_down / down), ceil(width * own_across / across), 1, 1
        return ceil(height / (8 * down)) * ceil(width / (8 * across))

    def _goes_on(self, data: bytes, units: int, scale: int) -> bool:
        """Whether the unit after ``units`` is still decoded from ``data``, the last interval of a plain file."""
        frame, (across, down) = bytearray(self.frame), self._most()
        if len(self.factors) == 1:
            across, down = 1, 1
            frame[11] = 0x11
        columns = ceil((units + EXTRA) ** 0.5)
        rows = ceil((units + EXTRA) / columns)
        frame[5:9] = struct.pack(">HH", rows * down * 8, columns * across * 8)
        # The first component alone, which is brightness: into the others, blocks beside them are mixed.
        pixels = _decode([*self.tables, bytes(frame), self.scans[0][0], data], "L", scale)
        pixels = pixels.reshape(*pixels.shape[:2], -1)[..., 0]
        across, down = across * 8 // scale, down * 8 // scale
        row, column = divmod(units, columns)
        next_unit = pixels[row * down :, column * across :][:down, :across]
        return not np.array_equal(next_unit, pixels[-down:, -across:])

    def _zeros_are_flat(self) -> bool:
        """Whether zeros may stand for a block of brightness without detail: the first of its codes ends the block."""
        segment, _ = self.scans[0]
        own = 0x10 | segment[6] & 15
        return [first for table in self.tables for name, first in _codes(table) if name == own][-1:] == [b"\0"]

    def _is_indifferent(self) -> bool:
        """Whether the pixels stay the same whatever follows the last scan's data."""
        pixels = _decode(self.parts)
        return all(np.array_equal(pixels, _decode([*self.parts, filling])) for filling in FILLINGS)

    def _has_all_scans(self) -> bool:
        """Whether every component was given, and all of its coefficients to their last bit (G.1.1.1)."""
        if self.kind not in PROGRESSIVE:
            return {name for segment, _ in self.scans for name in segment[5:-3:2]} == self.factors.keys()
        missing = np.full((256, 64), 1)
        missing[[name for name in range(256) if name not in self.factors]] = 0
        for segment, _ in self.scans:
            first, last, bits = segment[-3:]
            for name in segment[5:-3:2]:
                missing[name, first : last + 1] = bits & 15
        return not missing.any()


def _codes(segment: bytes) -> Iterator[tuple[int, bytes]]:
    """Class and number (B.2.4.2) of each table of Huffman codes in a segment, and what its first code stands for."""
    at = 4 if segment[1] == DHT else len(segment)
    while at + 17 < len(segment):
        yield segment[at], segment[at + 17 : at + 18]
        at += 17 + sum(segment[at + 1 : at + 17])


def _decode(parts: list[bytes], mode: str | None = None, scale: int = 1) -> np.ndarray:
    """The pixels, at 1 / ``scale`` of their size, of the file that ``parts`` make; without a sound, by Pillow."""
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(b"".join([SOI, *parts, EOI])))
    image.draft(mode, (image.width // scale, image.height // scale))
    return np.asarray(image)


def check_whole(content: bytes) -> None:
    """Raise ``JpegError`` unless ``content`` is a JPEG that holds all of its pixels."""
    Jpeg.parse(content).check()
