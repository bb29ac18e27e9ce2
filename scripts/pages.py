"""Prints the pages that are made from the code and its data: the recipes, the keys, the networks.

With ``--write`` it puts each into its file instead, in place of everything from the page's first heading on; what is
above that heading is written by hand.
"""

import argparse
import csv
import re
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.atomic import write_atomically
from lib.config import Config
from lib.keys import as_text, keys
from lib.models.manual import manual
from lib.tasks import load_config, tasks
from scripts import published

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "seg"
HEADER = ("recipe", "script", "network", "backbone", "crop (w x h)", "iterations", "published", "own")


def find_scripts(folder: Path) -> dict[str, str]:
    """The scripts of a dataset: from the name of the recipe that one starts to its own."""
    scripts = {}
    for script in sorted((ROOT / "scripts" / "seg" / folder.name).glob("run_*.sh")):
        found = re.search(rf"seg/{folder.name}/(\w+)\.yaml", script.read_text())
        if found:
            scripts[found[1]] = script.name
    return scripts


def describe(config: Config) -> tuple[str, ...]:
    """Network, backbone, crop and iterations."""
    head, (width, height) = config.model.head, config.data.crop_size
    network = f"{head.name}: {head.block.name}" if head.name == "nonlocal" else head.name
    return network, config.model.backbone.name, f"{width} x {height}", str(config.train.max_iters)


def table(folder: Path, results: dict[str, dict[str, str]]) -> Iterator[str]:
    """The lines of a dataset's table."""
    scripts = find_scripts(folder)
    yield from ("| " + " | ".join(cells) + " |" for cells in (HEADER, ("---",) * len(HEADER)))
    for file in sorted(folder.glob("*.yaml")):
        result = results.get(f"{folder.name}/{file.stem}", {"published": "", "own": ""})
        link = f"[{file.stem}](seg/{folder.name}/{file.name})"
        cells = (link, scripts.get(file.stem, ""), *describe(load_config(file, [])), result["published"], result["own"])
        yield "| " + " | ".join(cells) + " |"


def recipes() -> str:
    """A heading and a table for each dataset, with the results in configs/results.csv; then the published scripts."""
    with (ROOT / "configs" / "results.csv").open() as file:
        results = {row["recipe"]: row for row in csv.DictReader(file)}
    parts = ["## Recipes", ""]
    for folder in sorted(CONFIGS.iterdir()):
        parts += [f"### {folder.name}", "", *table(folder, results), ""]
    parts.append(published.table())
    return "\n".join(parts)


def configuration() -> str:
    """A table for each group of keys of each task."""
    parts, header = [], ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, task in tasks().items():
        defaults = task.schema()
        parts += [f"## task={name}", ""]
        for group, members in groupby(keys(task.schema), lambda key: key.name.rpartition(".")[0]):
            parts += [f"### {group or 'the run'}", "", *header]
            for key in members:
                allowed = "; ".join(allowed.wording(defaults) for allowed in key.allowed)
                meaning = key.meaning.replace("``", "`") + (f" *{allowed[0].upper()}{allowed[1:]}.*" if allowed else "")
                parts.append(f"| `{key.name}` | {key.type} | `{as_text(key.default)}` | {meaning} |")
            parts.append("")
    return "\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "configs/README.md": recipes,
    "configs/KEYS.md": configuration,
    "lib/models/README.md": manual,
}
"""The files, and what makes the part of each that is not written by hand; it begins with a heading."""


def whole(name: str) -> str:
    """A file of ``PAGES`` as it should be: what is written by hand in it now, and the page."""
    page = PAGES[name]()
    heading = f"\n{page.splitlines()[0]}\n"
    by_hand, _, _ = (ROOT / name).read_text().partition(heading)
    return f"{by_hand}\n{page}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--write", action="store_true", help="put the pages into their files")
    if not options.parse_args().write:
        print("\n".join(page() for page in PAGES.values()), end="")
        return
    for name in PAGES:
        text = whole(name)
        write_atomically(ROOT / name, lambda file, text=text: file.write(text.encode()))


if __name__ == "__main__":
    main()
