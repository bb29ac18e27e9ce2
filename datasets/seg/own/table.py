"""From the values of labels to the class table that lies with the data."""

import colorsys
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datasets.seg.classes import COLUMNS, UNKNOWN
from datasets.seg.own.classes_file import Row
from datasets.seg.own.facts import Entry
from datasets.seg.own.kinds import WHITE, Kind
from datasets.seg.own.labels import LARGEST_ID, pack, unpack
from lib.base.errors import UserError
from lib.base.names import printable

VOID = 255
"""The id that people give to what has none; and that of ignored values that cannot keep theirs."""
BACKGROUND = "background"
LONGEST_NAME = 200
"""Characters of a class's name in the table."""
HEX = re.compile(r"#[0-9a-fA-F]{6}")


class TooMany(UserError):
    """More classes than a table can have."""


@dataclass(frozen=True)
class Named:
    """Classes whose names come with the labels: COCO's categories, or folders.

    Attributes:
        names: value -> name.
        colours: of those that have one.
        background: the value of what belongs to none of them.
    """

    names: dict[int, str]
    colours: dict[int, tuple[int, int, int]]
    background: int


@dataclass(frozen=True)
class Wishes:
    """What the user says about classes.

    Attributes:
        rows: of ``--classes``, or None.
        file: where they come from.
        ignore: what ``--ignore`` lists: values, names, or colours as #rrggbb.
        ignore_background: whether background is no class.
    """

    rows: Sequence[Row] | None = None
    file: Path | None = None
    ignore: tuple[str, ...] = ()
    ignore_background: bool = False


@dataclass
class _Draft:
    """An entry whose id and colour may be still open."""

    value: int
    name: str
    id: int | None = None
    colour: tuple[int, int, int] | None = None
    ignored: bool = False


@dataclass
class Table:
    """Entries by ascending id, the user's weights by id (empty without), and what was decided, in sentences."""

    entries: list[Entry]
    weights: dict[int, float] = field(default_factory=dict)
    recognised: list[str] = field(default_factory=list)


def make_table(kind: Kind, pixels: dict[int, int], wishes: Wishes, named: Named | None = None) -> Table:
    """Decide on classes, ids, names and colours.

    Args:
        kind: of the labels.
        pixels: value -> number of pixels in all labels.
        wishes: the user's.
        named: what the labels themselves say about their classes.

    Raises:
        UserError: the wishes name what is not there or do not fit the labels; more than 254 classes, or none.
    """
    said: list[str] = []
    if wishes.ignore_background and named is None:
        raise UserError("--ignore-background is for COCO's JSON and folders of classes: write --ignore 0 (the id)")
    if named:
        drafts = _from_names(named, pixels, wishes)
    elif kind.colours:
        drafts = _from_colours(pixels, wishes)
    else:
        drafts = _from_ids(kind, pixels, wishes, said)
    _ignore(drafts, kind, wishes, named)
    classes = [draft for draft in drafts if not draft.ignored]
    if not classes:
        raise UserError("no class is left: all values of the labels are ignored; --ignore fewer of them")
    if len(classes) >= UNKNOWN + 1:
        what = "colours" if kind.colours else "ids"
        raise TooMany(
            f"the labels hold {len(classes)} {what}, and there can be {UNKNOWN} classes at most: masks that were saved "
            f"as JPEG or resized with interpolation look so (make them again, as PNG and with nearest neighbours); "
            f"or say which are classes with --classes FILE"
        )
    _number(drafts, kind, named, said)
    for draft in drafts:
        # Categories and folders may be called anything.
        draft.name = printable(draft.name).strip()[:LONGEST_NAME] or f"class_{draft.id}"
    _name_apart(classes)
    _colour(drafts, kind)
    weights = {}
    if wishes.rows and all(row.weight is not None for row in wishes.rows if not row.ignored):
        by_name = {row.name: row.weight for row in wishes.rows if not row.ignored}
        weights = {draft.id: by_name[draft.name] for draft in classes if draft.name in by_name}
        weights = weights if len(weights) == len(classes) else {}
    entries = [Entry(d.value, d.id, d.name, d.colour, d.ignored) for d in sorted(drafts, key=lambda d: (d.id, d.value))]
    ignored = [show(entry.value, kind.colours) for entry in entries if entry.ignored]
    said.append(f"{len(classes)} classes" + (f"; ignored: {', '.join(ignored[:20])}" if ignored else ""))
    return Table(entries, weights, said)


def show(value: int | None, colours: bool) -> str:
    """A label's value in words."""
    if value is None:
        return ""
    return f"#{value:06x}" if colours else str(value)


def _from_names(named: Named, pixels: dict[int, int], wishes: Wishes) -> list[_Draft]:
    rows = {row.name: row for row in wishes.rows or ()}
    drafts = []
    for value, name in sorted(named.names.items()):
        if wishes.rows is not None and name not in rows and pixels.get(value):
            raise UserError(f"class {name} of the labels is not in --classes {wishes.file}: add it there")
        row = rows.get(name)
        if row or wishes.rows is None:
            colour = row.colour if row and row.colour else named.colours.get(value)
            drafts.append(_Draft(value, name, colour=colour, ignored=bool(row and row.ignored)))
    if pixels.get(named.background):
        name = BACKGROUND if BACKGROUND not in named.names.values() else "unlabelled"
        row = rows.get(name)
        colour = row.colour if row and row.colour else (0, 0, 0)
        ignored = wishes.ignore_background or bool(row and row.ignored)
        if named.background not in named.names:
            drafts.append(_Draft(named.background, name, colour=colour, ignored=ignored))
        elif ignored:
            next(draft for draft in drafts if draft.value == named.background).ignored = True
    return drafts


def _from_colours(pixels: dict[int, int], wishes: Wishes) -> list[_Draft]:
    if wishes.rows is None:
        return [_Draft(value, f"class_{at}", at, unpack(value)) for at, value in enumerate(sorted(pixels))]
    # Tables of known datasets give ignored ids no colour.
    rows = [row for row in wishes.rows if row.colour or not row.ignored]
    for row in rows:
        if row.colour is None:
            raise UserError(
                f"the labels are colour masks, and {row.name} in --classes {wishes.file} has no colour: write "
                "name,red,green,blue"
            )
    return [
        _Draft(int(pack(np.uint8([[row.colour]]))[0, 0]), row.name, row.id, row.colour, row.ignored) for row in rows
    ]


def _from_ids(kind: Kind, pixels: dict[int, int], wishes: Wishes, said: list[str]) -> list[_Draft]:
    if wishes.rows is None:
        names = {0: BACKGROUND, WHITE: "foreground"} if kind.binary else {}
        drafts = [_Draft(value, names.get(value, f"class_{value}")) for value in sorted(pixels)]
    else:
        value_of = {1: WHITE} if kind.binary else {}
        drafts = [
            _Draft(value_of.get(row.id, row.id), row.name, colour=row.colour, ignored=row.ignored)
            for row in wishes.rows
        ]
    if not kind.binary:
        known = {row.id for row in wishes.rows or ()}
        for value in (VOID, -1):
            if value in pixels and value not in known:
                drafts = [draft for draft in drafts if draft.value != value]
                drafts.append(_Draft(value, "void" if value == VOID else "none", ignored=True))
                said.append(
                    f"{value} is ignored, as it mostly means no class (a class of that id in --classes keeps it)"
                )
    return drafts


def _ignore(drafts: list[_Draft], kind: Kind, wishes: Wishes, named: Named | None) -> None:
    """Do what ``--ignore`` says."""
    for word in wishes.ignore:
        if kind.colours and HEX.fullmatch(word):
            value = int(word[1:], 16)
        elif re.fullmatch(r"-1|\d{1,5}", word) and not kind.colours:
            value = int(word)
        else:
            value = next((draft.value for draft in drafts if draft.name == word), None)
        found = [draft for draft in drafts if draft.value == value]
        if value is None or (not found and (named or not -1 <= value <= (0xFFFFFF if kind.colours else LARGEST_ID))):
            how = "a colour as #rrggbb or a name" if kind.colours else "an id or a name"
            names = ", ".join(draft.name for draft in drafts[:8])
            raise UserError(f"--ignore {word} is none of the labels' classes ({names}...): give {how}")
        for draft in found:
            draft.ignored = True
        if not found:
            drafts.append(_Draft(value, f"ignored_{show(value, kind.colours)}", ignored=True))


def _number(drafts: list[_Draft], kind: Kind, named: Named | None, said: list[str]) -> None:
    """Give every draft an id: its own where that is from 0 to 255, else one that is free."""
    for draft in drafts:
        if kind.binary and draft.value in (0, WHITE):
            draft.id = min(draft.value, 1)
        elif not kind.colours:
            draft.id = draft.value
    order = sorted(
        drafts, key=lambda draft: (draft.ignored, draft.id if draft.id is not None else 1 << 16, draft.value)
    )
    wanting = [draft for draft in order if draft.id is None or not 0 <= draft.id <= 255]
    taken = {draft.id for draft in order if draft not in wanting}
    free = [number for number in range(VOID) if number not in taken]
    needed = [draft for draft in wanting if not draft.ignored]
    if len(needed) > len(free):
        for at, draft in enumerate(order):
            draft.id = VOID if draft.ignored else at
    else:
        for draft in wanting:
            draft.id = VOID if draft.ignored and VOID not in taken else free.pop(0) if free else VOID
    if needed and not kind.colours:
        said.append(
            f"ids above 255 become free ones below ({needed[0].value} becomes {needed[0].id}); the column 'source' of "
            "classes.csv has what they were"
        )


def _name_apart(classes: list[_Draft]) -> None:
    names = [draft.name for draft in classes]
    for draft in classes:
        if names.count(draft.name) > 1:
            draft.name = f"{draft.name} ({draft.id})"


def _colour(drafts: list[_Draft], kind: Kind) -> None:
    """Give a colour to every draft without: the palette's, or one unlike the others."""
    used = {draft.colour for draft in drafts if draft.colour}
    for draft in sorted(drafts, key=lambda draft: draft.id):
        if draft.colour is None:
            draft.colour = kind.palette.get(draft.value)
            if draft.colour is None and draft.name == BACKGROUND and (0, 0, 0) not in used:
                draft.colour = (0, 0, 0)
            at = draft.id
            while draft.colour is None or draft.colour in used:
                draft.colour, at = distinct_colour(at), at + 256
            used.add(draft.colour)


def distinct_colour(number: int) -> tuple[int, int, int]:
    """The colour of a number from 0: hues a golden section apart, in three lightnesses."""
    hue = number * 0.6180339887498949 % 1
    saturation, value = ((0.85, 0.95), (0.55, 0.9), (0.9, 0.6))[number % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def table_text(entries: Sequence[Entry], weights: Sequence[float] | None, colours: bool) -> str:
    """The table as CSV, with a further column for what the ids were in the user's labels.

    Args:
        entries: by ascending id; ignored values may share one.
        weights: of the classes in order of ids, or None.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*COLUMNS, "source"])
    train_id = 0
    rows: dict[int, list[Entry]] = {}
    for entry in entries:
        rows.setdefault(entry.id, []).append(entry)
    for number, same in rows.items():
        entry, source = same[0], " ".join(show(one.value, colours) for one in same)
        if entry.ignored:
            writer.writerow([number, entry.name, "", *entry.colour, "", source])
            continue
        weight = "" if weights is None else f"{weights[train_id]:.6g}"
        writer.writerow([number, entry.name, train_id, *entry.colour, weight, source])
        train_id += 1
    return file.getvalue()
