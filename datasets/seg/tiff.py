"""Reading a TIFF (TIFF 6.0, BigTIFF): its shape without decoding, its first rows without the rest, nothing unchecked.

One picture of any number of bands, planar or interleaved, in strips or tiles; or a stack of pictures of one band and
one size, which are its bands. Smaller versions and masks that a file also holds are passed over.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
from isal import isal_zlib

TYPES = {1: "u1", 2: "u1", 3: "u2", 4: "u4", 5: "u8", 6: "i1", 8: "i2", 9: "i4", 12: "f8", 13: "u4", 16: "u8", 18: "u8"}
"""Numbers of an entry by its type."""
KINDS = {1: "u", 2: "i", 3: "f"}
"""Of samples: unsigned, signed, floating."""
MOST_PICTURES = 256
MOST_SEGMENTS = 1 << 20
SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORDER = 254, 256, 257, 258, 259, 262, 266
STRIPS, SAMPLES, ROWS, STRIP_BYTES, PLANAR, PREDICTOR, COLOURS = 273, 277, 278, 279, 284, 317, 320
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, FORMAT, NODATA = 322, 323, 324, 325, 339, 42113
USED = {
    *(SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORDER, STRIPS, SAMPLES, ROWS, STRIP_BYTES, PLANAR),
    *(PREDICTOR, COLOURS, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, FORMAT, NODATA),
}
PLAIN = (1, 32773)
"""Compressions that know no differences: none, and PackBits."""
WHITE_IS_ZERO, PALETTE, YCBCR = 0, 3, 6
OTHERS = {2: "CCITT", 3: "CCITT", 4: "CCITT", 6: "JPEG", 7: "JPEG", 34887: "LERC", 34925: "LZMA", 50001: "WebP"}
"""Names of some compressions that are not read."""


class TiffError(Exception):
    """A TIFF cannot be read; the message completes "FILE is ..."."""


def _inflated(data: bytes, size: int) -> bytes:
    # One byte more than is wanted, so that the stream ends and its check sum is compared.
    return isal_zlib.decompressobj().decompress(data, size + 1)


def _lzw(data: bytes, size: int) -> bytes:
    from imagecodecs import lzw_decode

    return lzw_decode(data, out=size)


def _zstd(data: bytes, size: int) -> bytes:
    from imagecodecs import zstd_decode

    return zstd_decode(data, out=size)


def _packbits(data: bytes, size: int) -> bytes:
    from imagecodecs import packbits_decode

    return packbits_decode(data, out=size)


DECODERS: dict[int, tuple[Callable[[bytes, int], bytes], int]] = {
    1: (lambda data, size: data, 1),
    5: (_lzw, 4096),
    8: (_inflated, 1033),
    32946: (_inflated, 1033),
    32773: (_packbits, 64),
    50000: (_zstd, 1 << 16),
}
"""By compression: from a segment and the bytes that it should have to these, and how many a byte can stand for."""


@dataclass(frozen=True)
class Picture:
    """One directory of a file: its numbers by tag, and what follows from them."""

    tags: dict[int, np.ndarray]

    def one(self, tag: int, default: int | None = None) -> int:
        """The only number of ``tag``, or the first of equal ones."""
        values = self.tags.get(tag)
        if values is None or not len(values):
            if default is None:
                raise TiffError("damaged")
            return default
        if (values != values[0]).any():
            raise TiffError("a TIFF whose bands differ in type, which is not read")
        return int(values[0])

    @property
    def size(self) -> tuple[int, int]:
        return self.one(HEIGHT), self.one(WIDTH)

    @property
    def samples(self) -> int:
        return self.one(SAMPLES, 1)

    @property
    def dtype(self) -> np.dtype:
        bits, kind = self.one(BITS, 1), KINDS.get(self.one(FORMAT, 1))
        if kind is None or bits not in ((16, 32, 64) if kind == "f" else (8, 16, 32, 64)):
            raise TiffError(f"a TIFF of {bits}-bit {kind or 'other'} samples: save it with 8 or 16 bits or as float32")
        return np.dtype(f"{kind}{bits // 8}")

    @property
    def predictor(self) -> int:
        """What the samples are told as: themselves (1), differences (2) or differences of bytes (3)."""
        return self.one(PREDICTOR, 1) if self.one(COMPRESSION, 1) not in PLAIN else 1

    @property
    def segment(self) -> tuple[int, int]:
        """(height, width) of a strip or tile."""
        height, width = self.size
        if TILES in self.tags:
            return self.one(TILE_HEIGHT), self.one(TILE_WIDTH)
        return min(height, self.one(ROWS, height)), width

    @property
    def key(self) -> tuple:
        return self.size, self.dtype, self.samples

    def check(self, content: bytes) -> None:
        """Raise ``TiffError`` unless all segments lie in ``content`` and may hold all samples that there should be."""
        (height, width), segment, samples = self.size, self.segment, self.samples
        compression = self.one(COMPRESSION, 1)
        if compression not in DECODERS:
            name = OTHERS.get(compression, f"method {compression}")
            raise TiffError(f"compressed by {name}, which is not read here: save it with deflate, LZW or uncompressed")
        if min(height, width, samples, *segment) < 1 or max(height, width, *segment) > 1 << 24 or samples > 1 << 16:
            raise TiffError("damaged")
        if self.one(PLANAR, 1) not in (1, 2) or self.one(ORDER, 1) != 1 or self.predictor not in (1, 2, 3):
            raise TiffError("a TIFF of an unusual kind: save it again with deflate, LZW or uncompressed")
        if not {1: True, 2: self.dtype.kind != "f", 3: self.dtype.kind == "f"}[self.predictor]:
            raise TiffError("damaged")
        if self.one(PHOTOMETRIC, 1) == YCBCR:
            raise TiffError("a TIFF in YCbCr, which is not read here: save it as RGB")
        if self.one(PHOTOMETRIC, 1) == PALETTE and (
            samples != 1 or self.dtype != np.uint8 or len(self.tags.get(COLOURS, ())) != 768
        ):
            raise TiffError("damaged")
        starts, lengths = self.places
        if len(starts) != len(lengths) or len(starts) != self.count:
            raise TiffError("damaged")
        if (starts + lengths > len(content)).any() or (starts + lengths < starts).any():
            raise TiffError("truncated")
        if height * width * samples * self.dtype.itemsize > int(lengths.sum()) * DECODERS[compression][1] + 65536:
            raise TiffError(f"damaged: it claims {width} x {height} pixels, which its {len(content)} bytes cannot hold")

    @property
    def count(self) -> int:
        """How many segments there should be."""
        (height, width), (rows, columns) = self.size, self.segment
        planes = self.samples if self.one(PLANAR, 1) == 2 else 1
        return ceil(height / rows) * ceil(width / columns) * planes

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the segments begin and how many bytes they have, uint64."""
        starts, lengths = (TILES, TILE_BYTES) if TILES in self.tags else (STRIPS, STRIP_BYTES)
        if starts not in self.tags or lengths not in self.tags:
            raise TiffError("damaged")
        return self.tags[starts].astype(np.uint64), self.tags[lengths].astype(np.uint64)


@dataclass(frozen=True)
class Tiff:
    """A TIFF file in memory whose directories make sense.

    Attributes:
        content: the file.
        order: "<" or ">": of the bytes of a number.
        pictures: one of any number of bands, or several of one band.
        size: (height, width) in pixels.
        bands: what ``decode`` gives a pixel; three where there is a palette.
        dtype: of the samples, in the machine's own byte order.
        nodata: what GDAL wrote as the value of pixels without data; None where there is none.
    """

    content: bytes
    order: str
    pictures: tuple[Picture, ...]

    @classmethod
    def parse(cls, content: bytes) -> "Tiff":
        """Take a file apart and check all that can be checked without decoding; raises ``TiffError``."""
        order = {b"II": "<", b"MM": ">"}.get(content[:2])
        if order is None:
            raise TiffError("not a readable TIFF")
        try:
            pictures = [picture for picture in _pictures(content, order) if not picture.one(SUBFILE, 0) & 5]
        except struct.error:
            raise TiffError("truncated") from None
        if not pictures:
            raise TiffError("a TIFF without a picture")
        for picture in pictures:
            picture.check(content)
        first = pictures[0]
        if len(pictures) > 1 and (first.samples > 1 or any(other.key != first.key for other in pictures)):
            raise TiffError(f"a TIFF of {len(pictures)} pictures: save the one that is meant, with all of its bands")
        return cls(content, order, tuple(pictures))

    @property
    def size(self) -> tuple[int, int]:
        return self.pictures[0].size

    @property
    def dtype(self) -> np.dtype:
        return self.pictures[0].dtype

    @property
    def bands(self) -> int:
        return sum(3 if picture.one(PHOTOMETRIC, 1) == PALETTE else picture.samples for picture in self.pictures)

    @property
    def nodata(self) -> float | None:
        text = bytes(self.pictures[0].tags.get(NODATA, np.zeros(0, np.uint8)).astype(np.uint8))
        try:
            return float(text.strip(b"\0 ").decode("ascii")) if text else None
        except ValueError:
            return None

    def decode(self, rows: int) -> np.ndarray:
        """The first ``rows`` rows, [rows, W, bands], as they are stored; raises ``TiffError`` for damage."""
        return np.concatenate([self._decode(picture, rows) for picture in self.pictures], axis=2)

    def _decode(self, picture: Picture, rows: int) -> np.ndarray:
        _, width = picture.size
        segment_rows, segment_columns = picture.segment
        is_planar = picture.one(PLANAR, 1) == 2
        planes, samples = (picture.samples, 1) if is_planar else (1, picture.samples)
        out = np.empty((rows, width, picture.samples), picture.dtype)
        starts, lengths = (part.tolist() for part in picture.places)
        down, across = ceil(picture.size[0] / segment_rows), ceil(width / segment_columns)
        for plane in range(planes):
            bands = slice(plane, plane + 1) if is_planar else slice(None)
            for row in range(ceil(rows / segment_rows)):
                top = row * segment_rows
                # The last strip ends with the picture, the last tile does not.
                high = segment_rows if TILES in picture.tags else min(segment_rows, picture.size[0] - top)
                for column in range(across):
                    left, index = column * segment_columns, (plane * down + row) * across + column
                    data = self.content[starts[index] : starts[index] + lengths[index]]
                    block = self._segment(picture, data, (high, segment_columns, samples))
                    target = out[top : top + high, left : left + segment_columns, bands]
                    target[...] = block[: target.shape[0], : target.shape[1]]
        if picture.one(PHOTOMETRIC, 1) == WHITE_IS_ZERO and picture.dtype.kind == "u":
            out = np.iinfo(picture.dtype).max - out
        if picture.one(PHOTOMETRIC, 1) == PALETTE:
            colours = (picture.tags[COLOURS].reshape(3, 256).T >> 8).astype(np.uint8)
            out = colours[out[..., 0]]
        return out

    def _segment(self, picture: Picture, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
        """A strip or tile of ``shape`` (height, width, samples) from its ``data``."""
        dtype, predictor = picture.dtype, picture.predictor
        needed = shape[0] * shape[1] * shape[2] * dtype.itemsize
        try:
            raw = DECODERS[picture.one(COMPRESSION, 1)][0](data, needed)
        except Exception as error:  # each library has its own
            raise TiffError("damaged") from error
        if len(raw) < needed:
            raise TiffError("truncated" if picture.one(COMPRESSION, 1) == 1 else "damaged")
        if predictor == 3:
            return _floats(np.frombuffer(raw, np.uint8, needed), shape, dtype)
        block = np.frombuffer(raw, dtype.newbyteorder(self.order), needed // dtype.itemsize).reshape(shape)
        return np.cumsum(block, axis=1, dtype=dtype) if predictor == 2 else block


def _floats(levels: np.ndarray, shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
    """Undo the differences and the order of bytes of predictor 3 (Adobe's Technical Note 3)."""
    height, width, samples = shape
    summed = np.cumsum(levels.reshape(height, -1, samples), axis=1, dtype=np.uint8)
    planes = summed.reshape(height, dtype.itemsize, width * samples)
    return np.ascontiguousarray(planes.transpose(0, 2, 1)).view(dtype.newbyteorder(">")).reshape(shape)


def _pictures(content: bytes, order: str) -> Iterator[Picture]:
    version = struct.unpack_from(order + "H", content, 2)[0]
    if version not in (42, 43):
        raise TiffError("not a readable TIFF")
    is_big = version == 43
    if is_big and struct.unpack_from(order + "HH", content, 4) != (8, 0):
        raise TiffError("damaged")
    offset = (
        struct.unpack_from(order + "Q", content, 8)[0] if is_big else struct.unpack_from(order + "I", content, 4)[0]
    )
    seen: set[int] = set()
    while offset:
        if offset in seen or len(seen) == MOST_PICTURES:
            raise TiffError("damaged" if offset in seen else f"a TIFF of more than {MOST_PICTURES} pictures")
        seen.add(offset)
        if offset >= len(content):
            raise TiffError("truncated")
        tags, offset = _directory(content, order, offset, is_big)
        yield Picture(tags)


def _directory(content: bytes, order: str, at: int, is_big: bool) -> tuple[dict[int, np.ndarray], int]:
    """The numbers of a directory that are of use, and where the next one lies (0: nowhere)."""
    count = struct.unpack_from(order + ("Q" if is_big else "H"), content, at)[0]
    at += 8 if is_big else 2
    entry, room = struct.Struct(order + ("HHQ" if is_big else "HHI")), 8 if is_big else 4
    length = entry.size + room
    if count > 4096 or at + count * length > len(content):
        raise TiffError("truncated" if count <= 4096 else "damaged")
    tags = {}
    for place in range(at, at + count * length, length):
        tag, kind, numbers = entry.unpack_from(content, place)
        if tag not in USED:
            continue
        if kind not in TYPES or numbers > MOST_SEGMENTS:
            raise TiffError("damaged")
        dtype, where = np.dtype(order + TYPES[kind]), place + entry.size
        if numbers * dtype.itemsize > room:
            where = struct.unpack_from(order + ("Q" if is_big else "I"), content, where)[0]
        if where + numbers * dtype.itemsize > len(content):
            raise TiffError("truncated")
        tags[tag] = np.frombuffer(content, dtype, numbers, where).astype(dtype.newbyteorder("="))
    following = struct.unpack_from(order + ("Q" if is_big else "I"), content, at + count * length)[0]
    return tags, following
