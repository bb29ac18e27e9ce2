"""What looks wrong with the values of labels: suspicions for ``diagnosis``."""

from collections import Counter
from collections.abc import Iterator
from functools import reduce
from math import gcd

import numpy as np

from datasets.seg.own.facts import PairFacts
from datasets.seg.own.finding import Finding
from datasets.seg.own.statistics import Totals
from datasets.seg.own.words import either, listed, ranges, several, share, shown

GHOST_EDGES = 0.97
"""Share of a value's pixels that lie on edges: interpolation leaves lines one pixel wide, where it is 1; poles and
signs of real labels are wider somewhere (0.65 for CamVid's poles, 0.93 for the thinnest of ADE20K's)."""
GHOST_PIXELS = 0.01
"""Share of all pixels that such a value has at the most: a real class of thin lines has more."""
GHOSTS = 3
"""Values like this that raise suspicion, for a single class may be as thin."""
GHOST_VALUES = 0.2
"""And their share of all values: among 200 real classes there may be a few more."""

SOLID = 0.5
"""Share of a class's pixels on edges, over all labels, above which it is thin by nature."""
THIN = 0.07
"""Share of the labels in which a solid class may be as thin as a line. Of CamVid and of drawn streets it is under 0.01
and, made smaller with nearest neighbour down to a quarter, 0.03; resized with interpolation 0.09 and more."""
LEAST_PIXELS = 8
"""Of a class in a label for its thickness to mean anything."""
MIDDLE_CLASSES, OCCURRENCES = 3, 60
"""With fewer classes between the lowest and the highest id, or fewer of these in labels, a few odd ones decide."""

MOSTLY = 0.5
"""Share of pixels from which 255, the common mark of what is ignored, is more likely a class."""

ONE_CLASS = 0.5
"""Share of labels that show one class alone."""

RARE_PIXELS = 1e-4
"""Share of pixels below which a class hardly occurs: the rarest of CamVid, ADE20K and Cityscapes have more."""
RARE_IMAGES = 3
"""Train images below which a class hardly occurs: its score would say how it looks in these."""

IGNORED = 255
WHITE = 0xFFFFFF


def ghosts(totals: Totals) -> np.ndarray:
    """The values that interpolation or lossy compression made: int64, ascending, empty where there is no suspicion."""
    tally = totals.tally
    solid = tally.pixels >= GHOST_PIXELS * tally.pixels.sum()
    values = tally.values[~solid & (tally.edges >= GHOST_EDGES * tally.pixels)]
    few = len(values) < max(GHOSTS, GHOST_VALUES * len(tally.values))
    return values[:0] if few else values


def interpolated(totals: Totals) -> Iterator[Finding]:
    made = ghosts(totals)
    found = [one for one in totals.labelled if not one.lossy and np.isin(one.values, made).any()]
    if found:
        pixels = sum(int(one.counts[np.isin(one.values, made)].sum()) for one in found)
        colours, number = totals.survey.colours, len(totals.tally.values)
        examples = listed((shown(value, colours) for value in made.tolist()), 6)
        yield Finding(
            f"{len(made):,} of {number:,} {'colours' if colours else 'values'} hardly occur and lie along edges alone "
            f"({examples}; {share(pixels / totals.counts().total)} of the pixels): {several(len(found), 'mask')} "
            f"{either(found, 'was', 'were')} resized with interpolation, drawn with smooth edges, or saved "
            "with loss once",
            "use the originals; resize masks with nearest neighbour only, draw them without anti-aliasing",
            [path for one in found for path in one.pair.labels],
            severe=True,
        )


def blurred(totals: Totals) -> Iterator[Finding]:
    """Interpolation among ids without gaps: it makes lines of the classes in between, which are there anyway."""
    tally = totals.tally
    middle = tally.values[(tally.edges < SOLID * tally.pixels)][1:-1]
    if totals.survey.colours or len(middle) < MIDDLE_CLASSES or len(ghosts(totals)):
        return
    seen = thin = 0
    found = []
    for one in totals.labelled:
        counted = np.isin(one.values, middle) & (one.counts >= LEAST_PIXELS)
        lines = counted & (one.edge_counts >= GHOST_EDGES * one.counts)
        seen, thin = seen + int(counted.sum()), thin + int(lines.sum())
        if lines.any():
            found.append(one)
    if seen >= OCCURRENCES and thin > THIN * seen:
        yield Finding(
            f"classes that are areas elsewhere are mere lines in {several(len(found), 'label')} "
            f"({thin:,} of {seen:,} times): the masks look as if they were resized with interpolation, which makes "
            "lines of the ids between two others along their edges",
            "use the originals; resize masks with nearest neighbour only",
            [path for one in found for path in one.pair.labels],
        )


def lossy(totals: Totals) -> Iterator[Finding]:
    """Masks stored with loss; of no harm where what was read of them has no value that nobody drew."""
    found = [one for one in totals.labelled if one.lossy]
    if found:
        harmed = len(ghosts(totals)) > 0
        yield Finding(
            f"{several(len(found), 'mask')} {either(found, 'is', 'are')} stored with loss (JPEG): near edges "
            f"they are not what was drawn{', and have values that nobody drew' if harmed else ''}",
            "export the masks anew as PNG; converting the JPEGs does not bring the values back",
            [path for one in found for path in one.pair.labels],
            severe=harmed,
        )


def unknown_values(totals: Totals) -> Iterator[Finding]:
    # Without any entry no table could be made, which is not the values' fault.
    known = {entry.value for entry in totals.survey.entries} or set(totals.tally.values.tolist())
    known |= set(ghosts(totals).tolist())
    strange = [value for value in totals.tally.values.tolist() if value not in known]
    if strange:
        found = [one for one in totals.labelled if np.isin(one.values, strange).any()]
        names = listed(shown(value, totals.survey.colours) for value in strange)
        pixels = totals.tally.pixels[np.isin(totals.tally.values, strange)].sum()
        yield Finding(
            f"{several(len(strange), 'value')} in labels that the table of classes does not have: {names} "
            f"({share(pixels / totals.counts().total)} of the pixels)",
            "give them a name in the table, or leave them out with --ignore",
            [path for one in found for path in one.pair.labels],
            severe=True,
        )


def is_binary(totals: Totals) -> bool:
    return totals.tally.values.tolist() == [0, WHITE if totals.survey.colours else IGNORED]


def binary(totals: Totals) -> Iterator[Finding]:
    if not is_binary(totals):
        return
    value = int(totals.tally.values[1])
    held = f"labels hold only {shown(0, totals.survey.colours)} and {shown(value, totals.survey.colours)}, which looks"
    entry_of = {entry.value: entry for entry in totals.survey.entries}
    white, black = entry_of.get(value), entry_of.get(0)
    if white is None or black is None:
        return
    if white.ignored or black.ignored:
        yield Finding(
            f"{held} binary (background and object), but {value if white.ignored else 0} is ignored: a single class "
            "is left, and nothing to learn",
            f"make {value if white.ignored else 0} a class: leave it out of --ignore, or give it a name in --classes",
            severe=True,
        )
    else:
        yield Finding(
            f"{held} binary (background and object): 0 is taken as {black.id} '{black.name}', {shown(value, False)} as "
            f"{white.id} '{white.name}'",
            f"nothing, if that is so; if {value} marks what is to be left out, give --ignore {value}",
        )


def mostly_255(totals: Totals) -> Iterator[Finding]:
    if totals.survey.colours or is_binary(totals):
        return
    tally = totals.tally
    part = tally.pixels[tally.values == IGNORED].sum() / max(tally.pixels.sum(), 1)
    if part > MOSTLY:
        entry = next((entry for entry in totals.survey.entries if entry.value == IGNORED), None)
        ignored = entry is None or entry.ignored
        yield Finding(
            f"255 in {share(part)} of all pixels: it commonly marks what is ignored, and here looks like the background"
            + (", but is ignored" if ignored else f"; it is taken as a class, '{entry.name}'"),
            "if it is the background, make it a class: give 255 a name in --classes"
            if ignored
            else "nothing, if that is so; if 255 marks what is to be left out, give --ignore 255",
            severe=ignored,
        )


def one_class(totals: Totals) -> Iterator[Finding]:
    """Labels that show a single class, or none."""
    seen = [(one, totals.places(one)) for one in totals.labelled if totals.classes]
    empty = [one for one, places in seen if not places]
    present = set().union(*(places for _, places in seen))
    if len(present) == 1 and not _binary_and_ignored(totals):
        name = totals.classes[present.pop()].name
        yield Finding(
            f"all labels show one class alone, '{name}': there is nothing to tell apart",
            "make what surrounds it a class too (background), or label more classes",
            severe=True,
        )
    elif present:
        single = Counter(next(iter(places)) for _, places in seen if len(places) == 1)
        if sum(single.values()) > ONE_CLASS * len(seen):
            place, number = single.most_common(1)[0]
            yield Finding(
                f"{share(sum(single.values()) / len(seen))} of the labels show one class alone, mostly "
                f"'{totals.classes[place].name}' ({several(number, 'label')})",
                "if these images teach nothing new, leave most of them out: training takes every image equally often",
            )
    if empty:
        yield Finding(
            f"{several(len(empty), 'label')} without a pixel of a class: all of it is ignored",
            "label these images, or leave them out",
            [path for one in empty for path in one.pair.labels],
            severe=len(empty) == len(seen),
        )


def _binary_and_ignored(totals: Totals) -> bool:
    """Whether ``binary`` has said it already."""
    return is_binary(totals) and any(
        entry.ignored and entry.value in (0, IGNORED, WHITE) for entry in totals.survey.entries
    )


def gaps(totals: Totals) -> Iterator[Finding]:
    """Ids that are not consecutive, where no table says what they are."""
    entries = [entry for entry in totals.classes if entry.value is not None]
    ids = sorted(entry.value for entry in entries)
    unnamed = all(str(entry.value) in entry.name for entry in entries)
    if totals.survey.colours or is_binary(totals) or len(ghosts(totals)) or len(ids) < 2 or not unnamed:
        return
    missing = sorted(set(range(min(ids[0], 1), ids[-1])) - {entry.value for entry in totals.survey.entries})
    step = reduce(gcd, ids)
    if not missing:
        return
    if step > 1 and len(ids) > 2:
        yield Finding(
            f"all ids are multiples of {step} ({ranges(ids)}): they look as if they were spread to be seen as greys",
            "nothing: every one is a class; if others are missing between them, name all in --classes",
        )
    else:
        yield Finding(
            f"the ids have gaps: {ranges(ids)} occur, {ranges(missing)} {either(missing, 'does', 'do')} not",
            "nothing, if there are no others; if these classes exist but are in no label yet, name all in --classes, "
            "so that the classes stay the same when labels are added",
        )


def never(totals: Totals) -> Iterator[Finding]:
    pixels = totals.counts().pixels
    names = [entry.name for entry, number in zip(totals.classes, pixels, strict=True) if not number]
    if names and totals.labelled:
        yield Finding(
            f"{several(len(names), 'class', 'classes')} of the table in no label: {listed(names)}",
            "check that the table's ids or colours are those of the labels; take out of it what does not exist",
            severe=len(names) == len(pixels),
        )


def rare(totals: Totals) -> Iterator[Finding]:
    """Classes with hardly a pixel, or hardly an image, to learn from."""
    counts, made = totals.counts("train"), set(ghosts(totals).tolist())
    labelled = max(counts.pixels.sum(), 1)
    for limit, few, said in (
        ("pixels", counts.pixels < RARE_PIXELS * labelled, f"fewer than {share(RARE_PIXELS)} of the train pixels"),
        ("images", counts.images < RARE_IMAGES, f"fewer than {RARE_IMAGES} train images"),
    ):
        # With hardly an image at all every class is rare, which is a finding of its own.
        if limit == "images" and counts.labels < 10 * RARE_IMAGES:
            continue
        places = np.flatnonzero(few & (counts.pixels > 0))
        places = [place for place in places.tolist() if totals.classes[place].value not in made]
        if limit == "images":
            places = [place for place in places if counts.pixels[place] >= RARE_PIXELS * labelled]
        if places:
            names = (
                f"{totals.classes[place].name} ({share(counts.pixels[place] / labelled)}, "
                f"{several(int(counts.images[place]), 'image')})"
                for place in places
            )
            yield Finding(
                f"{several(len(places), 'class', 'classes')} that hardly occur{'s' * (len(places) == 1)}, in {said}: "
                f"{listed(names)}",
                "label more of them, or merge them with another class; weights help little where there is nothing to "
                "learn from",
                [one.pair.image for one in _with(totals, places)],
            )


def _with(totals: Totals, places: list[int]) -> list[PairFacts]:
    """The train pairs whose labels have one of these classes."""
    wanted = set(places)
    return [one for one in totals.labelled if one.pair.split == "train" and totals.places(one) & wanted]
