"""Numbers and names in sentences."""

from collections.abc import Iterable, Sequence

from datasets.seg.classes import runs_of
from datasets.seg.own.facts import PairFacts
from datasets.seg.own.statistics import spread
from lib.base.names import printable

LISTED = 8
"""Names in a sentence; more are counted."""


def several(number: int, singular: str, plural: str | None = None) -> str:
    """A number and its noun: "1 image", "1,200 images"."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def either(things: Sequence, one: str, more: str) -> str:
    """The word that goes with one thing, or with more of them."""
    return one if len(things) == 1 else more


def listed(names: Iterable[object], most: int = LISTED) -> str:
    """Names with commas between, on one line whatever they hold, those beyond ``most`` counted."""
    shown = [printable(name) for name in names]
    more = len(shown) - most
    return ", ".join(shown) if more <= 0 else f"{', '.join(shown[:most])} and {more:,} more"


def share(part: float) -> str:
    """A part of 1 in per cent, with the digits that tell it from nothing and from all."""
    percent = 100 * part
    if percent == 0 or percent >= 99.95:
        return "100%" if part == 1 else "0%" if part == 0 else f"{percent:.4g}%" if percent < 99.9999 else "over 99.99%"
    if percent < 0.001:
        return "under 0.001%"
    return f"{percent:.1f}%" if percent >= 1 else f"{percent:.2f}%" if percent >= 0.1 else f"{percent:.2g}%"


def shown(value: int, colours: bool) -> str:
    """A label's value as people write it: an id, or a colour as #rrggbb."""
    return f"#{value:06x}" if colours else str(value)


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers in words: "0..20, 255"."""
    return listed(runs_of(numbers), most=12)


def sizes(facts: Sequence[PairFacts]) -> str:
    """Widths and heights in words."""
    (w, width, wide), (h, height, high) = (spread([one.size[axis] for one in facts]) for axis in (1, 0))
    if (w, h) == (wide, high):
        return f"all {w} x {h} pixels"
    return f"{w}..{wide} x {h}..{high} pixels, in the median {width} x {height}"


def kinds(facts: Sequence[PairFacts]) -> str:
    """Bands and numbers in words."""
    found = sorted({(one.bands, one.dtype) for one in facts})
    return " and ".join(f"{several(bands, 'band')} of {dtype}" for bands, dtype in found)
