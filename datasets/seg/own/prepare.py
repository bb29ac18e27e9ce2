"""From somebody's images and labels to a DATA_DIR: pair, read once, recognise, divide, report, write."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets.seg.classes import FILE, parse_table
from datasets.seg.own import pictures, report
from datasets.seg.own.classes_file import Row, read_classes
from datasets.seg.own.coco import Coco
from datasets.seg.own.diagnosis import diagnose
from datasets.seg.own.facts import Entry, Pair, PairFacts, Survey
from datasets.seg.own.kinds import Kind, recognise
from datasets.seg.own.labels import ClassFolders, LabelFiles
from datasets.seg.own.page import html
from datasets.seg.own.pairing import Pairing, images_only, pair_folders, pair_list
from datasets.seg.own.split import SHARE, by_lists, divide
from datasets.seg.own.statistics import bands, class_weights, measure
from datasets.seg.own.survey import Labels, read_all
from datasets.seg.own.table import BACKGROUND, VOID, Named, Table, TooMany, Wishes, make_table, show, table_text
from datasets.seg.own.write import FACTS, REPORT, Prepared, plan, refuse_overlap, write
from datasets.seg.preprocess.runner import SPLITS, say
from lib.base.errors import UserError
from lib.base.names import printable

ANNOTATIONS = ("instances", "stuff")
"""How COCO's files of segmentations are called, among others in one folder."""


@dataclass(frozen=True)
class Request:
    """What the user asks for; the words are the command's options."""

    dst: Path
    images: Path | None = None
    labels: Path | None = None
    list: Path | None = None
    pattern: str | None = None
    val: float | None = None
    lists: dict[str, Path] = field(default_factory=dict)
    classes: Path | None = None
    ignore: tuple[str, ...] = ()
    ignore_background: bool = False
    link: bool = False
    workers: int = os.cpu_count() or 1


def prepare(request: Request) -> int:
    """Do it, and print what was found and done.

    Returns the exit status: 0, or 1 if some pairs were bad and are left out.

    Raises:
        UserError: nothing can be prepared, or not so; ``dst`` is as it was, or has no class table.
    """
    rows = read_classes(request.classes) if request.classes else None
    pairing, labels, named = find_labels(request, rows)
    folders = [folder for folder in (request.images, request.labels) if folder and os.path.isdir(folder)]
    refuse_overlap(request.dst, folders, [file for pair in pairing.pairs for file in (pair.image, *pair.labels)])
    pairs = choose_splits(pairing, request)
    readings, problems = read_all(pairs, labels, request.workers)
    pairing.problems += problems
    if not any(reading.form for reading in readings):
        raise UserError(f"no pair of image and label can be read: {pairing.problems[0]}")
    binary_allowed = named is None and str(VOID) not in request.ignore and VOID not in {row.id for row in rows or ()}
    kind, facts = recognise(readings, binary_allowed)
    if named is None:
        pairing.recognised.insert(0, kind.sentence)
    table = decide_classes(kind, facts, request, rows, named, pairing)
    entries, known = table.entries, {entry.value: entry.id for entry in table.entries}
    facts = check(facts, kind, known, request, pairing.problems)
    facts = divide_train(facts, entries, request, pairing)
    survey = survey_of(pairing, kind, entries, facts)
    findings = diagnose(survey)
    print(report.text(survey, findings), flush=True)
    for problem in pairing.problems:
        say(f"problem: {problem}")
    reading_of = {reading.facts.pair.image: reading for reading in readings}
    prepared = [
        plan(reading_of[one.pair.image], one, labels, kind, known, request.dst) for one in facts if one.pair.split
    ]
    if not any(one.pair.split == "train" and one.label for one in prepared):
        raise UserError(
            "no image with a label is left for train: see the problems above, or give fewer to val and test "
            f"({', '.join(f'--{split}-list' for split in request.lists) or '--val'})"
        )
    weights = [table.weights[entry.id] for entry in entries if not entry.ignored and entry.id in table.weights]
    text = table_text(entries, weights or class_weights(survey), kind.colours)
    parse_table(text, request.dst.name, request.dst / FILE)  # or what is written could not be read

    def documents() -> dict[str, str]:
        figures = json.dumps(measure(survey), indent=2) + "\n"
        page = html(survey, findings, pictures.prepared(request.dst), title=request.dst.resolve().name)
        return {FACTS: figures, REPORT: page}

    done = write(prepared, text, documents, request.dst, folders, request.link, request.workers)
    summarise(prepared, done, pairing.problems, request.dst)
    return 1 if pairing.problems else 0


def find_labels(request: Request, rows: Sequence[Row] | None) -> tuple[Pairing, Labels, Named | None]:
    """The pairs, what reads their labels, and the classes' names if the labels say them."""
    for option, folder in (("images", request.images), ("labels", request.labels)):
        if folder and not os.path.exists(folder):
            raise UserError(f"--{option} {folder} does not exist")
    if request.images and not os.path.isdir(request.images):
        raise UserError(f"--images {request.images} is not a folder")
    if request.list:
        if request.pattern:
            raise UserError("--pattern has no meaning beside --list, which says what belongs together: leave one out")
        return pair_list(request.list, request.images, request.labels), LabelFiles(), None
    if request.images is None or request.labels is None:
        raise UserError("name the folders, --images DIR and --labels DIR, or give --list FILE")
    if files := annotation_files(request.labels):
        if request.pattern:
            raise UserError("--pattern has no meaning for COCO's JSON, which names the images: leave it out")
        coco = Coco(files)
        pairing = coco.pair(images_only(request.images))
        return pairing, coco, Named(coco.names, coco.colours, coco.background)
    if not os.path.isdir(request.labels):
        raise UserError(f"--labels {request.labels} is neither a folder nor a COCO .json file")
    pairing = pair_folders(request.images, request.labels, request.pattern)
    if not pairing.class_of:
        return pairing, LabelFiles(), None
    names = sorted(set(pairing.class_of.values()) - {BACKGROUND})
    value_of = {row.name: row.id for row in rows or () if row.name in names}
    free = iter(value for value in range(1, len(names) + len(value_of) + 2) if value not in value_of.values())
    value_of |= {name: next(free) for name in names if name not in value_of}
    background = next(value for value in range(len(names) + 1) if value not in value_of.values())
    if BACKGROUND in pairing.class_of.values():
        value_of[BACKGROUND] = background
    named = Named({value: name for name, value in value_of.items()}, {}, background)
    return pairing, ClassFolders(pairing.class_of, value_of, background), named


def annotation_files(labels: Path) -> list[Path]:
    """COCO's files: ``labels`` itself, or those in the folder, of which "instances" and "stuff" come first."""
    if labels.suffix.lower() == ".json":
        return [labels]
    if not os.path.isdir(labels):
        return []
    try:
        entries = sorted(path for path in labels.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"--labels {labels} cannot be read: {error.strerror}") from error
    files = [path for path in entries if path.suffix.lower() == ".json"]
    if not files or any(path.is_dir() or path.suffix.lower() in (".png", ".tif", ".npy") for path in entries):
        return []
    return [path for path in files if path.name.startswith(ANNOTATIONS)] or files


def choose_splits(pairing: Pairing, request: Request) -> list[Pair]:
    """The pairs to read, with the split that lists or folders say; images without label are among those of test."""
    if request.lists:
        everything, said, problems = by_lists([*pairing.pairs, *pairing.images_alone], request.lists)
        pairing.pairs = [pair for pair in everything if pair.labels]
        pairing.images_alone = [pair for pair in everything if not pair.labels]
        pairing.recognised += said
        pairing.problems += problems
        if not pairing.pairs:
            raise UserError("the lists leave no image with a label")
    elif any(pair.split for pair in pairing.pairs):
        counts = Counter(pair.split or "train" for pair in pairing.pairs)
        shown = ", ".join(f"{split} {counts[split]}" for split in SPLITS if counts[split])
        pairing.recognised.append(f"the division is that of {request.list or 'the folders'}: {shown}")
        pairing.pairs = [replace(pair, split=pair.split or "train") for pair in pairing.pairs]
    if request.val is not None and any(pair.split == "val" for pair in pairing.pairs):
        raise UserError(f"--val {request.val:g} would divide what lists or folders divide already: leave it out")
    if any(pair.split == "test" for pair in pairing.pairs):
        return pairing.pairs
    unlabelled = [pair for pair in pairing.images_alone if pair.split == "test"]
    pairing.images_alone = [pair for pair in pairing.images_alone if pair.split != "test"]
    return [*pairing.pairs, *unlabelled]


def decide_classes(
    kind: Kind,
    facts: Sequence[PairFacts],
    request: Request,
    rows: Sequence[Row] | None,
    named: Named | None,
    pairing: Pairing,
) -> Table:
    """The class table; where there can be none, what was found is printed before that is said."""
    pixels: Counter[int] = Counter()
    for one in facts:
        pixels.update(dict(zip(one.values.tolist(), one.counts.tolist(), strict=True)))
    try:
        table = make_table(
            kind, pixels, Wishes(rows, request.classes, request.ignore, request.ignore_background), named
        )
    except TooMany:
        survey = survey_of(pairing, kind, [], list(facts))
        print(report.text(survey, diagnose(survey)), flush=True)
        raise
    pairing.recognised += table.recognised
    return table


def check(
    facts: Sequence[PairFacts], kind: Kind, known: dict[int, int], request: Request, problems: list[str]
) -> list[PairFacts]:
    """Take the split from pairs that do not fit, which leaves them out of DATA_DIR, and say why in ``problems``."""
    number = bands(facts)
    checked = []
    for one in facts:
        pair, unknown = one.pair, [value for value in one.values.tolist() if value not in known]
        problem = None
        if one.label_size and one.label_size != one.size:
            image, label = (f"{width} x {height}" for height, width in (one.size, one.label_size))
            problem = f"size mismatch: image {pair.image} is {image} but label {pair.labels[0]} is {label}"
        elif unknown:
            listed = ", ".join(show(value, kind.colours) for value in unknown[:5]) + ", ..." * (len(unknown) > 5)
            problem = f"{listed} in label {pair.labels[0]} is in no line of --classes {request.classes}"
        elif one.bands not in (1, number):
            problem = f"{pair.image} has {one.bands} bands, but most images have {number}"
        if problem:
            problems.append(problem)
            one = replace(one, pair=replace(pair, split="-"))
        checked.append(one)
    return checked


def divide_train(
    facts: list[PairFacts], entries: Sequence[Entry], request: Request, pairing: Pairing
) -> list[PairFacts]:
    """Divide train, where nothing says what val is; pairs that were refused end without a split."""
    facts = [one if one.pair.split else replace(one, pair=replace(one.pair, split="train")) for one in facts]
    if not any(one.pair.split == "val" for one in facts):
        share = SHARE if request.val is None else request.val
        classes = {entry.value for entry in entries if not entry.ignored}
        train = [one for one in facts if one.pair.split == "train"]
        val = divide(train, share, classes)
        facts = [
            replace(one, pair=replace(one.pair, split="val"))
            if one.pair.split == "train" and one.pair.name in val
            else one
            for one in facts
        ]
        pairing.recognised.append(
            f"{len(val)} of {len(train)} images become val (--val {share:g}), so that all classes are in both as far "
            "as can be; the same at every time"
        )
    return [replace(one, pair=replace(one.pair, split=one.pair.split.strip("-"))) for one in facts]


def survey_of(pairing: Pairing, kind: Kind, entries: list[Entry], facts: list[PairFacts]) -> Survey:
    return Survey(
        recognised=pairing.recognised,
        colours=kind.colours,
        entries=entries,
        facts=facts,
        images_alone=[pair.image for pair in pairing.images_alone],
        labels_alone=pairing.labels_alone,
        problems=pairing.problems,
    )


def summarise(prepared: Sequence[Prepared], done: dict[str, int], problems: Sequence[str], dst: Path) -> None:
    """Print what lies in ``dst`` now."""
    counts = Counter((one.pair.split, bool(one.label)) for one in prepared)
    removed = f", {done['removed']} of an earlier run removed" if done["removed"] else ""
    print(
        f"\n{done['written']} files written, {done['unchanged']} already there and unchanged{removed}, "
        f"{len(problems)} problems"
    )
    splits = (
        f"{split} {counts[split, True] + counts[split, False]} images, {counts[split, True]} labels" for split in SPLITS
    )
    print(f"{'; '.join(splits)}; in {printable(dst)} (see {REPORT} there)")
