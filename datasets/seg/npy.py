"""Reading the first rows of a ``.npy`` array (numpy.lib.format) without the rest; no object is ever unpickled."""

import os
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from datasets.seg.archive import ZipPath
from lib.base.regular import require_regular

SIGNATURE = b"\x93NUMPY"
LONGEST_HEADER = 4096
"""Bytes; NumPy's own have 118."""
LARGEST = 1 << 38
"""Bytes of a file of which no more is read than is asked for."""
HEADER = re.compile(
    r"\{'descr': '([<>|=])([uifb])([1248])', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,12}, ?)*(?:\d{1,12})?)\),? ?\}\s*"
)
"""As NumPy writes it. Nothing else is taken, so that nothing need be evaluated."""


class NpyError(Exception):
    """A file is no such array; the message completes "FILE is ..."."""


@dataclass(frozen=True)
class Npy:
    """The header of a ``.npy`` file: an array [H, W] or [H, W, C].

    Attributes:
        path: the file.
        dtype: of its numbers, as they are stored.
        size: (height, width).
        bands: C; 1 without that axis.
        is_fortran: whether the first axis varies fastest.
        start: where the numbers begin, in bytes.
    """

    path: Path | ZipPath
    dtype: np.dtype
    size: tuple[int, int]
    bands: int
    is_fortran: bool
    start: int

    @classmethod
    def parse(cls, path: Path | ZipPath) -> "Npy":
        """Read and check the header; raises ``NpyError``, or ``UserError`` where the file cannot be read."""
        whole = path.read_bytes() if isinstance(path, ZipPath) else None
        length = require_regular(path, "image", LARGEST) if whole is None else len(whole)
        begin = _read(path, 0, LONGEST_HEADER) if whole is None else whole[:LONGEST_HEADER]
        if not begin.startswith(SIGNATURE[: len(begin)]):
            raise NpyError("no NumPy array (.npy)")
        at = 10 if begin[6:7] == b"\x01" else 12
        if len(begin) < at or begin[6] not in (1, 2, 3):
            raise NpyError("truncated" if len(begin) < at else "damaged")
        start = at + int.from_bytes(begin[8:at], "little")
        if start > len(begin):
            raise NpyError("truncated" if length < start else "damaged")
        found = HEADER.fullmatch(begin[at:start].decode("latin-1"))
        if not found:
            raise NpyError("a NumPy array of something else than numbers, or damaged: save it as float32 [H, W, C]")
        order, kind, bytes_each, fortran, shape = found.groups()
        if kind == "b" or (kind == "f" and bytes_each == "1"):
            raise NpyError("a NumPy array of no numbers: save it as uint8, uint16 or float32 [H, W, C]")
        sides = [int(side) for side in shape.replace(" ", "").split(",") if side]
        if len(sides) not in (2, 3) or min(sides) < 1:
            raise NpyError(f"a NumPy array of shape ({shape}): an image is [H, W] or [H, W, C]")
        dtype = np.dtype(order + kind + bytes_each)
        if start + prod(sides) * dtype.itemsize > length:
            raise NpyError(f"truncated: it has {length} bytes, its shape ({shape}) needs more")
        return cls(path, dtype, (sides[0], sides[1]), sides[2] if len(sides) == 3 else 1, fortran == "True", start)

    def decode(self, rows: int) -> np.ndarray:
        """The first ``rows`` rows, [rows, W, bands], as they are stored, of which alone the file is read."""
        height, width = self.size
        # Read, not mapped: a file that another process shortens would end the one that has it mapped.
        count = (height if self.is_fortran else rows) * width * self.bands
        size = count * self.dtype.itemsize
        content = (
            self.path.read_bytes()[self.start : self.start + size]
            if isinstance(self.path, ZipPath)
            else _read(self.path, self.start, size)
        )
        if len(content) < size:
            raise NpyError("truncated")
        numbers = np.frombuffer(content, self.dtype)
        if self.is_fortran:
            return numbers.reshape((height, width, self.bands), order="F")[:rows]
        return numbers.reshape(rows, width, self.bands)


def _read(path: Path, start: int, size: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(size)
    except OSError as error:
        raise NpyError(f"unreadable ({os.strerror(error.errno or 0)})") from error
