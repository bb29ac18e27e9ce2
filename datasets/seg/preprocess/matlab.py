"""Reading label arrays in MATLAB files, version 5 (MathWorks, *MAT-File Format*, chapter 1), without trust in them.

Every length is compared with what is there before it is used; a damaged file ends in an exception, never in a crash.
"""

import zlib
from pathlib import Path

import numpy as np

from datasets.seg.preprocess.runner import LabelError
from lib.base.regular import read_regular

HEADER = 128
"""Bytes before the first element; the last two say how numbers are ordered."""
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Element types that hold numbers."""
MATRIX, COMPRESSED = 14, 15
STRUCTURE, FIRST_NUMERIC, LAST_NUMERIC = 2, 6, 15
"""Classes of arrays."""
COMPLEX = 8
"""Bit of an array's flags."""
MOST = 1 << 28
"""Bytes of the largest variable."""


class _Damaged(Exception):
    pass


class _Elements:
    """The elements of ``data`` one after the other; ``order`` is "<" or ">"."""

    def __init__(self, data: memoryview, order: str) -> None:
        self.data, self.order, self.at = data, order, 0

    def more(self) -> bool:
        return self.at < len(self.data)

    def take(self) -> tuple[int, memoryview]:
        """The next element's type and contents."""
        first, size = self._numbers(self.at, "u4", 2)
        kind, start = int(first), self.at + 8
        if kind >> 16:  # up to four bytes lie within the tag
            kind, size, start = kind & 0xFFFF, kind >> 16, self.at + 4
            self.at += 8
            if size > 4:
                raise _Damaged
        else:
            size = int(size)
            self.at = start + size + (0 if kind == COMPRESSED else -size % 8)
        if start + size > len(self.data):
            raise _Damaged
        return kind, self.data[start : start + size]

    def numbers(self) -> np.ndarray:
        """The next element, one of numbers."""
        kind, content = self.take()
        dtype = np.dtype(self.order + NUMBERS[kind])
        if len(content) % dtype.itemsize:
            raise _Damaged
        return np.frombuffer(content, dtype)

    def _numbers(self, at: int, dtype: str, count: int) -> np.ndarray:
        if at + 4 * count > len(self.data):
            raise _Damaged
        return np.frombuffer(self.data, self.order + dtype, count, at)


class _Array:
    """A variable or a field: its name, class, flags and dimensions, and what follows these."""

    def __init__(self, content: memoryview, order: str) -> None:
        self.rest = _Elements(content, order)
        flags = int(self.rest.numbers()[0])
        self.kind, self.flags = flags & 0xFF, flags >> 8 & 0xFF
        self.shape = tuple(int(side) for side in self.rest.numbers())
        self.name = self.rest.numbers().tobytes().decode("latin-1")
        if len(self.shape) < 2 or min(self.shape) < 0:
            raise _Damaged

    def field(self, name: str) -> "_Array":
        """Field ``name`` of a structure of one element."""
        if self.kind != STRUCTURE or self.shape != (1, 1):
            raise _Damaged
        length = int(self.rest.numbers()[0])
        names = self.rest.numbers().tobytes()
        if not 0 < length <= len(names) or len(names) % length:
            raise _Damaged
        names = [names[at : at + length].split(b"\0")[0].decode("latin-1") for at in range(0, len(names), length)]
        fields = [self.rest.take() for _ in names]
        if any(kind != MATRIX for kind, _ in fields):
            raise _Damaged
        return _Array(fields[names.index(name)][1], self.rest.order)

    def matrix(self) -> np.ndarray:
        """The numbers, [H, W]."""
        if len(self.shape) != 2 or not FIRST_NUMERIC <= self.kind <= LAST_NUMERIC or self.flags & COMPLEX:
            raise TypeError
        values = self.rest.numbers()
        if len(values) != self.shape[0] * self.shape[1]:
            raise _Damaged
        return values.reshape(self.shape, order="F")


def read_matlab(path: Path, *fields: str) -> np.ndarray:
    """An array of whole numbers in a MATLAB file, int64 [H, W].

    Args:
        path: a file in MATLAB's format 5.
        fields: the variable's name and then, for a structure, the name of its field, and so on.

    Raises:
        LabelError: the file is damaged or there is no such array.
        UserError: it cannot be read.
    """
    name = ".".join(fields)
    content = read_regular(path, MOST)
    try:
        array = _variable(content, fields[0])
        for field in fields[1:]:
            array = array.field(field)
        value = array.matrix()
    except TypeError as error:
        raise LabelError(f"{name} is not a matrix of label ids") from error
    except (_Damaged, LookupError, ValueError, zlib.error) as error:
        raise LabelError(f"not a MATLAB file that holds {name}, damaged or cut off") from error
    if value.size and not -(2**53) <= value.min() <= value.max() <= 2**53:  # nor what is no number
        raise LabelError(f"{name} is not a matrix of label ids")
    if value.dtype.kind == "f" and np.any(value % 1 != 0):
        raise LabelError(f"{name} is not a matrix of label ids")
    return value.astype(np.int64)


def _variable(content: bytes, name: str) -> _Array:
    """The variable ``name`` of a file; raises what a damaged file makes it raise."""
    order = {b"IM": "<", b"MI": ">"}[content[HEADER - 2 : HEADER]]
    elements = _Elements(memoryview(content)[HEADER:], order)
    while elements.more():
        kind, data = elements.take()
        if kind == COMPRESSED:
            inflate = zlib.decompressobj()
            unpacked = inflate.decompress(data, MOST)
            if not inflate.eof:
                raise _Damaged
            kind, data = _Elements(memoryview(unpacked), order).take()
        if kind == MATRIX and len(data):
            array = _Array(data, order)
            if array.name == name:
                return array
    raise LookupError(name)
