"""Checkpoints that hold foreign objects, read without importing or running any: only tensors and containers come."""

import builtins
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

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


class Nothing(dict):
    """What stands for an object that was dropped, whatever the file does with it.

    A subclass of dict without any use of its contents, so that a pickle may call it, fill it and give it a state.
    """

    def __new__(cls, *_: Any, **__: Any) -> "Nothing":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __call__(self, *_: Any, **__: Any) -> "Nothing":
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)

    def append(self, _: Any) -> None:
        """Lists and their subclasses are filled through this."""

    def extend(self, _: Any) -> None:
        """And through this."""

    def add(self, _: Any) -> None:
        """Sets are filled through this."""


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    """A part of a storage; ``as_strided`` checks that it lies within."""
    return storage.as_strided(size, stride, offset)


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


_KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


# Modules of the standard library whose objects configurations and logs may hold. All others (os, subprocess, ...) and
# the built-in functions (eval, getattr, ...) have no business in a checkpoint.
_INERT = {
    *("argparse", "array", "_codecs", "collections", "copy_reg", "copyreg", "datetime", "decimal", "enum", "fractions"),
    *("numbers", "pathlib", "types", "typing", "uuid"),
}
_BUILTINS = {"builtins", "__builtin__"}


class Refused(Exception):
    """The file asks for a function that no honest checkpoint needs; its name is the argument."""


def _is_hostile(module: str, name: str) -> bool:
    root = module.partition(".")[0]
    if root in _BUILTINS:
        return not isinstance(getattr(builtins, name, None), type)
    return root in sys.stdlib_module_names and root not in _INERT


class _DataUnpickler(pickle.Unpickler):
    """Finds nothing but the functions above; every other class or function is ``Nothing``, or refused.

    Storages come empty: ``storages`` says which are to be filled, by their keys in the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if _is_hostile(module, name):
            raise Refused(f"{module}.{name}")
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        return _KNOWN.get((module, name), Nothing)

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


def without_nothing(content: Any) -> Any:
    """``content`` without the entries of its containers, at any depth, whose key or value was dropped."""
    if isinstance(content, dict):
        kept = ((key, value) for key, value in content.items() if not _dropped(key) and not _dropped(value))
        return {key: without_nothing(value) for key, value in kept}
    if isinstance(content, (list, tuple)):
        return type(content)(without_nothing(value) for value in content if not _dropped(value))
    return content


def _dropped(value: Any) -> bool:
    return isinstance(value, (Nothing, torch.dtype)) or value is Nothing or callable(value)
