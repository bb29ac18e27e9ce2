"""What all preprocessing commands share: check every raw pair, write the good ones, report the rest.

Prepared layout: ``DATA_DIR/{train,val,test}/{image,label}/<stem>.{png,jpg}``, the same stem in both folders, labels
single-channel 8-bit PNG holding the dataset's own label ids. Files that are so already are copied as they are; labels
in another format are converted.
"""

import argparse
import errno
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from tqdm import tqdm

from datasets.seg.classes import UNKNOWN, ClassTable, load_table
from datasets.seg.jpeg import SOI, check_whole
from datasets.seg.png import MOST_PIXELS
from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.base.lock import only_process
from lib.base.names import check_name, printable, shortened
from lib.base.regular import read_regular

SPLITS = ("train", "val", "test")
KINDS = ("image", "label")
PNG_8BIT_GREY = b"\x08\x00"
"""Bit depth and colour type, bytes 24 and 25 of a PNG file."""


class LabelError(Exception):
    """A raw label cannot be converted; the message says why, and is reported together with the label file's name."""


@dataclass(frozen=True)
class Pair:
    """An image and its label as the raw download should hold them; whether the files exist is checked later.

    Attributes:
        split: "train", "val" or "test".
        image: the image file; its stem names the prepared files.
        label: the label file, or None where the dataset publishes none.
        convert: reads label ids, uint8 [H, W], out of ``label`` and may raise ``LabelError``; None where ``label`` is
            a PNG of label ids.
    """

    split: str
    image: Path
    label: Path | None
    convert: Callable[[], np.ndarray] | None = None

    def targets(self, dst: Path) -> dict[str, Path]:
        """Where the prepared files go in ``dst``, by kind; the image, which makes the pair visible, comes last."""
        image = dst / self.split / "image" / (self.image.stem + self.image.suffix.lower())
        if self.label is None:
            return {"image": image}
        return {"label": dst / self.split / "label" / f"{self.image.stem}.png", "image": image}

    def sources(self) -> dict[str, Path]:
        """The raw files by kind."""
        return {"image": self.image} if self.label is None else {"image": self.image, "label": self.label}

    def is_converted(self, kind: str) -> bool:
        """Whether the prepared file of ``kind`` is not the raw file itself."""
        return kind == "label" and self.convert is not None

    def read(self, kind: str) -> tuple[bytes, np.ndarray]:
        """The prepared file's bytes and its pixels; raises whatever a bad file makes its decoder raise."""
        if self.is_converted(kind):
            pixels = self.convert()
            return encode(pixels), pixels
        data = read_regular(self.sources()[kind])
        return data, decode(data)


def visible_files(folder: Path, pattern: str) -> Iterator[Path]:
    """Files in ``folder`` that match ``pattern``, without hidden ones such as macOS's ``._name.png``."""
    return (path for path in folder.glob(pattern) if os.path.isfile(path) and not path.name.startswith("."))


def check_pair(pair: Pair, table: ClassTable) -> tuple[dict[str, bytes], list[str]]:
    """Read both files and decode them to the last pixel.

    Returns the bytes of the prepared files by kind, and what is wrong with them, one line each.
    """
    sources = pair.sources()
    for kind, path in sources.items():
        try:
            check_name(path)
        except UserError as error:
            return {}, [f"{kind}: {error}"]
    # Unlike pathlib, os.path raises nothing for names that no file can have.
    missing = [kind for kind, path in sources.items() if not os.path.isfile(path)]
    if missing == ["label"]:
        return {}, [f"no label for {pair.image}: expected {pair.label}"]
    if missing:
        return {}, [f"no image for {pair.label}: expected {pair.image}"]
    data, sizes, problems = {}, {}, []
    for kind, path in sources.items():
        try:
            data[kind], pixels = pair.read(kind)
        except LabelError as error:
            problems.append(f"cannot read label {path}: {error}")
            continue
        except UserError as error:
            problems.append(str(error))
            continue
        except Exception as error:  # a damaged file makes Pillow raise almost anything
            reason = (
                error.strerror if isinstance(error, OSError) and error.errno else "not an image, damaged or cut off"
            )
            problems.append(f"cannot read {kind} {path}: {reason}")
            continue
        sizes[kind] = pixels.shape[:2]
        if kind == "label" and (data[kind][24:26] != PNG_8BIT_GREY or not data[kind].startswith(b"\x89PNG")):
            problems.append(f"label {path} is not a single-channel 8-bit PNG: label ids are expected, not colours")
        elif kind == "label":
            problems += check_ids(path, pixels, table)
    if len(set(sizes.values())) > 1:
        (height, width), (label_height, label_width) = sizes["image"], sizes["label"]
        size = f"{width} x {height} but label {pair.label} is {label_width} x {label_height}"
        problems.append(f"size mismatch: image {pair.image} is {size}")
    return data, problems


def decode(data: bytes) -> np.ndarray:
    """Pixels of a PNG or JPEG; raises if a byte of it is missing."""
    if data.startswith(SOI):
        check_whole(data)
    with open_pillow(data) as image:
        image.verify()  # checksums and the end mark, which load() does without
    with open_pillow(data) as image:
        return np.asarray(image)


def open_pillow(data: bytes) -> ImageFile:
    """A PNG or JPEG in memory, not decoded yet; raises for any other file and for more pixels than training takes."""
    image = (JpegImageFile if data.startswith(SOI) else PngImageFile)(io.BytesIO(data))
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels")
    return image


def encode(label: np.ndarray) -> bytes:
    """A single-channel 8-bit PNG of ``label``, uint8 [H, W]."""
    file = io.BytesIO()
    Image.fromarray(label).save(file, "png")
    return file.getvalue()


def check_ids(path: Path, pixels: np.ndarray, table: ClassTable) -> list[str]:
    """What is wrong with the ids in a label, uint8 [H, W]: those that the dataset does not have."""
    ids = np.flatnonzero(np.bincount(pixels.ravel(), minlength=256))
    unknown = ids[table.train_id_of[ids] == UNKNOWN]
    if not len(unknown):
        return []
    plural = "s" if len(unknown) > 1 else ""
    verb = "are not" if plural else "is not a"
    listed = ", ".join(map(str, unknown))
    return [f"label{plural} {listed} in {path} {verb} {table.dataset} label id{plural} ({table.valid_ids})"]


def is_current(pair: Pair, kind: str, target: Path, link: bool) -> bool:
    """Whether ``target`` has the time of its raw file and is what was made of that: a conversion, a copy or a link."""
    try:
        ours, theirs = target.stat(), pair.sources()[kind].stat()
    except (OSError, ValueError):  # a list may hold names that no file can have
        return False
    if ours.st_mtime_ns != theirs.st_mtime_ns:
        return False
    return pair.is_converted(kind) or (ours.st_size == theirs.st_size and os.path.samestat(ours, theirs) == link)


def copy_file(source: Path, data: bytes, target: Path) -> None:
    """Write ``data``, the contents of ``source`` or made of it, to ``target`` with the time of ``source``."""
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
    temporary = target.with_name(shortened(f".{target.name}", f".{uuid4().hex}.part"))
    try:
        os.link(source.resolve(), temporary)
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        other = error.errno == errno.EXDEV
        reason = "they are on different file systems" if other else error.strerror
        raise UserError(f"cannot link {target} to {source}: {reason}; without --link files are copied") from error


def prepare_pair(pair: Pair, dst: Path, table: ClassTable, link: bool) -> tuple[str, list[str]]:
    """Check and write one pair; returns "written", "unchanged" or "bad", and the problems found."""
    sources, targets = pair.sources(), pair.targets(dst)
    if all(is_current(pair, kind, target, link) for kind, target in targets.items()):
        return "unchanged", []
    data, problems = check_pair(pair, table)
    if problems:
        return "bad", problems
    for kind, target in targets.items():
        if link and not pair.is_converted(kind):
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


def make_folders(pairs: list[Pair], dst: Path) -> None:
    """Make the folders to write to, and clear what interrupted runs left there."""
    try:
        for folder in folders_of(pairs, dst):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".*.part"):
                leftover.unlink()
    except OSError as error:
        raise UserError(f"cannot write to --dst {dst}: {error.filename}: {error.strerror}") from error


def folders_of(pairs: list[Pair], dst: Path) -> list[Path]:
    """Where the prepared files of ``pairs`` go."""
    return sorted({target.parent for pair in pairs for target in pair.targets(dst).values()})


@contextmanager
def alone_in(dst: Path, pairs: list[Pair], raw: list[Path]) -> Iterator[None]:
    """Keep ``dst``, made if it is missing, to this process; raises UserError if it is another's or inside ``raw``."""
    for folder, src in product((dst, *folders_of(pairs, dst)), raw):
        if folder.resolve().is_relative_to(src.resolve()):
            raise UserError(f"--dst {dst} would write into the raw data at {src}: choose a folder outside it")
    with ExitStack() as held:
        busy = f"another process is preparing --dst {dst}: wait for its end, or choose another folder"
        try:
            dst.mkdir(parents=True, exist_ok=True)
            held.enter_context(only_process(dst, busy))
        except OSError as error:
            raise UserError(f"cannot write to --dst {dst}: {error.filename}: {error.strerror}") from error
        yield


def prepare(
    dataset: str, table: ClassTable, pairs: Iterable[Pair], raw: list[Path], dst: Path, link: bool, workers: int
) -> int:
    """Bring all pairs from the folders ``raw`` into ``dst`` and print what happened.

    Returns the exit status, 1 if a pair was bad. Raises UserError, with nothing touched, while another process
    prepares ``dst``.
    """
    pairs, problems = separate_duplicates(pairs)
    with alone_in(dst, pairs, raw):
        make_folders(pairs, dst)
        job = partial(prepare_pair, dst=dst, table=table, link=link)
        # Threads: decoding and disk access, which is all the work, run outside the interpreter's lock.
        pool = ThreadPoolExecutor(workers)
        try:
            outcomes = list(tqdm(pool.map(job, pairs), total=len(pairs), desc=dataset, unit="pair", disable=None))
        finally:
            pool.shutdown(cancel_futures=True)
        strays = find_strays(pairs, dst)
    problems += [problem for _, found in outcomes for problem in found]
    for path in strays:
        say(f"warning: {path} belongs to no file in {raw[0]}; it was left there")
    for problem in problems:
        say(f"problem: {problem}")
    print_summary(dataset, pairs, [state for state, _ in outcomes], problems, dst)
    return 1 if problems else 0


def find_strays(pairs: list[Pair], dst: Path) -> list[Path]:
    """The files in ``dst`` that no pair makes."""
    expected = {target for pair in pairs for target in pair.targets(dst).values()}
    return [
        path
        for split, kind in product(SPLITS, KINDS)
        for path in sorted(set(visible_files(dst / split / kind, "*")) - expected)
    ]


def say(line: str) -> None:
    """Print ``line`` to standard error, as one line whatever names it holds."""
    print(printable(line), file=sys.stderr)


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
    print(f"{dataset}: {'; '.join(splits)}; in {printable(dst)}")


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def main(
    dataset: str,
    find_pairs: Callable[..., list[Pair]],
    layout: str,
    *,
    table: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> int:
    """The command line of a dataset's preprocessing.

    Args:
        dataset: its name.
        find_pairs: from the raw folder, and the values of ``options`` by name, to all pairs that it holds or ought to.
        layout: where the raw files are expected, in a few words, for messages.
        table: the class table that says which label ids are legal; that of ``dataset`` unless given.
        options: what else ``find_pairs`` takes, by name, as arguments of ``ArgumentParser.add_argument``; an option
            of type Path is a second raw folder.

    Returns the exit status: 0, 1 if pairs were bad, 2 after a mistake of the user's, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m datasets.seg.preprocess.{dataset}",
        description=f"Prepare {dataset} for training. Expected in RAW: {layout}. Safe to repeat.",
    )
    parser.add_argument("--src", metavar="RAW", type=Path, required=True, help="the raw download; never changed")
    parser.add_argument("--dst", metavar="DATA_DIR", type=Path, required=True, help="the folder to prepare")
    for name, details in (options or {}).items():
        parser.add_argument(f"--{name}", **details)
    parser.add_argument(
        "--link", action="store_true", help="hard-link the files instead of copying them; converted labels are written"
    )
    parser.add_argument("--workers", type=positive, default=os.cpu_count(), help="threads (default: all cores)")
    args = parser.parse_args()
    chosen = {name: getattr(args, name) for name in options or {}}
    try:
        if not os.path.isdir(args.src):
            raise UserError(f"--src {args.src} is not a folder: name the raw download, which holds {layout}")
        raw = [args.src, *(value for value in chosen.values() if isinstance(value, Path))]
        pairs = find_pairs(args.src, **chosen)
        if not pairs:
            raise UserError(f"nothing to prepare in {args.src}: expected {layout}")
        return prepare(dataset, load_table(table or dataset), pairs, raw, args.dst, args.link, args.workers)
    except UserError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 130
