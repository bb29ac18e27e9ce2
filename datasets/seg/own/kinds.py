"""What a dataset's labels are, decided from all of them together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from datasets.seg.own.facts import PairFacts
from datasets.seg.own.labels import COLOURS, IDS, PALETTE, RawLabel, unpack
from datasets.seg.own.survey import Reading

WHITE = 255
GREY = 0x010101
"""Of a level of grey, its colour's multiple."""


@dataclass(frozen=True)
class Kind:
    """What the values of all labels are.

    Attributes:
        colours: whether they are colours, packed; otherwise ids.
        binary: whether they are 0 and 255, where that stands for 1.
        palette: value -> colour, where the files have one palette for their ids.
        sentence: all this in words.
    """

    colours: bool
    binary: bool
    palette: dict[int, tuple[int, int, int]]
    sentence: str

    def values(self, raw: RawLabel) -> np.ndarray:
        """The values of one label [H, W], whichever form its own file has."""
        return _converted(raw.values, raw.form, raw.palette, self.colours)


def recognise(readings: Sequence[Reading], binary_allowed: bool = True) -> tuple[Kind, list[PairFacts]]:
    """Decide what labels are.

    Args:
        readings: of all pairs.
        binary_allowed: whether 0 and 255 may mean 0 and 1; not where 255 has a meaning of its own.

    Returns:
        The kind, and the facts of all pairs with values of that kind.
    """
    labelled = [one for one in readings if one.form]
    one_palette = _shared_palette([one for one in labelled if one.form == PALETTE])
    colours = one_palette is None or any(one.form == COLOURS and not one.grey for one in labelled)
    facts = [_convert(one, colours) if one.form else one.facts for one in readings]
    seen = set().union(*(one.values.tolist() for one in facts))
    binary = binary_allowed and not colours and seen == {0, WHITE}
    palette = {} if colours or binary or not _tells_apart(one_palette) else one_palette
    return Kind(colours, binary, palette, _sentence(labelled, colours, binary, seen, palette, one_palette)), facts


def _converted(values: np.ndarray, form: str, palette: np.ndarray | None, colours: bool) -> np.ndarray:
    if colours and form == PALETTE:
        return palette[values]
    if colours and form == IDS:
        return values.astype(np.int64) * GREY
    if not colours and form == COLOURS:
        return (values & 255).astype(np.uint8)
    return values


def _convert(reading: Reading, colours: bool) -> PairFacts:
    """Facts with the values that ``_converted`` gives; values that become one are added up."""
    facts = reading.facts
    converted = _converted(facts.values, reading.form, reading.palette, colours).astype(np.int64)
    values, place = np.unique(converted, return_inverse=True)
    counts, edges = np.zeros((2, len(values)), np.int64)
    np.add.at(counts, place, facts.counts)
    np.add.at(edges, place, facts.edge_counts)
    return replace(facts, values=values, counts=counts, edge_counts=edges)


def _shared_palette(readings: Sequence[Reading]) -> dict[int, tuple[int, int, int]] | None:
    """The colours of the indices in use, or None where files give one index different colours."""
    shared: dict[int, int] = {}
    for reading in readings:
        for index in reading.facts.values.tolist():
            if shared.setdefault(index, int(reading.palette[index])) != int(reading.palette[index]):
                return None
    return {index: unpack(colour) for index, colour in shared.items()}


def _tells_apart(palette: dict[int, tuple[int, int, int]] | None) -> bool:
    """Whether a palette is one of colours: not the levels of grey that the indices are, and no colour twice."""
    if not palette or len(set(palette.values())) < len(palette):
        return False
    return any(colour != (index,) * 3 for index, colour in palette.items())


def _sentence(
    labelled: Sequence[Reading],
    colours: bool,
    binary: bool,
    seen: set[int],
    palette: dict,
    one_palette: dict | None,
) -> str:
    count = f"labels are {len(labelled)}"
    if colours:
        own = " palette PNGs, each with a palette of its own:" if one_palette is None else " colour masks:"
        return f"{count}{own} {len(seen)} colours"
    if binary:
        return f"{count} binary masks of 0 and 255: 255 stands for class 1"
    shown = f"{len(seen)} different values, {min(seen)} to {max(seen)}" if seen else "no value"
    if one_palette:
        rest = "whose colours become the classes'" if palette else "whose colours say nothing"
        return f"{count} palette PNGs, read as indices ({shown}), {rest}"
    grey = " in three equal channels" if any(one.form == COLOURS for one in labelled) else ""
    deep = ", of 16 bits" if seen and max(seen) > 255 else ""
    return f"{count} masks of ids{grey}: {shown}{deep}"
