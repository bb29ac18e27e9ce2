"""What is published, as the tables of facts beside the repository tell it: a reference for tests."""

import re
from functools import cache
from math import prod
from pathlib import Path

SPEC = Path(__file__).parents[1].parent / "shared" / "spec"

# The column of the table of facts that a dataset's recipes follow, and how its row "classes" says their number
DATASETS = {
    "cityscapes": ("Cityscapes", r"^(\d+)"),
    "ade20k": ("ADE20K", r"^(\d+)"),
    "pascal_context_60": ("PASCAL Context", r"(\d+) with background"),
    "pascal_context_59": ("PASCAL Context", r"(\d+) without"),
    "pascal_voc": ("PASCAL VOC (aug)", r"(\d+) is the benchmark's own"),
    "pascal_voc_20": ("PASCAL VOC (aug)", r"(\d+) as published"),
}

# How the table calls a setting, our key for it, and how it writes a value.
NAMES = {
    "iterations": ("train.max_iters", int),
    "lr": ("train.lr", float),
    "batch": ("train.batch_size", lambda text: prod(map(int, text.split("x")))),
    "loss": ("loss.name", lambda text: text.removesuffix(" (no aux)")),
    "crop": ("data.crop_size", lambda text: [int(number) for number in numbers(text)]),
    "short side": ("data.short_side", int),
    "backbone": ("model.backbone.name", str),
    "block temperature": ("model.head.block.options.temperature", float),
    "block mask": ("model.head.block.options.mask", lambda text: text == "True"),
    "block output_conv": ("model.head.block.options.output_conv", lambda text: text == "True"),
    "block output_norm": ("model.head.block.options.output_norm", lambda text: text == "True"),
    "test mode": ("val.mode", str),
    "test mscrop scales": ("val.scales", lambda text: numbers(text)),
    "window": ("val.window", lambda text: [int(number) for number in numbers(text)]),
}


@cache
def facts():
    """The tables of the facts, each a list of rows by their headings, and the text with its line breaks removed."""
    text = (SPEC / "recipes.md").read_text()
    tables, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            tables.append([dict(zip(rows[0], row, strict=True)) for row in rows[2:]])
            rows = []
    return tables, " ".join(text.split())


def published(name, column):
    """A cell of the first table; what a column says is the same as in another one is written out."""
    rows = {row[""]: row for row in facts()[0][0]}
    text = rows[name][column]
    columns = list(rows[name])
    if text.startswith("as ADE20K"):
        return published(name, "ADE20K")
    if text.startswith("same"):
        return published(name, columns[columns.index(column) - 1]) + text.removeprefix("same")
    return text


def numbers(text):
    """All numbers in a text, without their signs; a space parts thousands."""
    text = re.sub(r"(?<=\d) (?=\d{3}\b)", "", text)
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", text)]


@cache
def scripts():
    """By script, the recipe beside it and, by our keys, what it sets otherwise than that did; None for a broken one."""
    rows = {}
    for line in (SPEC / "published_scripts.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 5 or not cells[1].endswith(".sh"):
            continue
        recipe, _, differences = cells[4].partition(": ")
        if recipe == "ORIGINAL BROKEN":
            rows[f"{cells[0]}/{cells[1]}"] = None
            continue
        found = {}
        for text in differences.split("; "):
            if text == "the same" or text.startswith("NO RECIPE"):
                continue
            name = next(name for name in sorted(NAMES, key=len, reverse=True) if text.startswith(f"{name} "))
            theirs = re.fullmatch(rf"{name} (.+) vs .+", text)[1]
            key, parse = NAMES[name]
            found[key] = parse(theirs)
            if theirs.endswith("(no aux)"):
                found["model.aux.enabled"] = False
        rows[f"{cells[0]}/{cells[1]}"] = (recipe, found)
    return rows


def of_recipe(recipe):
    """What the script of a recipe's own network sets otherwise than the tables of recipes.md, but for its own test."""
    rows = {name: row for name, row in scripts().items() if row and "/test_" not in name and "trainval" not in name}
    own = [found for named, found in rows.values() if named == recipe]
    # the recipe has the largest backbone
    own = [found for found in own if "model.backbone.name" not in found] or own or [{}]
    if recipe.endswith("/nl_r101"):
        own = [found for found in own if not found.keys() & VARIANTS] or [{}]
    (found,) = own
    return {key: value for key, value in found.items() if key != "model.backbone.name" and not key.startswith("val.")}


# What nonlocalln and nonlocalsmall, variants of the script of nl_r101, set
VARIANTS = {"data.crop_size", "model.head.block.options.temperature"}
