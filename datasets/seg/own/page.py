"""The diagnosis as one HTML file that needs nothing else: no network, pictures inside, no scripts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path

import numpy as np

from datasets.seg.own.facts import Entry, PairFacts, Survey
from datasets.seg.own.finding import Finding
from datasets.seg.own.pictures import SMALL_BYTES, SMALL_SIDE, Load, Shown, choose, data_uri, show
from datasets.seg.own.statistics import SPLITS, Totals, class_weights, mean_and_std
from datasets.seg.own.words import kinds, several, share, shown, sizes
from lib.base.names import printable

CSS = Path(__file__).with_name("style.css")

MOST_FILES = 200
"""Names listed beside a finding."""
MOST_SMALL = 4
"""Pictures beside a finding."""
MOST_SIZES = 8
"""Sizes listed of images of many."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Of content: a browser refuses the page whatever else a name might smuggle in."""


def html(survey: Survey, findings: Sequence[Finding], load: Load | None = None, title: str = "Your data") -> str:
    """The report as a page.

    Args:
        survey: what reading the images and labels found.
        findings: of ``diagnose``.
        load: where pictures come from (``pictures.prepared(DATA_DIR)``); None leaves them out.
        title: of the page.
    """
    totals = Totals(survey)
    parts = [
        f"<header><h1>{_text(title)}</h1>{_list(_text(sentence) for sentence in survey.recognised)}</header>",
        _section("Key figures", _figures(totals)),
        _section(_headline(findings), "".join(_finding(finding, totals, load) for finding in findings)),
        _section("Classes", _classes(totals)),
        _section("Sizes", _sizes(survey.facts)),
        _section("Samples", _samples(totals, load)) if load and survey.facts else "",
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{_text(title)}</title><style>{CSS.read_text()}</style>"
    )
    body = "\n".join(part for part in parts if part)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{body}\n</main></body></html>\n'


def _text(value: object) -> str:
    """Any text, for between tags and for attributes."""
    return escape(printable(value), quote=True)


def _name(value: object) -> str:
    """As ``_text``, of a name: its direction of writing changes nothing around it."""
    return f"<bdi>{_text(value)}</bdi>"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def _figures(totals: Totals) -> str:
    facts = totals.survey.facts
    figures = [(split, several(len(totals.of(split)), "image")) for split in SPLITS if totals.of(split)]
    if facts:
        figures += [("size", sizes(facts)), ("bands", kinds(facts))]
    figures.append(("classes", f"{len(totals.classes):,}"))
    counts = totals.counts("train" if totals.counts("train").labels else None)
    figures.append(("ignored", f"{share(counts.ignored / max(counts.total, 1))} of the pixels"))
    if totals.of("train"):
        for what, values in zip(("mean", "standard deviation"), mean_and_std(totals.of("train")), strict=True):
            figures.append((f"{what} of the bands, train", ", ".join(f"{value:.4g}" for value in values)))
    return f"<dl>{''.join(f'<div><dt>{_text(what)}</dt><dd>{_text(value)}</dd></div>' for what, value in figures)}</dl>"


def _headline(findings: Sequence[Finding]) -> str:
    severe = sum(finding.severe for finding in findings)
    if not findings:
        return "Findings: nothing looks wrong"
    return f"Findings: {len(findings)}{f', {severe} of them severe' if severe else ''}"


def _finding(finding: Finding, totals: Totals, load: Load | None) -> str:
    kind, word = ("severe", "Severe") if finding.severe else ("note", "Note")
    content = f"<p><strong>{word}:</strong> {_text(finding.what)}.</p><p><em>Remedy:</em> {_text(finding.remedy)}.</p>"
    if finding.paths:
        pictures = "".join(_small(facts, totals, load) for facts in _concerned(finding, totals)) if load else ""
        more = len(finding.paths) - MOST_FILES
        names = [_name(path) for path in finding.paths[:MOST_FILES]] + [f"and {more:,} more"] * (more > 0)
        files = several(len(finding.paths), "file")
        content += f'<div class="small">{pictures}</div><details><summary>{files}</summary>{_list(names)}</details>'
    return f'<article class="{kind}">{content}</article>'


def _concerned(finding: Finding, totals: Totals) -> list[PairFacts]:
    """The first few pairs that the finding's files belong to."""
    wanted = set(finding.paths)
    facts = (one for one in totals.survey.facts if wanted & {one.pair.image, *one.pair.labels})
    return [one for one, _ in zip(facts, range(MOST_SMALL), strict=False)]


def _small(facts: PairFacts, totals: Totals, load: Load) -> str:
    seen = show(facts, load, totals.survey.entries, SMALL_SIDE)
    if seen is None:
        return ""
    return _picture(seen.image if seen.overlay is None else seen.overlay, facts.pair.name, SMALL_BYTES)


def _picture(picture: np.ndarray, said: str, most: int | None = None) -> str:
    uri = data_uri(picture) if most is None else data_uri(picture, most)
    height, width = picture.shape[:2]
    return f'<img alt="{_text(said)}" title="{_text(said)}" width="{width}" height="{height}" src="{uri}">'


def _swatch(entry: Entry) -> str:
    return f'<i aria-hidden="true" style="background:{_colour(entry)}"></i>'


def _colour(entry: Entry) -> str:
    return "#" + "".join(f"{int(level):02x}" for level in entry.colour)


def _bar(part: float, longest: float, colour: str, said: str) -> str:
    """A bar; its length is told to those who do not see it."""
    width = 100 * part / longest if longest else 0
    return (
        f'<svg role="img" aria-label="{_text(said)}" viewBox="0 0 100 10" preserveAspectRatio="none">'
        f'<rect width="{max(width, 0.5 * (part > 0)):.2f}" height="10" fill="{colour}"></rect></svg>'
    )


def _classes(totals: Totals) -> str:
    splits = [split for split in SPLITS if totals.counts(split).labels]
    counts = totals.counts(splits[0] if splits else None)
    parts = (counts.pixels / max(counts.total, 1)).tolist()
    weights, longest, colours = class_weights(totals.survey), max(parts, default=0), totals.survey.colours
    where = f" of {splits[0]}" if splits else ""
    head = ["id", "class", "colour" if colours else "value", f"pixels{where}", "", *splits, "weight"]
    rows = []
    for place, entry in enumerate(totals.classes):
        cells = [
            str(entry.id),
            f"{_swatch(entry)} {_name(entry.name)}",
            "" if entry.value is None else shown(entry.value, colours),
            share(parts[place]),
            _bar(parts[place], longest, _colour(entry), f"{entry.name}: {share(parts[place])} of the pixels{where}"),
            *(f"{totals.counts(split).images[place]:,}" for split in splits),
            f"{weights[place]:.2f}",
        ]
        rows.append(cells)
    note = "<p>Below the splits: the number of their labels that have the class. Weight: of the class in the loss.</p>"
    return _table(head, ["", "name", "value", "", "bar"], rows) + note


def _table(head: Sequence[str], kinds: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; ``kinds``: the looks of its first columns."""
    header = "".join(_cell("th", kind, _text(cell)) for kind, cell in zip_longest(kinds, head, fillvalue=""))
    body = "".join(
        f"<tr>{''.join(_cell('td', kind, cell) for kind, cell in zip_longest(kinds, row, fillvalue=''))}</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(tag: str, kind: str, content: str) -> str:
    look = f' class="{kind}"' if kind else ""
    return f"<{tag}{look}>{content}</{tag}>"


def _sizes(facts: Sequence[PairFacts]) -> str:
    found = Counter(one.size for one in facts)
    most = found.most_common(1)[0][1] if found else 1
    rows = [
        (f"{width} x {height}", f"{number:,}", _bar(number, most, "currentColor", several(number, "image")))
        for (height, width), number in sorted(found.items(), key=lambda item: (-item[1], item[0]))[:MOST_SIZES]
    ]
    more = len(found) - MOST_SIZES
    note = f"<p>And {several(more, 'size')} more.</p>" if more > 0 else ""
    return _table(["width x height", "images", ""], ["name", "", "bar"], rows) + note


def _samples(totals: Totals, load: Load) -> str:
    parts = []
    for split, facts in choose(totals).items():
        figures = [_sample(one, seen, totals) for one in facts if (seen := show(one, load, totals.survey.entries))]
        if figures:
            parts.append(f'<h3>{split}</h3><div class="samples">{"".join(figures)}</div>')
    return "".join(parts) or "<p>No picture could be read.</p>"


def _sample(facts: PairFacts, seen: Shown, totals: Totals) -> str:
    pictures = _picture(seen.image, f"image {facts.pair.name}")
    entry_of = {entry.id: entry for entry in totals.classes}
    legend = "".join(
        f"<li>{_swatch(entry_of[id_])} {id_} {_name(entry_of[id_].name)} {share(part)}</li>"
        for id_, part in seen.present
    )
    if seen.overlay is not None:
        pictures += _picture(seen.overlay, f"label of {facts.pair.name} over the image")
    height, width = facts.size
    caption = f"<figcaption>{_name(facts.pair.name)}, {width} x {height}</figcaption>"
    return f'<figure>{caption}<div class="pair">{pictures}</div><ul class="legend">{legend}</ul></figure>'
