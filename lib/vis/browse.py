"""Writes what is to be looked at into a folder: contact sheets and one page."""

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.seg.listing import spread
from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.vis.contact import PER_SHEET, contact_sheet, tile
from lib.vis.gallery import MOST_CARDS, PageCard, budget_of, page
from lib.vis.overlay import write_picture
from lib.vis.views import View

PAGE = "index.html"
SHEET = re.compile(r"sheet_\d{3,}\.(jpg|png)")


@dataclass(frozen=True)
class _Drawn:
    """A card as the sheet and, unless it is None, as the page has it."""

    tile: np.ndarray
    present: frozenset[int]
    marks: tuple[str, ...]
    paged: PageCard | None


def write_view(view: View, out: Path, *, width: int = 480, suffix: str = ".jpg") -> list[Path]:
    """Write ``sheet_001.jpg``, ... and ``index.html``; sheets of an earlier call that are no longer there go.

    Args:
        view: what to show.
        out: the folder; made if need be.
        width: of a picture on a sheet, in pixels; 0: as large as it is.
        suffix: ".jpg" or ".png", of the sheets.

    Returns:
        The files, the page last.

    Raises:
        UserError: ``out`` cannot be written, or an image or label cannot be read; nothing of this call stays then.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made: {error.strerror}: choose another --out") from error
    written: list[Path] = []
    try:
        paged: list[PageCard] = []
        for number, drawn in enumerate(_drawn_sheets(view, width), start=1):
            present = sorted(frozenset().union(*(one.present for one in drawn)))
            marks = {mark for one in drawn for mark in one.marks}
            sheet = contact_sheet(view.title, [one.tile for one in drawn], present, marks, view.table)
            written.append(out / f"sheet_{number:03}{suffix}")
            write_picture(written[-1], sheet)
            paged += [one.paged for one in drawn if one.paged]
        title = view.title if len(paged) == len(view.keys) else f"{view.title} ({len(paged)} of them on this page)"
        html = page(title, paged, view.table).encode()
        written.append(out / PAGE)
        write_atomically(written[-1], lambda file: file.write(html))
    except BaseException as error:
        for path in written:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        if isinstance(error, OSError):
            raise UserError(f"{out} cannot be written: {error.strerror}: choose another --out") from error
        raise
    for path in out.iterdir():
        if SHEET.fullmatch(path.name) and path not in written:
            path.unlink()
    return written


def _drawn_sheets(view: View, width: int) -> Iterator[list[_Drawn]]:
    """The cards of each sheet, drawn: no more than a sheet's are in memory at a time."""
    on_page = set(spread(len(view.keys), MOST_CARDS))
    budget = budget_of(len(on_page), len(view.table))

    def draw(place: int) -> _Drawn:
        card = view.card(view.keys[place])
        paged = PageCard.of(card, budget) if place in on_page else None
        coloured = card.shares if card.coloured is None else card.coloured
        return _Drawn(tile(card, width), frozenset(coloured), card.marks, paged)

    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(view.keys), unit="image", disable=None, leave=False) as progress,
    ):
        for first in range(0, len(view.keys), PER_SHEET):
            places = range(first, min(first + PER_SHEET, len(view.keys)))
            drawn = []
            for one in pool.map(draw, places):
                drawn.append(one)
                progress.update()
            yield drawn
