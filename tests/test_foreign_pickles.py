"""Foreign objects in a checkpoint are dropped, whatever their pickle names; what would run code is refused, not run."""

import collections
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.base.errors import UserError
from lib.weights import read_file

SHARED = Path(__file__).parents[2] / "shared" / "golden" / "more"


def text(value):
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def name(module, attribute):
    """A class or function, as protocol 2 asks for it."""
    return f"c{module}\n{attribute}\n".encode()


def chain(module, names):
    """The same as protocol 4 does it, where names may have dots."""
    return text(module) + text(names) + b"\x93"


def call(function, *arguments):
    return function + b"(" + b"".join(arguments) + b"tR"


def listed(*entries):
    return b"](" + b"".join(entries) + b"e"


GETATTR = name("__builtin__", "getattr")
HISTORY = name("mmengine.logging.history_buffer", "HistoryBuffer")


def attribute(owner, *names):
    for entry in names:
        owner = call(GETATTR, owner, text(entry))
    return owner


def write(path, entry):
    """A checkpoint of one tensor, ``weight``, and of what the opcodes ``entry`` make, ``extra``."""
    torch.save({"weight": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    storage = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x02tQ"
    tensor = call(
        name("torch._utils", "_rebuild_tensor_v2"), storage, b"K\x00", b"K\x02\x85", b"K\x01\x85", b"\x89", b"N"
    )
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in contents.items():
            if file.endswith("data.pkl"):
                content = b"\x80\x04}(" + text("weight") + tensor + text("extra") + entry + b"u."
            archive.writestr(file, content)


# Each makes a folder where it is really run.
ATTACKS = {
    "os": lambda path: call(name("os", "mkdir"), path),
    "posix": lambda path: call(name("posix", "mkdir"), path),
    "import, then getattr": lambda path: call(
        attribute(call(name("builtins", "__import__"), text("os")), "mkdir"), path
    ),
    "getattr from a module in a module": lambda path: call(attribute(name("torch", "os"), "mkdir"), path),
    "getattr twice": lambda path: call(attribute(name("torch._utils", "torch"), "os", "mkdir"), path),
    "getattr through numpy": lambda path: call(attribute(name("numpy._core._methods", "os"), "mkdir"), path),
    "getattr through numpy 1": lambda path: call(attribute(name("numpy.core._methods", "os"), "mkdir"), path),
    "getattr from an own class's globals": lambda path: call(
        attribute(
            call(attribute(name("torch.nn", "Module"), "__init__", "__globals__", "get"), text("torch")), "os", "mkdir"
        ),
        path,
    ),
    "getattr with a default": lambda path: call(call(GETATTR, name("torch", "os"), text("mkdir"), b"N"), path),
    "a dotted name": lambda path: call(chain("torch", "os.mkdir"), path),
    "a dotted name of an allowed module": lambda path: call(
        call(name("builtins", "getattr"), call(chain("collections", "_sys.modules.get"), text("os")), text("mkdir")),
        path,
    ),
    "attrgetter": lambda path: call(
        call(call(name("operator", "attrgetter"), text("mkdir")), name("torch", "os")), path
    ),
    "methodcaller": lambda path: call(call(name("operator", "methodcaller"), text("mkdir"), path), name("torch", "os")),
    "partial": lambda path: call(call(name("functools", "partial"), name("os", "mkdir"), path)),
    "reduce of getattr": lambda path: call(
        call(name("functools", "reduce"), GETATTR, listed(name("torch", "os"), text("mkdir"))), path
    ),
    "map of getattr": lambda path: call(
        name("builtins", "list"),
        call(
            name("builtins", "map"),
            call(
                name("builtins", "next"),
                call(name("builtins", "map"), GETATTR, listed(name("torch", "os")), listed(text("mkdir"))),
            ),
            listed(path),
        ),
    ),
    "map of an attribute": lambda path: call(
        name("builtins", "list"), call(name("builtins", "map"), attribute(name("torch", "os"), "mkdir"), listed(path))
    ),
    "within the arguments of a foreign class": lambda path: call(
        name("collections", "OrderedDict"), listed(listed(text("a"), call(name("os", "mkdir"), path)))
    ),
    "in a state": lambda path: (
        call(name("collections", "OrderedDict")) + b"}" + text("a") + call(name("os", "mkdir"), path) + b"sb"
    ),
}
for function in ("eval", "exec"):
    for module in ("builtins", "__builtin__"):
        ATTACKS[f"{module}.{function}"] = lambda path, module=module, function=function: call(
            name(module, function), text(f"__import__('os').mkdir({pickle.loads(path + b'.')!r})")
        )


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused(tmp_path, attack):
    careless, careful = tmp_path / "careless", tmp_path / "careful"
    protocol = b"\x80\x04" if "dotted" in attack else b"\x80\x02"
    try:
        pickle.loads(protocol + ATTACKS[attack](text(str(careless))) + b".")
    except ModuleNotFoundError:  # of another NumPy
        assert "numpy" in attack
    else:
        assert careless.is_dir(), "not an attack"
    write(tmp_path / "bomb.pth", ATTACKS[attack](text(str(careful))))
    with pytest.raises(
        UserError, match=r"refused to load pretrained file .*bomb\.pth: it asks for .*, which runs code"
    ):
        read_file(tmp_path / "bomb.pth")
    assert not careful.exists()


@pytest.mark.parametrize(
    "entry",
    [
        attribute(HISTORY, "__init__"),
        attribute(HISTORY, "mean", "__globals__"),
        attribute(HISTORY, "mean", "__func__", "__code__"),
        attribute(HISTORY, "mean.__globals__"),
        attribute(HISTORY, ""),
        call(attribute(HISTORY, "mean"), text("anything")),
        call(attribute(HISTORY, "sys", "modules")),
        attribute(HISTORY, "eval"),
        attribute(name("six.moves", "builtins"), "eval"),
        attribute(name("collections", "OrderedDict"), "fromkeys"),
        attribute(name("pathlib", "Path"), "home"),
        attribute(name("builtins", "dict"), "fromkeys"),
        attribute(GETATTR, "__self__"),
        attribute(text("text"), "format"),
        attribute(name("torch", "FloatStorage"), "from_buffer"),
        call(GETATTR, HISTORY, name("torch", "Size")),
        call(GETATTR, HISTORY),
        GETATTR,
        call(HISTORY, GETATTR),
        call(name("builtins", "map"), attribute(HISTORY, "mean"), listed(text("1"))),
        call(name("builtins", "map"), name("builtins", "len"), listed(text("1"))),
        call(name("builtins", "iter"), HISTORY, b"N"),
        call(name("builtins", "len"), text("1")),
        name("builtins", "eval"),
        name("builtins", "open"),
        name("builtins", "no_such_function"),
        chain("builtins", "str.format"),
        chain("mmengine.hooks", "Hook.__init__"),
        chain("mmengine.hooks", "os.system"),
        name("subprocess", "Popen"),
        name("importlib", "import_module"),
        name("pickle", "loads"),
    ],
    ids=str,
)
def test_what_no_honest_file_asks_for_is_refused_even_where_nothing_comes_of_it(tmp_path, entry):
    write(tmp_path / "odd.pth", listed(entry))
    with pytest.raises(UserError, match="refused to load"):
        read_file(tmp_path / "odd.pth")


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize(
    "entry",
    [
        lambda core: attribute(HISTORY, "mean"),
        lambda core: attribute(name("torch.optim.lr_scheduler", "OneCycleLR"), "_annealing_cos"),
        lambda core: attribute(HISTORY, "Inner", "method"),
        lambda core: attribute(call(HISTORY), "mean"),
        lambda core: chain("mmengine.logging", "HistoryBuffer.mean"),
        lambda core: name("builtins", "max"),
        lambda core: call(name("builtins", "iter"), listed(text("a"))),
        lambda core: call(
            name(f"{core}.multiarray", "_reconstruct"), name("numpy", "ndarray"), b"K\x00\x85", text("b")
        ),
        lambda core: call(
            name(f"{core}.multiarray", "scalar"), call(name("numpy", "dtype"), text("f8")), text("12345678")
        ),
        lambda core: call(HISTORY, call(name("collections", "Counter"), b"}" + text("a") + b"K\x01s")),
        lambda core: call(HISTORY, listed(attribute(HISTORY, "mean"))),
    ],
)
def test_foreign_objects_are_dropped_whatever_their_pickle_names(tmp_path, core, entry):
    write(tmp_path / "run.pth", b"}(" + text("kept") + b"K\x01" + text("dropped") + entry(core) + b"u")
    read = read_file(tmp_path / "run.pth")
    assert torch.equal(read["weight"], torch.ones(2)) and read["extra"] == {"kept": 1}


def test_what_numpy_and_collections_write_is_dropped(tmp_path):
    hub = {
        "array": np.arange(5.0),
        "scalar": np.float32(3),
        "texts": np.array(["a", "b"], dtype=object),
        "counter": collections.Counter("abc"),
        "random": np.random.default_rng(0),
        "iterator": iter([1, 2]),
        "best": max,
        "loss": torch.ones(3),
        "rows": [np.int64(1), torch.zeros(2), 7],
    }
    torch.save({"state_dict": {"weight": torch.ones(2)}, "message_hub": hub}, tmp_path / "run.pth")
    read = read_file(tmp_path / "run.pth")
    assert read["message_hub"].keys() == {"loss", "rows"} and read["message_hub"]["rows"][1] == 7
    torch.testing.assert_close(read["state_dict"]["weight"], torch.ones(2))


def test_a_foreign_configuration_comes_as_plain_dictionaries_and_lists(tmp_path, monkeypatch):
    module = types.ModuleType("pyhocon.config_tree")

    class ConfigTree(collections.OrderedDict):
        pass

    class ConfigList(list):
        pass

    for entry in (ConfigTree, ConfigList):
        entry.__module__, entry.__qualname__ = module.__name__, entry.__name__
        setattr(module, entry.__name__, entry)
    monkeypatch.setitem(sys.modules, "pyhocon", types.ModuleType("pyhocon"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    tree = ConfigTree(network=ConfigTree(model_name="nonlocalbn"), scales=ConfigList([1, 2]))
    tree.history = {"network": [tree]}
    torch.save({"state_dict": {"weight": torch.ones(2)}, "config_dict": tree}, tmp_path / "run.pth")
    monkeypatch.delitem(sys.modules, module.__name__)
    read = read_file(tmp_path / "run.pth")["config_dict"]
    assert read == {"network": {"model_name": "nonlocalbn"}, "scales": [1, 2]}
    assert [type(entry) for entry in (read, read["network"], read["scales"])] == [dict, dict, list]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the fixtures are not there")
def test_a_training_checkpoint_of_mmengine_loads_without_its_histories():
    read = read_file(SHARED / "checkpoint_mmengine.pth")
    assert read.keys() == {"meta", "state_dict", "message_hub", "optimizer", "param_schedulers"}
    assert read["message_hub"]["log_scalars"] == {} and read["message_hub"]["runtime_info"]["max_iters"] == 4
