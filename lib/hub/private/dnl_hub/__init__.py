"""The packages of a checkout under a name of their own: ``dnl_hub.lib``, ``dnl_hub.datasets``, ``dnl_hub.exts``.

``torch.hub`` loads the project into other people's programs, which may have a ``lib`` or a ``datasets`` of theirs, as
Hugging Face's. Here the same files are imported a second time, their imports of one another rewritten as they are
compiled, so that neither side's modules ever stand in the other's place, whichever comes first, and whenever a function
imports something. ``hubconf.py`` puts the folder of this package, in which there is nothing else, at the end of
``sys.path``: processes that are started anew, such as a loader's, find it there.
"""

import ast
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).resolve().parents[4]
OURS = ("lib", "datasets", "exts")


class _Renamed(ast.NodeTransformer):
    """Imports of the checkout's packages become those of ``dnl_hub``'s."""

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        statements: list[ast.stmt] = []
        for alias in node.names:
            top = alias.name.partition(".")[0]
            ours = top in OURS
            name = f"{__name__}.{alias.name}" if ours else alias.name
            statements.append(ast.Import([ast.alias(name, alias.asname)]))
            if ours and not alias.asname:
                # What the statement binds is the first word.
                statements.append(ast.ImportFrom(__name__, [ast.alias(top)], 0))
        return [ast.copy_location(statement, node) for statement in statements]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if not node.level and node.module.partition(".")[0] in OURS:
            node.module = f"{__name__}.{node.module}"
        return node


class _Loader(SourceFileLoader):
    """Compiles a file anew each time: what Python keeps in ``__pycache__`` has the imports as they are written."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def source_to_code(self, data: bytes, path: str, *, _optimize: int = -1) -> CodeType:
        tree = ast.fix_missing_locations(_Renamed().visit(ast.parse(data, path)))
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith(f"{__name__}."):
            return None
        parts = fullname.removeprefix(f"{__name__}.").split(".")
        place = ROOT.joinpath(*parts)
        if parts[0] not in OURS:
            return None
        for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if file.is_file():
                # Nowhere to search: the ordinary finder would not rewrite.
                inside = [] if file.name == "__init__.py" else None
                loader = _Loader(fullname, str(file))
                return spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=inside)
        return ModuleSpec(fullname, None, is_package=True) if place.is_dir() else None


sys.meta_path.insert(0, _Finder())
