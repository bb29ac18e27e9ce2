"""A pickle machine that builds plain containers, tensors and stand-ins, and nothing by which a file can do harm."""

import pickle
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

from lib.weights.foreign import Held, Nothing, check_key, stand_in

STEPS = 6_000_000
"""Reads that one pickle may take, two or three for each value: seconds. Large checkpoints take a hundred thousand."""

LONGEST_LINE = 1 << 16

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


class _Source:
    """A file from where it is read now, that takes no memory for more than is left of it and ends after ``STEPS``."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.steps = file, size, 0

    def read(self, count: int) -> bytes:
        self.steps += 1
        if self.steps > STEPS:
            raise pickle.UnpicklingError("it has too many steps")
        if count > 1 and count > self.size - self.file.tell():
            raise pickle.UnpicklingError("it announces more than it holds")
        return self.file.read(count)

    def readline(self) -> bytes:
        self.steps += 1
        line = self.file.readline(LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise pickle.UnpicklingError("a line does not end")
        return line


class PlainUnpickler(pickle._Unpickler):
    """Finds nothing but what ``lib.weights.foreign`` has for a class or function, or refuses it.

    The machine is the one written in Python: the other takes gigabytes where a file of some bytes gives an object a
    large number. Every operation takes only what an honest file gives it, so that none reaches a tensor's methods.

    Args:
        file: to read from where it stands.
        size: of the file in bytes.
        reserve: is called with key and size in bytes of a storage before memory is taken for it; raises where the file
            has no such.

    Attributes:
        storages: come empty, and are to be filled, by their keys in the file.
        dropped: names of the classes and functions for which the file got a stand-in.
    """

    dispatch: ClassVar[dict[int, Callable]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO, size: int, reserve: Callable[[str, int], None]) -> None:
        super().__init__(_Source(file, size), encoding="utf-8")
        self.reserve = reserve
        self.storages: dict[str, Tensor] = {}
        self.dropped: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        found = stand_in(module, name)
        if isinstance(found, type) and issubclass(found, Nothing):
            self.dropped.append(f"{module}.{name}")
        return found

    def persistent_load(self, reference: Any) -> Tensor:
        kind, dtype, key, _, count, *view = reference
        if kind != "storage" or not isinstance(dtype, torch.dtype) or any(part is not None for part in view):
            raise pickle.UnpicklingError("a storage is of an unknown kind")
        if not isinstance(key, (str, int)) or type(count) is not int or count < 0:
            raise pickle.UnpicklingError("a storage has no key or no size")
        if key not in self.storages:
            self.reserve(key, count * dtype.itemsize)
            self.storages[key] = torch.empty(count, dtype=dtype)
        if self.storages[key].dtype != dtype or self.storages[key].numel() != count:
            raise pickle.UnpicklingError("a storage is of two kinds")
        return self.storages[key]

    def _top(self, *kinds: type) -> Any:
        if not isinstance(self.stack[-1], kinds):
            raise pickle.UnpicklingError(f"a {type(self.stack[-1]).__name__} is to be filled")
        return self.stack[-1]

    def _load_frame(self) -> None:
        # Frames only tell a reader how much to read at once.
        self.read(8)

    def _load_bytearray(self) -> None:
        (count,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(count)))

    def _load_new(self) -> None:
        arguments = self.stack.pop()
        kind = self.stack.pop()
        if not isinstance(kind, type):
            raise pickle.UnpicklingError("an object is made of what is no class")
        self.append(kind(*arguments))

    def _load_append(self) -> None:
        value = self.stack.pop()
        self._top(list, Nothing).append(value)

    def _load_appends(self) -> None:
        values = self.pop_mark()
        self._top(list, Nothing).extend(values)

    def _load_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        check_key(key)
        self._top(dict)[key] = value

    def _load_items(self) -> None:
        values = self.pop_mark()
        target = self._top(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            check_key(key)
            target[key] = value

    def _load_additions(self) -> None:
        values = self.pop_mark()
        target = self._top(set, Nothing)
        for value in values:
            check_key(value)
            target.add(value)

    def _load_frozenset(self) -> None:
        values = self.pop_mark()
        for value in values:
            check_key(value)
        self.append(frozenset(values))

    def _load_state(self) -> None:
        state = self.stack.pop()
        target = self._top(dict, list, Held)
        if hasattr(target, "__setstate__"):
            target.__setstate__(state)
        # What else has a state, as an OrderedDict has the versions of its modules, has no use for it here.

    dispatch |= {
        pickle.FRAME[0]: _load_frame,
        pickle.BYTEARRAY8[0]: _load_bytearray,
        pickle.NEWOBJ[0]: _load_new,
        pickle.APPEND[0]: _load_append,
        pickle.APPENDS[0]: _load_appends,
        pickle.SETITEM[0]: _load_item,
        pickle.SETITEMS[0]: _load_items,
        pickle.ADDITEMS[0]: _load_additions,
        pickle.FROZENSET[0]: _load_frozenset,
        pickle.BUILD[0]: _load_state,
    }
