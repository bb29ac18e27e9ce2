"""Draws which folder of the project imports which: ``python scripts/imports.py FILE.png``.

A folder stands above all that it imports. Where that cannot be, because folders import one another in a circle, the
circle is named and the exit status is 1.
"""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BOX, GAP, FLOOR = 1.5, 0.35, 1.1
"""Width of a box, space beside it, height of a floor."""


def folder_of(module: str) -> str | None:
    """The folder, such as ``lib/models`` or ``datasets/seg``, that holds a module; None for one of another project."""
    top, *rest = module.split(".")
    if not (ROOT / top).is_dir():
        return "main.py" if module == "main" else None
    inside = bool(rest) and (ROOT / top / rest[0]).is_dir()
    return f"{top}/{rest[0]}" if inside else top


def imported(file: Path) -> set[str]:
    """The modules that a file imports anywhere, for the sake of types as well."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # A name may be a module of the package: `from lib import optim`.
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def graph() -> dict[str, set[str]]:
    """The folders of the program and the other ones that each imports."""
    arrows: dict[str, set[str]] = {}
    files = [ROOT / "main.py", *(file for top in ("lib", "datasets", "exts") for file in (ROOT / top).rglob("*.py"))]
    for file in files:
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        folder = folder_of(module)
        below = {folder_of(name) for name in imported(file)} - {None, folder}
        if below or file.name != "__init__.py":
            arrows.setdefault(folder, set()).update(below)
    return arrows


def floors(arrows: dict[str, set[str]]) -> dict[str, int]:
    """Of each folder: 0 where it imports none, else one more than the highest that it imports.

    Raises:
        CycleError: where folders import one another in a circle.
    """
    found: dict[str, int] = {}
    for folder in TopologicalSorter(arrows).static_order():
        found[folder] = max((found[below] + 1 for below in arrows.get(folder, ())), default=0)
    return found


def draw(arrows: dict[str, set[str]], path: Path) -> None:
    """Write the picture. Arrows to the ground floor, to which almost every folder has one, are left out."""
    from matplotlib.figure import Figure

    floor_of = floors(arrows)
    rows = [
        sorted(folder for folder in floor_of if floor_of[folder] == floor)
        for floor in range(max(floor_of.values()) + 1)
    ]
    place = {
        folder: ((index - (len(row) - 1) / 2) * (BOX + GAP), floor * FLOOR)
        for floor, row in enumerate(rows)
        for index, folder in enumerate(row)
    }
    figure = Figure(figsize=(9, 1.0 * len(rows)), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for folder, below in arrows.items():
        for other in (other for other in below if floor_of[other]):
            (x, y), (to_x, to_y) = place[folder], place[other]
            style = {"arrowstyle": "-|>", "color": "0.6", "lw": 0.9, "connectionstyle": "arc3,rad=0.08"}
            axes.annotate("", (to_x, to_y + 0.2), (x, y - 0.2), arrowprops=style, zorder=1)
    for folder, (x, y) in place.items():
        box = {"boxstyle": "round,pad=0.45", "facecolor": "#e8f0fa", "edgecolor": "#35608f"}
        name = {"lib": "lib/*.py", "lib/base": "lib/base, which all may import"}.get(folder, folder)
        axes.text(x, y, name, ha="center", va="center", fontsize=9, bbox=box, zorder=2)
    widest = max(map(len, rows))
    axes.set_xlim(-widest * (BOX + GAP) / 2, widest * (BOX + GAP) / 2)
    axes.set_ylim(-0.6, (len(rows) - 1) * FLOOR + 0.6)
    figure.savefig(path)


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__.splitlines()[0])
        return 0 if sys.argv[1:] in (["-h"], ["--help"]) else 2
    try:
        draw(graph(), Path(sys.argv[1]))
    except CycleError as error:
        print(f"error: folders import one another: {' -> '.join(error.args[1])}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
