"""Checkpoints that hold foreign objects, read without importing or running any: only tensors and containers come."""

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from lib.weights.foreign import Nothing, Refused, attribute, stand_in

MAGIC = 0x1950A86A20F9469CFC6C
"""What a file of the format before PyTorch 1.6 starts with."""

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _DataUnpickler(pickle.Unpickler):
    """Finds nothing but what ``lib.weights.foreign`` has for a class or function, or refuses it.

    Storages come empty: ``storages`` says which are to be filled, by their keys in the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        return stand_in(module, name)

    def persistent_load(self, reference: Any) -> Tensor:
        kind, dtype, key, _, count, *view = reference
        if kind != "storage" or not isinstance(dtype, torch.dtype) or any(part is not None for part in view):
            raise pickle.UnpicklingError(f"storage {key} is of an unknown kind")
        if key not in self.storages:
            self.storages[key] = torch.empty(count, dtype=dtype)
        return self.storages[key]


def read_data(path: Path) -> Any:
    """The tensors and plain containers in what ``torch.save`` wrote, without any other object.

    Reads the zip archive and the format before PyTorch 1.6, which is a row of pickles and the storages behind them.

    Raises:
        Refused: the file wants to run something.
        Exception: of any kind, if the file is damaged or of another format.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return without_nothing(_read_archive(archive))
    with path.open("rb") as file:
        return without_nothing(_read_row(file))


def _read_archive(archive: zipfile.ZipFile) -> Any:
    pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
    folder = pickled.removesuffix("/data.pkl")
    order = f"{folder}/byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise pickle.UnpicklingError("written on a machine of another byte order")
    with archive.open(pickled) as file:
        unpickler = _DataUnpickler(file)
        content = unpickler.load()
    for key, storage in unpickler.storages.items():
        _fill(storage, archive.read(f"{folder}/data/{key}"))
    return content


def _read_row(file: BinaryIO) -> Any:
    magic, version, system = (_DataUnpickler(file).load() for _ in range(3))
    if magic != MAGIC or version != 1001 or not system["little_endian"]:
        raise pickle.UnpicklingError("no checkpoint")
    unpickler = _DataUnpickler(file)
    content = unpickler.load()
    for key in _DataUnpickler(file).load():
        storage = unpickler.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.numel():
            raise pickle.UnpicklingError(f"storage {key} has another size than announced")
        _fill(storage, file.read(storage.nbytes))
    return content


def _fill(storage: Tensor, content: bytes) -> None:
    if len(content) != storage.nbytes:
        raise pickle.UnpicklingError("a storage is cut off")
    if content:
        storage.copy_(torch.frombuffer(bytearray(content), dtype=storage.dtype))


def without_nothing(content: Any, done: dict[int, Any] | None = None) -> Any:
    """``content`` in plain containers, without their entries, at any depth, whose key or value was dropped.

    Args:
        done: what has become of its containers so far, by their ids: one that stands in several places is one still.

    Raises:
        Refused: if it holds the function by which attributes are taken.
    """
    done = {} if done is None else done
    if id(content) in done:
        return done[id(content)]
    if isinstance(content, dict):
        kept = ((key, value) for key, value in content.items() if not _dropped(key) and not _dropped(value))
        done[id(content)] = {key: without_nothing(value, done) for key, value in kept}
    for plain in (list, tuple, set, frozenset):
        if isinstance(content, plain):
            kept = (value for value in content if not _dropped(value))
            done[id(content)] = plain(without_nothing(value, done) for value in kept)
    return done.get(id(content), content)


def _dropped(value: Any) -> bool:
    if value is attribute:
        raise Refused(str(value))
    return isinstance(value, (Nothing, torch.dtype)) or callable(value)
