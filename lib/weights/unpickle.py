"""Checkpoints, whoever wrote them, read without importing or running anything: only tensors and containers come."""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from lib.weights.archive import Archive, Broken
from lib.weights.foreign import Nothing, Refused, attribute
from lib.weights.plain_pickle import PlainUnpickler

MAGIC = 0x1950A86A20F9469CFC6C
"""What a file of the format before PyTorch 1.6 starts with."""

LARGEST_PICKLE = 1 << 28
"""Bytes that a checkpoint may have besides the numbers in its tensors; histories of long trainings are some 10 MB."""


def read_data(path: Path) -> tuple[Any, list[str]]:
    """The tensors and plain containers in what ``torch.save`` wrote, without any other object.

    Reads the zip archive, all of whose checksums it verifies, and the format before PyTorch 1.6, which is a row of
    pickles and the storages behind them and has no checksums. No memory is taken for more than the file holds.

    Returns:
        What the file holds, and the names of the classes and functions whose objects were dropped.

    Raises:
        Refused: the file wants to run something.
        Broken: it is damaged, in words.
        Exception: of any kind, if the file is damaged or of another format.
    """
    if zipfile.is_zipfile(path):
        with Archive(path) as archive:
            content, dropped = _read_archive(archive)
    else:
        with path.open("rb") as file:
            content, dropped = _read_row(file, path.stat().st_size)
    return without_nothing(content), dropped


def _read_archive(archive: Archive) -> tuple[Any, list[str]]:
    pickled = next((name for name in archive.entries if name.endswith("/data.pkl")), None)
    if pickled is None:
        raise Broken("is an archive but no PyTorch checkpoint")
    folder = pickled.removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in archive.entries and archive.size(order) < 16 and archive.read(order) == b"big":
        raise Broken("was written on a machine of another byte order: write it again on one like this")
    if archive.size(pickled) > LARGEST_PICKLE:
        raise Broken("is no checkpoint: nearly all that it holds is not in tensors")
    content = archive.read(pickled)

    def reserve(key: str | int, size: int) -> None:
        if archive.size(f"{folder}data/{key}") != size:
            raise Broken(f"is damaged: 'data/{key}' has another size than its tensor")

    unpickler = PlainUnpickler(io.BytesIO(content), len(content), reserve)
    result = unpickler.load()
    filled = {f"{folder}data/{key}": storage for key, storage in unpickler.storages.items()}
    for name in archive.entries:
        if name in filled:
            archive.read_into(name, _memory(filled[name]))
        elif name != pickled:
            archive.verify(name)
    return result, unpickler.dropped


def _read_row(file: BinaryIO, size: int) -> tuple[Any, list[str]]:
    def unpickler(reserve: Callable[[str, int], None]) -> PlainUnpickler:
        return PlainUnpickler(file, min(size, file.tell() + LARGEST_PICKLE), reserve)

    def refuse(key: str, _: int) -> None:
        raise pickle.UnpicklingError(f"storage {key} is out of place")

    magic, version, system = (unpickler(refuse).load() for _ in range(3))
    if type(magic) is not int or magic != MAGIC or version != 1001 or not system["little_endian"]:
        raise pickle.UnpicklingError("no checkpoint")
    left = size

    def reserve(key: str, count: int) -> None:
        nonlocal left
        left -= count + 8
        if left < file.tell():
            raise Broken("is cut off or damaged: it announces more than it holds")

    content = unpickler(reserve)
    result = content.load()
    for key in unpickler(refuse).load():
        storage = content.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.numel():
            raise Broken("is damaged: a storage has another size than announced")
        if file.readinto(_memory(storage)) != storage.nbytes:
            raise Broken("is cut off: a storage ends early")
        content.storages.pop(key)
    if content.storages:
        raise Broken("is damaged: storages are not in it")
    return result, content.dropped


def _memory(storage: Tensor) -> memoryview:
    """The bytes of a storage, to be filled."""
    return memoryview(storage.view(torch.uint8).numpy())


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
