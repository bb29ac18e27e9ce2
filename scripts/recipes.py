"""Prints the tables of configs/README.md, from the recipes themselves and the results in configs/results.csv.

With ``--write`` it puts them into that file instead, in place of what follows the heading "Recipes" there.
"""

import argparse
import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.atomic import write_atomically
from lib.config import Config
from lib.tasks import load_config

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "seg"
README = ROOT / "configs" / "README.md"
HEADING = "## Recipes\n"
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


def tables() -> str:
    """A heading and a table for each dataset."""
    with (ROOT / "configs" / "results.csv").open() as file:
        results = {row["recipe"]: row for row in csv.DictReader(file)}
    parts = []
    for folder in sorted(CONFIGS.iterdir()):
        parts += [f"### {folder.name}", "", *table(folder, results), ""]
    return "\n".join(parts)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--write", action="store_true", help="put the tables into configs/README.md")
    if not options.parse_args().write:
        print(tables(), end="")
        return
    prose, _, _ = README.read_text().partition(HEADING)
    text = prose + HEADING + "\n" + tables()
    write_atomically(README, lambda file: file.write(text.encode()))


if __name__ == "__main__":
    main()
