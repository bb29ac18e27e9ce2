"""TIFFs larger than memory: read by windows, predicted by windows, written by strips."""

import errno
import math
import mmap
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import cv2
import numpy as np
import tifffile
import torch
from isal import isal_zlib
from torch import Tensor

from datasets.seg.archive import ZipPath
from datasets.seg.bands import as_picture
from datasets.seg.pixels import Pixels
from datasets.seg.raster import as_numbers
from datasets.seg.tiff import COLOURS, COMPRESSION, PHOTOMETRIC, PLANAR, TILES, WHITE_IS_ZERO, Tiff, TiffError
from lib.base import memory
from lib.base.errors import UserError
from lib.base.regular import require_regular
from lib.inference import predict
from lib.predict.forecast import Forecast
from lib.predict.output import Output
from lib.predict.sources import Source
from lib.strips import sliding_blocks

SHARE = 0.5
"""Of the memory that is left: what an image takes as a whole, where it takes more than that, is not tried."""
LARGEST = 1 << 42
"""Bytes of a TIFF."""
HELD = 1 << 28
"""Bytes of its strips or tiles that are kept decoded, for the windows that overlap; one may have as many."""
SHOWN = 2048
"""Pixels of the longer side of its picture, about."""
ROWS = 256
"""Of a strip of the label image."""


class LargeImage:
    """A TIFF of one picture that is read a rectangle at a time, by one thread.

    Args:
        source: its file.
        pixels: how it becomes the network's input.

    Raises:
        UserError: it is damaged, or of a kind that is not read.
    """

    def __init__(self, source: Source, pixels: Pixels) -> None:
        self.path, self.pixels = source.path, pixels
        require_regular(source.path, "image", LARGEST)
        self.file = open(source.path, "rb")  # noqa: SIM115 (closed by close)
        try:
            with mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                self.tiff = Tiff.parse(content)
        except (TiffError, ValueError) as error:
            self.file.close()
            raise UserError(f"{self.path} is {error}: copy or prepare it again") from None
        self.picture = self.tiff.pictures[0]
        self.size, self.bands = self.tiff.size, self.tiff.bands
        self.segment = self._segment_size()
        self.places = [part.tolist() for part in self.picture.places]
        # One piece of memory: arrays that live long between many that do not keep an allocator from using theirs again.
        self.blocks: np.ndarray | None = None
        self.kept: OrderedDict[tuple[int, int], int] = OrderedDict()

    def close(self) -> None:
        self.file.close()

    def is_too_large(self, num_classes: int) -> bool:
        """Whether image, network's input and logits would not fit into the memory that is left."""
        # The file and its values; the input as it is normalised, gathered, moved and resized; two sums of logits.
        of_a_pixel = self.bands * (2 * self.tiff.dtype.itemsize + 4 * 4) + 2 * 4 * num_classes
        return of_a_pixel * self.size[0] * self.size[1] > SHARE * memory.available_bytes()

    def check(self) -> None:
        """Raise UserError unless it can be read in parts."""
        wrong = None
        if len(self.tiff.pictures) > 1 or COLOURS in self.picture.tags or self.picture.one(PLANAR, 1) == 2:
            wrong = "holds several pictures, planes or a palette"
        elif self.bands != self.pixels.bands and (self.bands, self.pixels.bands) != (1, 3):
            wrong = f"has {self.bands} bands where the network takes {self.pixels.bands}"
        elif math.prod(self.segment) * self.bands * self.tiff.dtype.itemsize > HELD:
            wrong = f"its strips or tiles of {self.segment[1]} x {self.segment[0]} pixels are too large for parts of it"
        if wrong:
            raise UserError(f"{self.path} is larger than memory allows, and {wrong}: write it anew, or cut it")

    def values(self, rows: slice, columns: slice) -> np.ndarray:
        """A rectangle of the image, [h, w, C]: uint8, uint16 or float32; three bands in BGR."""
        high, wide = self.segment
        out = None
        for row in range(rows.start // high, -(-rows.stop // high)):
            for column in range(columns.start // wide, -(-columns.stop // wide)):
                block, (top, left) = self._block(row, column), (row * high, column * wide)
                if out is None:
                    out = np.empty((rows.stop - rows.start, columns.stop - columns.start, self.bands), block.dtype)
                first, start = max(rows.start, top), max(columns.start, left)
                part = block[first - top : rows.stop - top, start - left : columns.stop - left]
                at = first - rows.start, start - columns.start
                out[at[0] : at[0] + part.shape[0], at[1] : at[1] + part.shape[1]] = part
        if self.pixels.bands != 3:
            return out
        return np.repeat(out, 3, axis=2) if self.bands == 1 else cv2.cvtColor(out, cv2.COLOR_RGB2BGR)

    def normalised(self, rows: slice, columns: slice) -> Tensor:
        """The network's input, float32 [1, C, h, w]."""
        values = self.values(rows, columns)
        out = np.empty((self.pixels.bands, *values.shape[:2]), np.float32)
        self.pixels.normalise(values, out)
        return torch.from_numpy(out)[None]

    @property
    def _is_plain(self) -> bool:
        """Whether strips are not compressed, so that parts of them can be read."""
        return TILES not in self.picture.tags and self.picture.one(COMPRESSION, 1) == 1

    def _segment_size(self) -> tuple[int, int]:
        """(height, width) of what is read at a time: a tile, a strip, or some rows of one."""
        high, wide = self.picture.segment
        if self._is_plain and high > ROWS:
            # Strips of equal parts, if there are such: then no part lies in two of them.
            parts = [rows for rows in range(ROWS, 0, -1) if high % rows == 0] if high < self.size[0] else [ROWS]
            high = parts[0]
        return high, wide

    def _block(self, row: int, column: int) -> np.ndarray:
        """The decoded tile, or rows of a strip, in a place of the grid of ``segment``."""
        place = row, column
        if place in self.kept:
            self.kept.move_to_end(place)
        else:
            block = self._read(row, column)
            if self.blocks is None:
                full = math.prod(self.segment) * self.bands * block.itemsize
                self.blocks = np.empty((max(1, HELD // full), *self.segment, self.bands), block.dtype)
            free = len(self.kept) if len(self.kept) < len(self.blocks) else self.kept.popitem(last=False)[1]
            self.blocks[free, : len(block)] = block
            self.kept[place] = free
        return self.blocks[self.kept[place]]

    def _read(self, row: int, column: int) -> np.ndarray:
        (height, width), (high, wide) = self.size, self.segment
        is_tile = TILES in self.picture.tags
        high = high if is_tile else min(high, height - row * high)
        shape, starts, lengths = (high, wide, self.bands), *self.places
        if self._is_plain:
            of_a_row = wide * self.bands * self.tiff.dtype.itemsize
            index, below = divmod(row * self.segment[0], self.picture.segment[0])
            start, length = starts[index] + below * of_a_row, high * of_a_row
        else:
            index = row * -(-width // wide) + column
            start, length = starts[index], lengths[index]
        try:
            block = self.tiff._segment(self.picture, os.pread(self.file.fileno(), length, start), shape)
        except TiffError as error:
            raise UserError(f"{self.path} is {error}: copy or prepare it again") from None
        if self.picture.one(PHOTOMETRIC, 1) == WHITE_IS_ZERO and self.tiff.dtype.kind == "u":
            block = np.iinfo(self.tiff.dtype).max - block
        return as_numbers(block, self.tiff.nodata)


def open_large(source: Source, pixels: Pixels, num_classes: int) -> LargeImage | None:
    """The image of ``source`` if it is a TIFF that memory does not hold, and in no zip; None for all others."""
    if isinstance(source.path, ZipPath) or source.path.suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        image = LargeImage(source, pixels)
    except UserError:
        return None
    if image.is_too_large(num_classes):
        return image
    image.close()
    return None


def refuse_large(sources: Iterable[Source], pixels: Pixels, num_classes: int, wanted: str) -> None:
    """Raise UserError where what is ``wanted`` is not written of one of ``sources``, for it is larger than memory."""
    for source in sources:
        if source.kind == "image" and (image := open_large(source, pixels, num_classes)):
            image.close()
            raise UserError(
                f"{source.path} of {image.size[1]} x {image.size[0]} pixels is larger than memory allows, and {wanted} "
                "are not written by windows: leave them out, or predict it by itself"
            )


@torch.inference_mode()
def predict_large(source: Source, image: LargeImage, forecast: Forecast, output: Output) -> bool:
    """Write ``label/<name>.tif`` and a small overlay; returns whether windows took the place of what was asked for."""
    image.check()
    size, way = image.size, forecast.frugal.way_by_strips(forecast.network, image.size, image.pixels.bands)
    step = max(1, math.ceil(max(size) / SHOWN))
    shown = _Shown(size, step)

    def tensor(rows: slice, columns: slice) -> Tensor:
        return image.normalised(rows, columns).to(forecast.device, memory_format=forecast.layout)

    def fill(scratch: BinaryIO) -> None:
        with torch.autocast(forecast.device.type, torch.bfloat16, enabled=forecast.bfloat16):
            found = sliding_blocks(
                forecast.network,
                tensor,
                size,
                window=way.predictor.window,
                stride=way.predictor.stride,
                batch_size=way.predictor.batch_size,
                columns=forecast.frugal.columns(way.predictor, size[0], forecast.device),
            )
            for top, left, logits in found:
                train_ids = predict(logits)[0].cpu().numpy()
                rows, columns = (slice(at, at + side) for at, side in zip((top, left), train_ids.shape, strict=True))
                shown.add(image.values(rows, columns), train_ids, top, left)
                for number, row in enumerate(output.ids_of(train_ids), top):
                    if os.pwrite(scratch.fileno(), row, number * size[1] + left) != len(row):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(file: BinaryIO) -> None:
        # Windows finish blocks, a label image wants rows: its pixels wait in a file without a name.
        with tempfile.TemporaryFile(dir=output.folder) as scratch:
            fill(scratch)
            _write_label(file, scratch, size)

    output.large(source, write, lambda: output.overlay(shown.picture(), shown.train_ids))
    return way.reduced


class _Shown:
    """Each ``step``-th pixel of an image and of its prediction, gathered block by block."""

    def __init__(self, size: tuple[int, int], step: int) -> None:
        self.step, self.size = step, tuple(-(-side // step) for side in size)
        self.train_ids = np.zeros(self.size, np.uint8)
        self.values: np.ndarray | None = None

    def add(self, values: np.ndarray, train_ids: np.ndarray, top: int, left: int) -> None:
        """Take what is shown of a block [h, w, C] whose first pixel is in row ``top`` and column ``left``."""
        if self.values is None:
            self.values = np.zeros((*self.size, values.shape[2]), values.dtype)
        chosen = slice(-top % self.step, None, self.step), slice(-left % self.step, None, self.step)
        some = train_ids[chosen]
        row, column = -(-top // self.step), -(-left // self.step)
        inside = slice(row, row + some.shape[0]), slice(column, column + some.shape[1])
        self.train_ids[inside], self.values[inside] = some, values[chosen]

    def picture(self) -> np.ndarray:
        """uint8 [h, w, 3], BGR."""
        values = self.values
        if values.dtype == np.uint8 and values.shape[2] == 3:
            return values
        picture = as_picture(values)
        # Three bands are in BGR already, others in the file's order.
        return picture if values.shape[2] == 3 else np.ascontiguousarray(picture[..., ::-1])


def _write_label(file: BinaryIO, scratch: BinaryIO, size: tuple[int, int]) -> None:
    """Write a TIFF of the ids in ``scratch``, row by row."""
    height, width = size

    def strips() -> Iterator[bytes]:
        for row in range(0, height, ROWS):
            ids = os.pread(scratch.fileno(), min(ROWS, height - row) * width, row * width)
            yield isal_zlib.compress(ids, 1)

    tifffile.imwrite(
        tifffile.FileHandle(file, name="label.tif", size=0),
        strips(),
        shape=size,
        dtype=np.uint8,
        photometric="minisblack",
        rowsperstrip=ROWS,
        compression="zlib",
        metadata=None,
    )
