"""The diagnosis as text for the terminal; ``page`` has it as HTML."""

import textwrap
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from datasets.seg.own.facts import Survey
from datasets.seg.own.finding import Finding
from datasets.seg.own.page import html
from datasets.seg.own.statistics import SPLITS, Totals, class_weights, mean_and_std
from datasets.seg.own.words import kinds, listed, several, share, shown, sizes
from lib.base.names import printable

__all__ = ["html", "text"]

WIDTH = 100
"""Columns that sentences are wrapped at."""
MOST_CLASSES = 40
"""Rows of the table, of the classes with most pixels; report.html has all."""
LONGEST_NAME = 32


def text(survey: Survey, findings: Sequence[Finding]) -> str:
    """What was recognised, sizes and splits, the classes and the findings: lines of up to 119 columns.

    Args:
        survey: what reading the images and labels found.
        findings: of ``diagnose``.
    """
    totals = Totals(survey)
    parts = [
        ["Recognised", *(line for sentence in survey.recognised for line in _wrapped(sentence, "  - "))],
        ["Images", *(line for fact in image_lines(totals) for line in _wrapped(fact, "  "))],
        *([_classes(totals)] if totals.classes else []),
        _findings(findings),
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def image_lines(totals: Totals) -> list[str]:
    """Numbers, sizes, kinds and figures of the images, a sentence each."""
    facts = totals.survey.facts
    if not facts:
        return ["none"]
    splits = ", ".join(f"{split} {len(totals.of(split)):,}" for split in SPLITS if totals.of(split))
    splits = splits or several(len(facts), "image")
    lines = [f"{splits}; {sizes(facts)}; {kinds(facts)}"]
    train = totals.of("train")
    if train:
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in mean_and_std(train))
        lines.append(f"mean {mean}, standard deviation {std} (of the bands, over the train images)")
    return lines


def _classes(totals: Totals) -> list[str]:
    counts = {split: totals.counts(split) for split in (None, *SPLITS)}
    splits = [split for split in SPLITS if counts[split].labels]
    weights = class_weights(totals.survey)
    colours = totals.survey.colours
    rows = [["id", "class", "colour" if colours else "value", "pixels", *splits, "weight"]]
    first = counts[splits[0]] if splits else counts[None]
    chosen = sorted(np.argsort(-first.pixels, kind="stable")[:MOST_CLASSES].tolist())
    for place, entry in ((place, totals.classes[place]) for place in chosen):
        rows.append(
            [
                str(entry.id),
                _shortened(printable(entry.name)),
                "-" if entry.value is None else shown(entry.value, colours),
                share(first.pixels[place] / max(first.total, 1)),
                *(f"{counts[split].images[place]:,}" for split in splits),
                f"{weights[place]:.2f}",
            ]
        )
    told = (
        f"{several(len(totals.classes), 'class', 'classes')}: share of the {splits[0] if splits else ''} pixels, labels"
    )
    lines = [f"{told} that have it by split, weight", *_aligned(rows, left=(1, 2))]
    if len(totals.classes) > MOST_CLASSES:
        lines.append(f"  and {len(totals.classes) - MOST_CLASSES} more, with fewer pixels")
    ignored = sorted({entry.value for entry in totals.survey.entries if entry.ignored and entry.value is not None})
    if ignored:
        values = listed(shown(value, colours) for value in ignored)
        lines.append(f"  ignored: {share(first.ignored / max(first.total, 1))} of the pixels ({values})")
    return lines


def _findings(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return ["Findings: nothing looks wrong"]
    severe = sum(finding.severe for finding in findings)
    lines = [f"Findings: {len(findings)}{f', {severe} of them severe' if severe else ''}"]
    for finding in findings:
        lines += _wrapped(finding.what, "  ! severe: " if finding.severe else "  - ", "    ")
        lines += _wrapped(finding.remedy, "    remedy: ", "      ")
        if finding.paths:
            lines += _wrapped(listed(finding.paths, most=3), "    files: ", "      ")
    return lines


def _wrapped(sentence: str, begin: str, further: str | None = None) -> list[str]:
    further = " " * len(begin) if further is None else further
    return textwrap.wrap(
        printable(sentence), WIDTH, initial_indent=begin, subsequent_indent=further, break_on_hyphens=False
    )


def _columns(word: str) -> int:
    """Columns that a terminal gives it: two to an East Asian sign, none to a combining one."""
    return sum(0 if unicodedata.combining(sign) else 1 + (unicodedata.east_asian_width(sign) in "WF") for sign in word)


def _shortened(name: str) -> str:
    if _columns(name) <= LONGEST_NAME:
        return name
    while _columns(name) >= LONGEST_NAME:
        name = name[:-1]
    return name + "…"


def _aligned(rows: list[list[str]], left: Iterable[int]) -> list[str]:
    """Columns flush right, those in ``left`` flush left."""
    widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - _columns(cell))
            cells.append(cell + space if place in left else space + cell)
        lines.append("  " + "  ".join(cells).rstrip())
    return lines
