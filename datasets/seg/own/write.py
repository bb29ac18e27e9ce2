"""Writing a DATA_DIR so that nothing half-written, and nothing of two divisions, is ever taken for whole.

The class table is removed before the first change and written last: without it no training starts. ``sources.csv``
says which files of which sources lie there, and what was made of them; by it a repeated run writes only what is missing
or has changed, and removes what an earlier one wrote and this one does not.
"""

import csv
import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np

from datasets.seg.classes import FILE
from datasets.seg.jpeg import SOI
from datasets.seg.own.facts import Pair, PairFacts
from datasets.seg.own.kinds import Kind
from datasets.seg.own.survey import Labels, Reading, in_threads
from datasets.seg.png import SIGNATURE as PNG
from datasets.seg.preprocess.runner import KINDS, SPLITS, alone_in, copy_file, encode, find_strays, link_file
from datasets.seg.preprocess.runner import make_folders as make_clean_folders
from datasets.seg.raster import read_raster
from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.base.regular import read_regular

SOURCES = "sources.csv"
FACTS, REPORT = "facts.json", "report.html"
HEADING = ("split", "name", "image", "label", "image_made", "label_made")
VERSION = "1"
"""Of what is made of a source; another one makes all files anew."""
COPIED = (".png", ".jpg", ".jpeg")
LARGEST_TEXT = 1 << 28


@dataclass(frozen=True)
class Target:
    """One file of a DATA_DIR.

    Attributes:
        path: where it goes.
        sources: what it is made of.
        as_is: whether it is a copy of its one source.
        made: what identifies the sources as they are, and what is made of them.
        content: makes its bytes.
    """

    path: Path
    sources: tuple[Path, ...]
    as_is: bool
    made: str
    content: Callable[[], bytes]

    @property
    def newest(self) -> Path:
        """The source whose time the file gets."""
        return max(self.sources, key=lambda path: path.stat().st_mtime_ns)

    def is_current(self, link: bool) -> bool:
        """Whether the file is there as it was written, of a source that is as it was; asked where ``made`` is equal."""
        try:
            ours, theirs = self.path.stat(), self.newest.stat()
        except OSError:
            return False
        if ours.st_mtime_ns != theirs.st_mtime_ns:
            return False
        return not self.as_is or (ours.st_size == theirs.st_size and os.path.samestat(ours, theirs) == link)

    def write(self, link: bool) -> None:
        if self.as_is and link:
            link_file(self.newest, self.path)
        else:
            copy_file(self.newest, self.content(), self.path)


@dataclass(frozen=True)
class Prepared:
    """The files of one pair; its label is None of an image without."""

    pair: Pair
    image: Target
    label: Target | None

    def targets(self, dst: Path) -> dict[str, Path]:
        """Where they are, by kind (as ``preprocess.runner.Pair``)."""
        label = {} if self.label is None else {"label": self.label.path}
        return label | {"image": self.image.path}

    def files(self) -> dict[str, Target]:
        """By name below the DATA_DIR."""
        split = self.pair.split
        files = {f"{split}/image/{self.image.path.name}": self.image}
        return files if self.label is None else files | {f"{split}/label/{self.label.path.name}": self.label}

    def row(self) -> list[str]:
        sources = () if self.label is None else self.label.sources
        label = str(sources[0]) + f" and {len(sources) - 1} more" * (len(sources) > 1) if sources else ""
        made = "" if self.label is None else self.label.made
        return [self.pair.split, self.image.path.name, str(self.image.sources[0]), label, self.image.made, made]


def plan(
    reading: Reading, facts: PairFacts, labels: Labels | None, kind: Kind, id_of: Mapping[int, int], dst: Path
) -> Prepared:
    """What is to be written for a pair.

    Args:
        reading, facts: of the pair; ``facts`` with values of ``kind`` and with the split.
        labels: what reads labels.
        id_of: value -> id, for all of the label's values.
        dst: the DATA_DIR.

    Raises:
        UserError: a source has gone.
    """
    pair = facts.pair
    image = _plan_image(pair, facts, dst / pair.split / "image")
    if facts.label_size is None:
        return Prepared(pair, image, None)
    mapping = {int(value): id_of[int(value)] for value in facts.values}
    sources = labels.sources(pair)
    as_is = reading.plain and len(sources) == 1 and all(value == number for value, number in mapping.items())
    path = dst / pair.split / "label" / f"{pair.name}.png"

    def content() -> bytes:
        if as_is:
            return read_regular(sources[0])
        values = kind.values(labels.read(pair, facts.size))
        return encode(map_values(values, mapping, sources[0]))

    recipe = "copy" if as_is else f"{kind.colours} {mapping} {labels.recipe(pair)}"
    return Prepared(pair, image, Target(path, sources, as_is, _made(recipe, sources), content))


def _plan_image(pair: Pair, facts: PairFacts, folder: Path) -> Target:
    is_plain = facts.dtype == "uint8" and facts.bands in (1, 3)
    as_is = is_plain and pair.image.suffix.lower() in COPIED and _begins(pair.image, (PNG, SOI))
    suffix = pair.image.suffix.lower() if as_is else ".png" if is_plain else ".npy"
    recipe = "copy" if as_is else suffix

    def content() -> bytes:
        if as_is:
            return read_regular(pair.image)
        pixels = read_raster(pair.image)
        if is_plain:
            order = pixels[..., ::-1] if pixels.shape[2] == 3 else pixels
            return cv2.imencode(".png", order)[1].tobytes()
        file = io.BytesIO()
        np.save(file, pixels, allow_pickle=False)
        return file.getvalue()

    return Target(folder / f"{pair.name}{suffix}", (pair.image,), as_is, _made(recipe, (pair.image,)), content)


def _begins(path: Path, signatures: tuple[bytes, ...]) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(max(map(len, signatures))).startswith(signatures)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _made(recipe: str, sources: Sequence[Path]) -> str:
    parts = [VERSION, recipe]
    for source in sources:
        try:
            status = source.stat()
        except OSError as error:
            raise UserError(f"{source} cannot be read any more: {error.strerror}") from error
        parts.append(f"{source.absolute()} {status.st_size} {status.st_mtime_ns}")
    return hashlib.blake2b("\n".join(parts).encode("utf-8", "surrogateescape"), digest_size=10).hexdigest()


def map_values(values: np.ndarray, mapping: Mapping[int, int], source: Path) -> np.ndarray:
    """Label ids, uint8 [H, W], for whole numbers [H, W]; raises UserError for one that ``mapping`` does not have."""
    known = np.array(sorted(mapping), np.int64)
    ids = np.array([mapping[value] for value in known.tolist()], np.uint8)
    if values.dtype in (np.uint8, np.uint16):
        lookup, is_known = np.zeros(65536, np.uint8), np.zeros(65536, bool)
        lookup[known], is_known[known] = ids, True
        found, label = is_known[values].all(), lookup[values]
    else:
        at = np.searchsorted(known, values).clip(max=len(known) - 1)
        found, label = (known[at] == values).all(), ids[at]
    if not found:
        raise UserError(f"{source} has changed since it was read: type the command again")
    return label


def refuse_overlap(dst: Path, folders: Sequence[Path], sources: Sequence[Path]) -> None:
    """Raise UserError if ``dst`` is in one of the source ``folders``, or sources are where ``dst``'s files will go."""
    for folder, split, kind in product(folders, SPLITS, KINDS):
        for target in (dst, dst / split / kind):
            if target.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"--dst {dst} would write into the source at {folder}: choose a folder outside it")
    targets = {(dst / split / kind).resolve() for split, kind in product(SPLITS, KINDS)}
    for source in sources:
        if not targets.isdisjoint(source.resolve().parents):
            raise UserError(f"--dst {dst} would write where {source} lies: choose another folder")


def write(
    prepared: Sequence[Prepared],
    table: str,
    documents: Callable[[], Mapping[str, str]],
    dst: Path,
    folders: Sequence[Path],
    link: bool,
    workers: int,
) -> dict[str, int]:
    """Bring ``dst`` to hold exactly these pairs.

    Args:
        table: the class table.
        documents: makes further files, name -> text, once the pairs are there.
        folders: the sources'.

    Returns:
        Numbers of files, "written", "unchanged" and "removed".

    Raises:
        UserError: ``dst`` holds files that no run of this command wrote, is another process's, or cannot be written.
    """
    with alone_in(dst, prepared, list(folders)):
        try:
            return _write(prepared, table, documents, dst, link, workers)
        except OSError as error:
            raise UserError(f"cannot write to --dst {dst}: {error.filename or ''} {error.strerror}") from error


def _write(
    prepared: Sequence[Prepared],
    table: str,
    documents: Callable[[], Mapping[str, str]],
    dst: Path,
    link: bool,
    workers: int,
) -> dict[str, int]:
    before = read_sources(dst)
    wanted = {name: target for one in prepared for name, target in one.files().items()}
    strays = [path.relative_to(dst).as_posix() for path in find_strays(list(prepared), dst)]
    present = strays + [name for name in wanted if os.path.lexists(dst / name)]
    foreign = sorted(set(present) - before.keys())
    if not (_text(dst / SOURCES) or "").startswith(",".join(HEADING)):
        # The list is the first of these that a run writes.
        foreign += [name for name in (FILE, FACTS, REPORT, SOURCES) if os.path.lexists(dst / name)]
    if foreign:
        more = f" and {len(foreign) - 1} others" if len(foreign) > 1 else ""
        raise UserError(
            f"--dst {dst} holds {foreign[0]}{more}, which new-dataset did not write: they would be trained on or "
            "overwritten; move them away, or choose an empty folder"
        )
    current = {name for name, target in wanted.items() if before.get(name) == target.made and target.is_current(link)}
    stale = [name for name in present if name not in current]
    manifest = sources_text(prepared)
    missing = [wanted[name] for name in wanted.keys() - current]
    if stale or missing or _text(dst / SOURCES) != manifest or _text(dst / FILE) != table:
        (dst / FILE).unlink(missing_ok=True)
    for leftover in dst.glob(".*.part"):
        leftover.unlink()
    for name in stale:
        (dst / name).unlink()
    # Only now: what is listed here and is there is what the list says it is.
    _put(dst / SOURCES, manifest)
    make_clean_folders(list(prepared), dst)
    in_threads(lambda target: target.write(link), sorted(missing, key=lambda target: target.path), workers, "writing")
    for split, kind in product(SPLITS, KINDS):
        _remove_empty(dst / split / kind)
    for split in SPLITS:
        _remove_empty(dst / split)
    for name, text in documents().items():
        _put(dst / name, text)
    _put(dst / FILE, table)
    removed = sum(name not in wanted for name in stale)
    return {"written": len(missing), "unchanged": len(current), "removed": removed}


def _remove_empty(folder: Path) -> None:
    if os.path.isdir(folder) and not any(folder.iterdir()):
        folder.rmdir()


def sources_text(prepared: Sequence[Prepared]) -> str:
    """The list of what lies in a DATA_DIR and where it comes from, as CSV."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([HEADING, *(one.row() for one in prepared)])
    return file.getvalue()


def read_sources(dst: Path) -> dict[str, str]:
    """What an earlier run has written: name below ``dst`` -> what was made; empty where there is no such list."""
    text = _text(dst / SOURCES)
    if text is None:
        return {}
    files = {}
    try:
        for row in csv.DictReader(io.StringIO(text, newline=""), strict=True):
            split, name = row["split"], row["name"]
            if split in SPLITS and name == Path(name).name:
                files[f"{split}/image/{name}"] = row["image_made"]
                if row["label_made"]:
                    files[f"{split}/label/{Path(name).stem}.png"] = row["label_made"]
    except (csv.Error, KeyError, TypeError, ValueError):
        return {}
    return files


def _text(path: Path) -> str | None:
    try:
        return read_regular(path, LARGEST_TEXT).decode("utf-8", "surrogateescape")
    except UserError:
        return None


def _put(path: Path, text: str) -> None:
    """Write a text file, unless it is so already."""
    if _text(path) != text:
        write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))
