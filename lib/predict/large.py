"""TIFFs larger than memory: read by strips or tiles, predicted by windows, written by strips."""

import math
import mmap
import os
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import BinaryIO

import numpy as np
import tifffile
import torch
from torch import Tensor

from datasets.seg.pixels import Pixels
from datasets.seg.tiff import COLOURS, PLANAR, TILES, Picture, Tiff, TiffError
from lib.base import memory
from lib.base.errors import UserError
from lib.base.regular import require_regular
from lib.inference import predict
from lib.predict.forecast import Forecast
from lib.predict.output import Output
from lib.predict.sources import Source
from lib.strips import sliding_strips

SHARE = 0.5
"""Of the memory that is left: what an image takes as a whole, where it takes more than that, is not tried."""
LARGEST = 1 << 42
"""Bytes of a TIFF."""
SHOWN = 2048
"""Pixels of the longer side of its picture, about."""
ROWS = 256
"""Of a strip of the label image."""


class LargeImage:
    """A TIFF of one picture whose rows are read where they are needed.

    Args:
        source: its file.
        pixels: how it becomes the network's input.

    Raises:
        UserError: it is damaged, or of a kind that is not read in parts.
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
        self.picture: Picture = self.tiff.pictures[0]
        self.size, self.bands = self.tiff.size, self.tiff.bands
        self._segments = lru_cache(maxsize=2)(self._segment_rows)

    def close(self) -> None:
        self.file.close()

    def is_too_large(self, num_classes: int) -> bool:
        """Whether image, network's input and logits would not fit into the memory that is left."""
        of_a_pixel = self.bands * (2 * self.tiff.dtype.itemsize + 4) + 4 * num_classes
        return of_a_pixel * self.size[0] * self.size[1] > SHARE * memory.available_bytes()

    def check(self) -> None:
        """Raise UserError unless it can be read in parts."""
        wrong = None
        if len(self.tiff.pictures) > 1 or COLOURS in self.picture.tags or self.picture.one(PLANAR, 1) == 2:
            wrong = "holds several pictures, planes or a palette"
        elif self.bands != self.pixels.bands:
            wrong = f"has {self.bands} bands where the network takes {self.pixels.bands}"
        if wrong:
            raise UserError(f"{self.path} is larger than memory allows, and {wrong}: write it anew, or cut it")

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows of the image, [stop - start, W, C]; three bands in BGR."""
        high = self.picture.segment[0]
        parts = []
        for number in range(start // high, math.ceil(stop / high)):
            first = number * high
            parts.append(self._segments(number)[max(0, start - first) : stop - first])
        values = np.concatenate(parts)
        return np.ascontiguousarray(values[..., ::-1]) if self.bands == 3 else values

    def normalised(self, start: int, stop: int) -> Tensor:
        """The network's input, float32 [1, C, stop - start, W]."""
        values = self.rows(start, stop)
        out = np.empty((self.bands, *values.shape[:2]), np.float32)
        self.pixels.normalise(values, out)
        return torch.from_numpy(out)[None]

    def _segment_rows(self, number: int) -> np.ndarray:
        """The ``number``-th row of strips or tiles, [rows, W, C]."""
        (height, width), (high, wide) = self.size, self.picture.segment
        first, across = number * high, math.ceil(width / wide)
        if TILES not in self.picture.tags:
            high = min(high, height - first)
        starts, lengths = self.picture.places
        blocks = []
        for index in range(number * across, (number + 1) * across):
            data = os.pread(self.file.fileno(), int(lengths[index]), int(starts[index]))
            try:
                blocks.append(self.tiff._segment(self.picture, data, (high, wide, self.bands)))
            except TiffError as error:
                raise UserError(f"{self.path} is {error}: copy or prepare it again") from None
        return np.concatenate(blocks, axis=1)[: height - first, :width].astype(self.tiff.dtype.newbyteorder("="))


def open_large(source: Source, pixels: Pixels, num_classes: int) -> LargeImage | None:
    """The image of ``source`` if it is a TIFF that memory does not hold; None for all others, readable or not."""
    if source.path.suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        image = LargeImage(source, pixels)
    except UserError:
        return None
    if image.is_too_large(num_classes):
        return image
    image.close()
    return None


@torch.inference_mode()
def predict_large(source: Source, image: LargeImage, forecast: Forecast, output: Output) -> bool:
    """Write ``label/<name>.tif`` and a small overlay; returns whether windows took the place of what was asked for."""
    image.check()
    (height, width), window = image.size, forecast.frugal.way_by_strips(forecast.network, image.size, image.bands)
    predictor, step = window.predictor, max(1, math.ceil(max(height, width) / SHOWN))
    shown: list[tuple[np.ndarray, np.ndarray]] = []

    def tensor(start: int, stop: int) -> Tensor:
        return image.normalised(start, stop).to(forecast.device, memory_format=forecast.layout)

    def strips() -> Iterator[bytes]:
        """The label image, ``ROWS`` rows at a time, compressed."""
        waiting = np.empty((0, width), np.uint8)
        with torch.autocast(forecast.device.type, torch.bfloat16, enabled=forecast.bfloat16):
            found = sliding_strips(
                forecast.network,
                tensor,
                image.size,
                window=predictor.window,
                stride=predictor.stride,
                batch_size=predictor.batch_size,
            )
            for first, logits in found:
                train_ids = predict(logits)[0].cpu().numpy()
                chosen = np.arange(-first % step, len(train_ids), step)
                for row in chosen:
                    # Copies: a view would keep the whole strip.
                    colours = image.rows(first + row, first + row + 1)[0, ::step].copy()
                    shown.append((colours, train_ids[row, ::step].copy()))
                waiting = np.concatenate([waiting, output.ids_of(train_ids)])
                while len(waiting) >= ROWS:
                    yield zlib.compress(waiting[:ROWS].tobytes(), 1)
                    waiting = waiting[ROWS:]
        if len(waiting):
            yield zlib.compress(waiting.tobytes(), 1)

    def write(file: BinaryIO) -> None:
        tifffile.imwrite(
            tifffile.FileHandle(file, name="label.tif", size=0),
            strips(),
            shape=(height, width),
            dtype=np.uint8,
            photometric="minisblack",
            rowsperstrip=ROWS,
            compression="zlib",
            metadata=None,
        )

    def picture() -> np.ndarray:
        image_rows, train_ids = (np.stack([row[part] for row in shown]) for part in (0, 1))
        return output.overlay(_visible(image_rows), train_ids)

    output.large(source, write, picture)
    return window.reduced


def _visible(values: np.ndarray) -> np.ndarray:
    from datasets.seg.bands import as_picture

    return values if values.dtype == np.uint8 and values.shape[2] == 3 else as_picture(values)
