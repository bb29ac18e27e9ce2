"""What looks wrong with somebody's images and labels, in plain words, with the remedy.

Each suspicion is a function of its own that yields findings, listed in ``SUSPICIONS``. Those about the values of labels
are in ``suspicious_labels``.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from datasets.seg.own import suspicious_labels as labels
from datasets.seg.own.facts import PairFacts, Survey
from datasets.seg.own.finding import Finding
from datasets.seg.own.statistics import SPLITS, Totals, spread, values
from datasets.seg.own.words import either, listed, several, share

FEW_IMAGES = 20
"""Train images; DRIVE, the smallest of the datasets in wide use, has 20."""

FEW_VALIDATION_IMAGES = 8
"""With fewer, one image moves a class's score by more than what most changes to a network do."""

MANY_ALONE = 0.5
"""Share of files without partner from which the pairing itself is to be doubted."""

LARGE_IGNORED = 1 / 3
"""Share of ignored pixels; the datasets in wide use leave out up to a fifth."""

MIXED_SIZES = 4
"""The largest image's longer side over the smallest one's: beyond, objects of a kind differ as much in pixels."""

DARK = 2.0
"""Mean grey level of 255: night scenes have ten and more, a covered lens has noise."""

CONSTANT = 1e-9
"""Variance over squared mean below which a band is constant: what rounding leaves of float64 sums."""


def diagnose(survey: Survey) -> list[Finding]:
    """All that looks wrong, severe findings first."""
    totals = Totals(survey)
    found = [finding for suspicion in SUSPICIONS for finding in suspicion(totals)]
    return sorted(found, key=lambda finding: not finding.severe)


def unread(totals: Totals) -> Iterator[Finding]:
    # Pairs that were read but refused are findings of their own. There may be thousands, and as many lines.
    pairs = [one.pair for one in totals.survey.facts if not one.pair.split]
    refused = {str(path) for pair in pairs for path in (pair.image, *pair.labels)}
    lengths = {len(path) for path in refused}

    def told(line: str) -> bool:
        starts = (at for at in range(len(line)) if at == 0 or line[at - 1] == " ")
        return any(line[at : at + length] in refused for at in starts for length in lengths)

    problems = [line for line in totals.survey.problems if not told(line)]
    if problems:
        more = f"; and {len(problems) - 3:,} more" if len(problems) > 3 else ""
        yield Finding(
            f"{several(len(problems), 'file')} could not be used: {'; '.join(problems[:3])}{more}",
            "mend these files or take them out: they are left out otherwise",
            severe=True,
        )


def no_pairs(totals: Totals) -> Iterator[Finding]:
    if not totals.labelled:
        yield Finding(
            "no image has a label: there is nothing to train on",
            "check that --images and --labels are the right folders, and that images and labels share their names",
            severe=True,
        )


def other_sizes(totals: Totals) -> Iterator[Finding]:
    other = [one for one in totals.labelled if one.label_size != one.size]
    turned = [one for one in other if one.label_size == one.size[::-1]]
    if turned:
        yield Finding(
            f"{several(len(turned), 'mask')} and {either(turned, 'its', 'their')} image have width and height "
            f"exchanged: {_sizes(turned[0])}",
            "one of the two is turned: image viewers turn photographs by their orientation tag, masks were drawn on "
            "what they show; store the images turned, without the tag",
            [path for one in turned for path in one.pair.labels],
            severe=True,
        )
    resized = [one for one in other if one.label_size != one.size[::-1]]
    if resized:
        yield Finding(
            f"{several(len(resized), 'mask')} of another size than {either(resized, 'its', 'their')} image: "
            f"{_sizes(resized[0])}",
            "use the masks' originals; if they fit but for the scale, resize the images to the masks' size, or the "
            "masks with nearest neighbour",
            [path for one in resized for path in one.pair.labels],
            severe=True,
        )


def _sizes(facts: PairFacts) -> str:
    """In the order that people write: width x height."""
    of_image, of_label = (f"{width} x {height}" for height, width in (facts.size, facts.label_size))
    return f"{facts.pair.image.name} is {of_image}, its mask {of_label}"


def alone(totals: Totals) -> Iterator[Finding]:
    survey = totals.survey
    pairs = len(totals.labelled)
    remedy = "if they belong together, give the pattern that pairs them; otherwise nothing has to be done"
    for paths, what, partner in (
        (survey.images_alone, "image", "label"),
        (survey.labels_alone, "label", "image"),
    ):
        if paths:
            many = len(paths) > MANY_ALONE * (pairs + len(paths))
            yield Finding(
                f"{several(len(paths), what)} without {partner}, beside {several(pairs, 'pair')}: "
                f"{either(paths, 'it is', 'they are')} left out",
                remedy,
                list(paths),
                severe=many,
            )


def duplicates(totals: Totals) -> Iterator[Finding]:
    same = defaultdict(list)
    for one in totals.survey.facts:
        # Images without content are a finding of their own.
        if not _constant(one):
            same[one.digest].append(one)
    groups = [group for group in same.values() if len(group) > 1]
    across, within = (
        [group for group in groups if (len({one.pair.split for one in group} - {""}) > 1) == several_splits]
        for several_splits in (True, False)
    )
    if across:
        yield Finding(
            f"{several(len(across), 'image')} {either(across, 'is', 'are')} in more than one split (the same "
            "pixels): the scores will be better than the network is",
            "leave them in one split only",
            [one.pair.image for group in across for one in group],
            severe=True,
        )
    if within:
        yield Finding(
            f"{several(len(within), 'image')} {either(within, 'comes', 'come')} more than once in a split (the "
            "same pixels): training and scores count them as often",
            "delete the copies, unless that is meant",
            [one.pair.image for group in within for one in group],
        )


def _constant(facts: PairFacts) -> bool:
    """Whether no band of the image changes."""
    return bool(_flat(facts.band_sums, facts.band_squares, values(facts)).all())


def _flat(sums: np.ndarray, squares: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Bands whose values, as far as they are finite, are all the same; also those without any: bool [bands]."""
    counts = np.maximum(counts, 1)
    return squares / counts - (sums / counts) ** 2 <= CONSTANT * squares / counts


def empty_images(totals: Totals) -> Iterator[Finding]:
    facts = totals.survey.facts
    constant = [one for one in facts if _constant(one)]
    if constant:
        yield Finding(
            f"{several(len(constant), 'image')} of a single colour",
            "look at them: they are damaged, or placeholders; delete them with their labels",
            [one.pair.image for one in constant],
        )
    dark = [one for one in facts if one.dtype == "uint8" and not _constant(one) and _grey_level(one) < DARK]
    if dark:
        yield Finding(
            f"{several(len(dark), 'image')} nearly black (mean grey level below {DARK:g} of 255)",
            "look at them: masks stored as images look like this, and so do deeper images that were cut to 8 bits",
            [one.pair.image for one in dark],
            severe=len(dark) > len(facts) / 2,
        )


def _grey_level(facts: PairFacts) -> float:
    return float((facts.band_sums / np.maximum(values(facts), 1)).mean())


def not_finite(totals: Totals) -> Iterator[Finding]:
    bad = [one for one in totals.survey.facts if one.band_counts is not None]
    if bad:
        lost = max(1 - float((values(one) / (one.size[0] * one.size[1])).min()) for one in bad)
        yield Finding(
            f"{several(len(bad), 'image')} with values that are nan or infinite, or marked as without data (up to "
            f"{share(lost)} of a band): they are passed over in mean and deviation; to the network they are the mean",
            "nothing, if these are gaps in the picture; give their pixels an ignored value in the labels",
            [one.pair.image for one in bad],
            severe=lost == 1,
        )


def constant_bands(totals: Totals) -> Iterator[Finding]:
    facts = totals.survey.facts
    number = {one.bands for one in facts}
    if len(number) != 1 or all(map(_constant, facts)):
        return
    sums, squares, counts = (
        sum(parts) for parts in zip(*((one.band_sums, one.band_squares, values(one)) for one in facts), strict=True)
    )
    flat = np.flatnonzero(_flat(sums, squares, counts))
    if len(flat):
        level = (sums / np.maximum(counts, 1))[flat[0]]
        yield Finding(
            f"band {listed(flat + 1)} of {number.pop()} is {level:g} everywhere, in all images",
            "leave the band out if it has no meaning (an alpha channel, for instance)",
        )


def mixed_images(totals: Totals) -> Iterator[Finding]:
    facts = totals.survey.facts
    for what, remedy, key in (
        (
            "number of bands",
            "convert all images to one number of bands; 8-bit grey images among ones in colour are read as colour",
            lambda one: f"{one.bands} band{'s' * (one.bands != 1)}",
        ),
        ("kind of numbers", "convert all images to one: their values mean different things", lambda one: one.dtype),
    ):
        kinds = Counter(map(key, facts))
        if len(kinds) > 1:
            plain = what == "number of bands" and {one.bands for one in facts} == {1, 3}
            rare = min(kinds, key=kinds.get)
            yield Finding(
                f"images differ in their {what}: {', '.join(f'{kind} in {n:,}' for kind, n in kinds.most_common())}",
                remedy,
                [one.pair.image for one in facts if key(one) == rare],
                severe=not (plain and {one.dtype for one in facts} == {"uint8"}),
            )


def mixed_sizes(totals: Totals) -> Iterator[Finding]:
    facts = totals.survey.facts
    least, median, most = spread([max(one.size) for one in facts])
    if most > MIXED_SIZES * least:
        ends = [next(one for one in facts if max(one.size) == side) for side in (least, most)]
        yield Finding(
            f"images of very different sizes: the longer side has {least:,} to {most:,} pixels (median {median:,})",
            "if the same things are larger in the larger images, resize all to about one size (masks with nearest "
            "neighbour)",
            [one.pair.image for one in ends],
        )


def few_images(totals: Totals) -> Iterator[Finding]:
    train = sum(one.pair.split == "train" for one in totals.labelled)
    # Before anything is divided there is nothing to count.
    if any(one.pair.split for one in totals.labelled) and train < FEW_IMAGES:
        yield Finding(
            f"very few images: {train} to train on",
            f"label more, {FEW_IMAGES} at the least; until then start from pretrained weights and train briefly"
            if train
            else "say by folders or lists which images are train",
            severe=not train,
        )


def validation(totals: Totals) -> Iterator[Finding]:
    number_of = Counter(one.pair.split for one in totals.labelled)
    if number_of["train"] and not number_of["val"]:
        yield Finding(
            "no image to validate on: scores of this network cannot be known",
            "split some off with --val 0.2",
        )
    elif number_of["train"] and number_of["val"] < FEW_VALIDATION_IMAGES:
        yield Finding(
            f"only {several(number_of['val'], 'image')} to validate on: chance decides the scores",
            f"validate on {FEW_VALIDATION_IMAGES} or more: label more images, or give a larger share with --val",
        )


def large_ignored(totals: Totals) -> Iterator[Finding]:
    counts = totals.counts()
    ignored = counts.ignored / max(counts.total, 1)
    if ignored > LARGE_IGNORED:
        yield Finding(
            f"{share(ignored)} of all pixels are ignored: the network learns nothing from them",
            "if they show something (background, other things), make it a class: give its value a name in --classes",
        )


def other_split_only(totals: Totals) -> Iterator[Finding]:
    """Classes that one split has and another lacks."""
    counts = {split: totals.counts(split) for split in SPLITS}
    made = set(labels.ghosts(totals).tolist())
    real = np.array([entry.value not in made for entry in totals.classes], bool)
    for split in ("val", "test"):
        if not counts["train"].labels or not counts[split].labels:
            continue
        for have, lack, effect in (
            (split, "train", "what is not in train cannot be learned, its IoU is 0"),
            ("train", split, f"what is not in {split} gets no score there"),
        ):
            only = real & (counts[have].images > 0) & (counts[lack].images == 0)
            names = [entry.name for entry, one in zip(totals.classes, only, strict=True) if one]
            # One does not choose a test split.
            if names and (have, lack) != ("train", "test"):
                yield Finding(
                    f"{several(len(names), 'class', 'classes')} in {have} but not in {lack}: {listed(names)}; {effect}",
                    f"move an image that has it to {lack}, or label more",
                    [
                        one.pair.image
                        for one in totals.of(have)
                        if totals.places(one) & set(np.flatnonzero(only).tolist())
                    ],
                )


SUSPICIONS: list[Callable[[Totals], Iterator[Finding]]] = [
    no_pairs,
    unread,
    other_sizes,
    labels.lossy,
    labels.interpolated,
    labels.blurred,
    labels.unknown_values,
    labels.binary,
    labels.mostly_255,
    labels.one_class,
    duplicates,
    not_finite,
    mixed_images,
    alone,
    empty_images,
    constant_bands,
    labels.gaps,
    labels.never,
    other_split_only,
    labels.rare,
    large_ignored,
    few_images,
    validation,
    mixed_sizes,
]
