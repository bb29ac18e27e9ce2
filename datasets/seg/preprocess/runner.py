"""What all preprocessing commands share: check every raw pair, write the good ones, report the rest.

Prepared layout: ``DATA_DIR/{train,val,test}/{image,label}/<stem>.{png,jpg}``, the same stem in both folders, labels
single-channel 8-bit PNG holding the dataset's own label ids.
"""

import argparse
import errno
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.seg.classes import UNKNOWN, ClassTable, load_table
from lib.atomic import write_atomically
from lib.errors import UserError

SPLITS = ("train", "val", "test")
KINDS = ("image", "label")
PNG_8BIT_GREY = b"\x08\x00"
"""Bit depth and colour type, bytes 24 and 25 of a PNG file."""


@dataclass(frozen=True)
class Pair:
    """An image and its label as the raw download should hold them; whether the files exist is checked later.

    Attributes:
        split: "train", "val" or "test".
        image: the image file; its stem names the prepared files.
        label: the label file, or None where the dataset publishes none.
    """

    split: str
    image: Path
    label: Path | None

    def targets(self, dst: Path) -> dict[str, Path]:
        """Where the prepared files go in ``dst``, by kind; the image, which makes the pair visible, comes last."""
        image = dst / self.split / "image" / (self.image.stem + self.image.suffix.lower())
        if self.label is None:
            return {"image": image}
        return {"label": dst / self.split / "label" / f"{self.image.stem}.png", "image": image}

    def sources(self) -> dict[str, Path]:
        """The raw files by kind."""
        return {"image": self.image} if self.label is None else {"image": self.image, "label": self.label}


def visible_files(folder: Path, pattern: str) -> Iterator[Path]:
    """Files in ``folder`` that match ``pattern``, without hidden ones such as macOS's ``._name.png``."""
    return (path for path in folder.glob(pattern) if path.is_file() and not path.name.startswith("."))


def check_pair(pair: Pair, table: ClassTable) -> tuple[dict[str, bytes], list[str]]:
    """Read both files and decode them to the last pixel.

    Returns the files' bytes by kind, and what is wrong with them, one line each.
    """
    sources = pair.sources()
    missing = [kind for kind, path in sources.items() if not path.is_file()]
    if missing == ["label"]:
        return {}, [f"no label for {pair.image}: expected {pair.label}"]
    if missing:
        return {}, [f"no image for {pair.label}: expected {pair.image}"]
    data, sizes, problems = {}, {}, []
    for kind, path in sources.items():
        try:
            data[kind] = path.read_bytes()
            pixels = decode(data[kind])
        except Exception as error:  # a damaged file makes Pillow raise almost anything
            reason = (
                error.strerror if isinstance(error, OSError) and error.errno else "not an image, damaged or cut off"
            )
            problems.append(f"cannot read {kind} {path}: {reason}")
            continue
        sizes[kind] = pixels.shape[:2]
        if kind == "label":
            problems += check_label(path, data[kind], pixels, table)
    if len(set(sizes.values())) > 1:
        (height, width), (label_height, label_width) = sizes["image"], sizes["label"]
        size = f"{width} x {height} but label {pair.label} is {label_width} x {label_height}"
        problems.append(f"size mismatch: image {pair.image} is {size}")
    return data, problems


def decode(data: bytes) -> np.ndarray:
    """Pixels of an encoded image; raises if a byte of it is missing."""
    with Image.open(io.BytesIO(data)) as image:
        image.verify()  # checksums and the end mark, which load() does without
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def check_label(path: Path, data: bytes, pixels: np.ndarray, table: ClassTable) -> list[str]:
    """What is wrong with a label that could be decoded: its format, or ids that the dataset does not have."""
    if data[24:26] != PNG_8BIT_GREY or not data.startswith(b"\x89PNG"):
        return [f"label {path} is not a single-channel 8-bit PNG: label ids are expected, not colours"]
    ids = np.flatnonzero(np.bincount(pixels.ravel(), minlength=256))
    unknown = ids[table.train_id_of[ids] == UNKNOWN]
    if not len(unknown):
        return []
    plural = "s" if len(unknown) > 1 else ""
    verb = "are not" if plural else "is not a"
    listed = ", ".join(map(str, unknown))
    return [f"label{plural} {listed} in {path} {verb} {table.dataset} label id{plural} ({table.valid_ids})"]


def is_current(source: Path, target: Path, link: bool) -> bool:
    """Whether ``target`` is ``source``'s copy (same size and time) or, with ``link``, the same file."""
    try:
        ours, theirs = target.stat(), source.stat()
    except OSError:
        return False
    if os.path.samestat(ours, theirs) != link:
        return False
    return (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)


def copy_file(source: Path, data: bytes, target: Path) -> None:
    """Write ``data``, the contents of ``source``, to ``target`` with the time of ``source``."""
    stat = source.stat()

    def write(file: BinaryIO) -> None:
        file.write(data)
        file.flush()  # or flushing later would set a new time
        os.utime(file.fileno(), ns=(stat.st_atime_ns, stat.st_mtime_ns))

    try:
        write_atomically(target, write)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from error


def link_file(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``source``, replacing what was there in one step."""
    temporary = target.with_name(f".{target.name}.link.part")
    try:
        temporary.unlink(missing_ok=True)
        os.link(source.resolve(), temporary)
        os.replace(temporary, target)
    except OSError as error:
        other = error.errno == errno.EXDEV
        reason = "they are on different file systems" if other else error.strerror
        raise UserError(f"cannot link {target} to {source}: {reason}; without --link files are copied") from error


def prepare_pair(pair: Pair, dst: Path, table: ClassTable, link: bool) -> tuple[str, list[str]]:
    """Check and write one pair; returns "written", "unchanged" or "bad", and the problems found."""
    sources, targets = pair.sources(), pair.targets(dst)
    if all(is_current(sources[kind], target, link) for kind, target in targets.items()):
        return "unchanged", []
    data, problems = check_pair(pair, table)
    if problems:
        return "bad", problems
    for kind, target in targets.items():
        if link:
            link_file(sources[kind], target)
        else:
            copy_file(sources[kind], data[kind], target)
    return "written", []


def separate_duplicates(pairs: Iterable[Pair]) -> tuple[list[Pair], list[str]]:
    """Split off pairs whose prepared names another pair has taken: (pairs in order, problems)."""
    first: dict[tuple[str, str], Pair] = {}
    problems = []
    for pair in sorted(pairs, key=lambda pair: (SPLITS.index(pair.split), pair.image)):
        taken = first.setdefault((pair.split, pair.image.stem), pair)
        if taken is not pair:
            problems.append(f"two images named {pair.image.stem}: {taken.image} and {pair.image}")
    return list(first.values()), problems


def make_folders(pairs: list[Pair], src: Path, dst: Path) -> None:
    """Make the folders to write to, none of them in ``src``, and clear what interrupted runs left in them."""
    folders = sorted({target.parent for pair in pairs for target in pair.targets(dst).values()})
    for folder in (dst, *folders):
        if folder.resolve().is_relative_to(src.resolve()):
            raise UserError(f"--dst {dst} would write into the raw data at {src}: choose a folder outside it")
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".*.part"):
                leftover.unlink()
    except OSError as error:
        raise UserError(f"cannot write to --dst {dst}: {error.filename}: {error.strerror}") from error


def prepare(dataset: str, pairs: Iterable[Pair], src: Path, dst: Path, link: bool, workers: int) -> int:
    """Bring all pairs into ``dst`` and print what happened; returns the exit status, 1 if a pair was bad."""
    table = load_table(dataset)
    pairs, problems = separate_duplicates(pairs)
    make_folders(pairs, src, dst)
    job = partial(prepare_pair, dst=dst, table=table, link=link)
    # Threads: decoding and disk access, which is all the work, run outside the interpreter's lock.
    pool = ThreadPoolExecutor(workers)
    try:
        outcomes = list(tqdm(pool.map(job, pairs), total=len(pairs), desc=dataset, unit="pair", disable=None))
    finally:
        pool.shutdown(cancel_futures=True)
    problems += [problem for _, found in outcomes for problem in found]

    expected = {target for pair in pairs for target in pair.targets(dst).values()}
    for split, kind in ((split, kind) for split in SPLITS for kind in KINDS):
        for path in sorted(set(visible_files(dst / split / kind, "*")) - expected):
            print(f"warning: {path} belongs to no file in {src}; it was left there", file=sys.stderr)
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    print_summary(dataset, pairs, [state for state, _ in outcomes], problems, dst)
    return 1 if problems else 0


def print_summary(dataset: str, pairs: list[Pair], states: list[str], problems: list[str], dst: Path) -> None:
    """Print how many pairs were written, and images and labels per split; bad pairs do not count."""
    total = Counter(states)
    print(
        f"{total['written']} pairs written, {total['unchanged']} already there and unchanged, {len(problems)} problems"
    )
    count = Counter(
        (pair.split, kind)
        for pair, state in zip(pairs, states, strict=True)
        for kind in pair.sources()
        if state != "bad"
    )
    splits = (f"{split} {count[split, 'image']} images, {count[split, 'label']} labels" for split in SPLITS)
    print(f"{dataset}: {'; '.join(splits)}; in {dst}")


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def main(dataset: str, find_pairs: Callable[[Path], list[Pair]], layout: str) -> int:
    """The command line of a dataset's preprocessing.

    Args:
        dataset: its name, as in ``datasets.seg.classes``.
        find_pairs: from the raw folder to all pairs that it holds or ought to hold.
        layout: where the raw files are expected, in a few words, for messages.

    Returns the exit status: 0, 1 if pairs were bad, 2 after a mistake of the user's, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m datasets.seg.preprocess.{dataset}",
        description=f"Prepare {dataset} for training. Expected in RAW: {layout}. Safe to repeat.",
    )
    parser.add_argument("--src", metavar="RAW", type=Path, required=True, help="the raw download; never changed")
    parser.add_argument("--dst", metavar="DATA_DIR", type=Path, required=True, help="the folder to prepare")
    parser.add_argument("--link", action="store_true", help="hard-link the files instead of copying them")
    parser.add_argument("--workers", type=positive, default=os.cpu_count(), help="threads (default: all cores)")
    args = parser.parse_args()
    try:
        if not args.src.is_dir():
            raise UserError(f"--src {args.src} is not a folder: name the raw download, which holds {layout}")
        pairs = find_pairs(args.src)
        if not pairs:
            raise UserError(f"nothing to prepare in {args.src}: expected {layout}")
        return prepare(dataset, pairs, args.src, args.dst, args.link, args.workers)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 130
