"""What stands for the classes and functions that a foreign pickle names: nothing is imported, nothing is called."""

import builtins
import keyword
import math
import sys
from collections import OrderedDict
from typing import Any

from torch import Tensor

# Modules of the standard library whose objects configurations and logs may hold. All others (os, subprocess, ...) and
# the built-in functions (eval, open, ...) have no business in a checkpoint.
INERT = {
    *("argparse", "array", "_codecs", "collections", "copy_reg", "copyreg", "datetime", "decimal", "enum", "fractions"),
    *("numbers", "pathlib", "types", "typing", "uuid"),
}
BUILTINS = {"builtins", "__builtin__"}

# Built-in functions that a log may hold, say as the way in which it sums up its values. They may be named, not called.
_HELD = {
    *("abs", "all", "any", "ascii", "bin", "callable", "chr", "divmod", "format", "hash", "hex", "id", "isinstance"),
    *("issubclass", "len", "max", "min", "oct", "ord", "pow", "repr", "round", "sorted", "sum"),
}


class Refused(Exception):
    """The file asks for a function that no honest checkpoint needs; its name is the argument."""


class Nothing(dict):
    """What stands for an object that was dropped, whatever the file does with it.

    A subclass of dict without any use of its contents, so that a pickle may call it, fill it and give it a state. Each
    class or function that a file names has a subclass of its own, by which its attributes are judged.
    """

    origin: tuple[str, ...] = ()
    """The module and the names in it that lead to the object."""

    def __new__(cls, *arguments: Any, **_: Any) -> "Nothing":
        cls._check(arguments)
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __call__(self, *arguments: Any, **_: Any) -> "Nothing":
        self._check(arguments)
        return self

    @classmethod
    def _check(cls, arguments: tuple) -> None:
        """Refuse calls that would make a real reader call, or look into, what may only be held."""
        for argument in arguments:
            if argument is attribute or (cls.origin[:1] and cls.origin[0] in BUILTINS and isinstance(argument, Held)):
                raise Refused(str(argument))

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


class Held:
    """A function that a file may name as a value but neither call nor change."""

    __slots__ = ("origin",)

    def __init__(self, *origin: str) -> None:
        self.origin = origin

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise Refused(str(self))

    __setstate__ = __call__

    def __str__(self) -> str:
        return ".".join(self.origin)


class Attribute(Held):
    """``getattr``, as which pickles write the methods of a foreign class: a history's ways of averaging, say.

    An honest file asks for a plain name of a foreign class or object, and keeps what it gets. Everything else is
    refused: attributes of what is not foreign, special attributes, ways through a module, a call of what was got.
    """

    __slots__ = ()

    def __call__(self, *arguments: Any, **_: Any) -> Held:
        if len(arguments) != 2 or not isinstance(arguments[1], str):
            raise Refused(str(self))
        owner, name = arguments
        is_dropped = isinstance(owner, (Held, Nothing)) or _stands_for_class(owner)
        if not is_dropped or not owner.origin or _root(owner.origin[0]) in {*BUILTINS, *sys.stdlib_module_names}:
            raise Refused(str(self))
        origin = (*owner.origin, name)
        if not name.isidentifier() or keyword.iskeyword(name) or _leads_to_code(origin[1:]) or _is_function(name):
            raise Refused(f"{self}(..., {name!r})")
        return Held(*origin)


attribute = Attribute("builtins", "getattr")


class Iterate(Held):
    """``iter``, as which pickles write an iterator over a list; its other form calls a function."""

    __slots__ = ()

    def __call__(self, *arguments: Any, **_: Any) -> Nothing:
        if len(arguments) != 1 or not isinstance(arguments[0], (list, tuple, dict, str)):
            raise Refused(str(self))
        return Nothing()


class Tree(dict):
    """A foreign project's dictionary of settings, as a dictionary."""

    def __init__(self, *parts: Any, **_: Any) -> None:
        super().__init__(*(part for part in parts[:1] if isinstance(part, dict)))

    def __setstate__(self, _: Any) -> None:
        pass


class Listing(list):
    """A foreign project's list of settings, as a list."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None:
        pass


class Ordered(OrderedDict):
    """An OrderedDict, however old a Python wrote it."""

    def __init__(self, pairs: Any = ()) -> None:
        pairs = list(pairs.items() if isinstance(pairs, dict) else pairs)
        for key, _ in pairs:
            check_key(key)
        super().__init__(pairs)


def check_key(key: Any, depth: int = 3) -> None:
    """Raise ValueError for a key whose hash would take for ever: tuples in tuples in tuples."""
    if isinstance(key, (tuple, frozenset)):
        if depth == 0 or len(key) > 16:
            raise ValueError("a key is too large")
        for part in key:
            check_key(part, depth - 1)


LARGEST_VIEW = 1 << 20
"""Elements that a tensor may have which repeats those of a smaller storage."""


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    """A part of a storage; ``as_strided`` checks that it lies within."""
    if not isinstance(storage, Tensor) or math.prod(size) > max(storage.numel(), LARGEST_VIEW):
        raise ValueError("a tensor is larger than its storage")
    return storage.as_strided(size, stride, offset)


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _rebuild_subclass(function: Any, _: Any, arguments: tuple, *__: Any) -> Tensor:
    """A tensor that had attributes, without them."""
    if function is not _rebuild_tensor:
        raise ValueError("a tensor is of an unknown kind")
    return function(*arguments)


def _size(sizes: Any = ()) -> tuple:
    if len(sizes) > 64:
        raise ValueError("a tensor has too many dimensions")
    return tuple(sizes)


KNOWN = {
    ("collections", "OrderedDict"): Ordered,
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_subclass,
    # The settings that torchcv, mmcv and mmengine keep with their weights
    ("pyhocon.config_tree", "ConfigTree"): Tree,
    ("pyhocon.config_tree", "ConfigList"): Listing,
    ("addict.addict", "Dict"): Tree,
    ("mmcv.utils.config", "ConfigDict"): Tree,
    ("mmengine.config.config", "ConfigDict"): Tree,
}
"""The classes and functions of which a file gets what it asks for, or what does the same."""


def stand_in(module: str, name: str) -> Any:
    """What a file gets for the class or function ``name``, which may have dots, of ``module``.

    Raises:
        Refused: if it could run code.
    """
    if (module, name) in KNOWN:
        return KNOWN[module, name]
    if module in BUILTINS and name in ("getattr", "iter"):
        return attribute if name == "getattr" else Iterate(module, name)
    if module in BUILTINS and name in _HELD:
        return Held(module, name)
    names = name.split(".")
    if _is_hostile(module, name) or (len(names) > 1 and _leads_to_code(names)):
        raise Refused(f"{module}.{name}")
    return type("Nothing", (Nothing,), {"origin": (module, *names)})


def _stands_for_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Nothing)


def _root(module: str) -> str:
    return module.partition(".")[0]


def _is_function(name: str) -> bool:
    """Whether it is the name of a built-in function that no log holds: eval, open, ..."""
    return name not in _HELD and name in vars(builtins) and not isinstance(getattr(builtins, name), type)


def _is_hostile(module: str, name: str) -> bool:
    root = _root(module)
    if root in BUILTINS:
        return not isinstance(getattr(builtins, name, None), type)
    return root in sys.stdlib_module_names and root not in INERT


def _leads_to_code(names: tuple[str, ...] | list[str]) -> bool:
    """Whether a chain of attributes has a special one (``__globals__``) or goes through a module of the system."""
    special = any(name.startswith("__") and name.endswith("__") for name in names)
    modules = {*BUILTINS, *sys.stdlib_module_names} - INERT
    return special or any(name in modules for name in names[:-1])
