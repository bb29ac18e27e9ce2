"""For ``torch.hub``: what was trained as ``segmentor``, networks (``dnl_resnet101``) and blocks by their names;
``insert_blocks`` puts blocks into anyone's network.

``torch.hub.list(GITHUB)`` names all of it, ``torch.hub.help(GITHUB, NAME)`` explains one.
"""

import hashlib as _hashlib
import importlib as _importlib
import importlib.util as _util
import sys as _sys
from pathlib import Path as _Path

dependencies = ["torch", "numpy", "PIL", "cv2", "isal", "omegaconf", "yaml"]

_FOLDER = __file__.rpartition("/")[0]
if _FOLDER in _sys.path:
    # torch.hub puts it first and takes it away in the end: until then, others' packages come before those of one name.
    _sys.path.remove(_FOLDER)
    _sys.path.append(_FOLDER)
_PRIVATE = _Path(__file__).resolve().parent / "lib" / "hub" / "private"


def _private(name="dnl_hub"):
    """The name of the package that holds this checkout's ``lib`` and ``datasets``, whoever else has some."""
    file = _PRIVATE / "dnl_hub" / "__init__.py"
    known = _sys.modules.get(name)
    if known is not None and _Path(known.__file__ or "/").resolve() != file:
        # Another checkout, such as another version: processes that are started anew find but the first.
        name = f"dnl_hub_{_hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
        known = _sys.modules.get(name)
    elif str(_PRIVATE) not in _sys.path:
        _sys.path.append(str(_PRIVATE))
    if known is None:
        spec = _util.spec_from_file_location(name, file, submodule_search_locations=[])
        _sys.modules[name] = _util.module_from_spec(spec)
        spec.loader.exec_module(_sys.modules[name])
    return name


globals().update(_importlib.import_module(f"{_private()}.lib.hub").entrypoints())
