"""What is to be predicted: the words of a command line as a list of files, each with the name of its results."""

import errno
import glob
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from datasets.seg.archive import ZipPath, open_root
from datasets.seg.raster import SUFFIXES
from lib.base.errors import UserError
from lib.base.names import check_name
from lib.base.regular import read_regular

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
LISTS = (".txt", ".lst")
CAMERA = re.compile(r"camera:([0-9]{1,3})")
LARGEST_LIST = 1 << 28
"""Bytes of a list of paths."""


@dataclass(frozen=True)
class Source:
    """One thing to predict.

    Attributes:
        kind: "image", "video" or "camera".
        path: its file, maybe one in a zip; of a camera the word for it.
        name: of its results, without an ending: ``aachen/0001``, below the folders that the results lie in.
    """

    kind: str
    path: Path | ZipPath
    name: PurePath


def find_sources(words: Sequence[str], out: Path) -> list[Source]:
    """All sources that ``words`` name, in their order, a folder's by name; nothing below ``out``.

    A word is an image, a video, ``camera:N``, a folder, whose sub-folders the names keep, a zip or a folder or image in
    one (``DATA.zip/val/image``, as where the zip is unpacked), a pattern (``*``, ``?``,
    ``[...]``, ``**``), which keeps those below its first folder with a wildcard, a text file of such words, one a line,
    or ``-`` for lines of the standard input.

    Raises:
        UserError: a word names nothing, or no image, or two sources would have results of one name.
    """
    found: dict[PurePath, Source] = {}
    for source in _of_words(words, out.resolve()):
        other = found.setdefault(source.name, source)
        if other.kind == source.kind == "image" and os.path.abspath(str(other.path)) == os.path.abspath(
            str(source.path)
        ):
            continue
        if other is not source:
            raise UserError(
                f"{other.path} and {source.path} would both be written as {source.name}: give a folder above both, "
                "whose sub-folders the results keep, or predict them into two folders"
            )
    if not found:
        raise UserError("there is nothing to predict: the sources name no image, video or camera")
    return list(found.values())


def _of_words(words: Sequence[str], out: Path, within: str = "") -> Iterator[Source]:
    for word in words:
        path = Path(word)
        if CAMERA.fullmatch(word):
            yield Source("camera", path, PurePath(word.replace(":", "_")))
        elif word == "-" and not within:
            yield from _of_words(_lines(_standard_input(), "the standard input"), out, "its list")
        elif os.path.isdir(word):
            yield from _of_folder(path, out)
        elif os.path.lexists(word) and path.suffix.lower() in LISTS:
            if within:
                raise UserError(f"{word} is a list within {within}: name it on the command line")
            yield from _of_words(_lines(read_regular(path, LARGEST_LIST), word), out, word)
        elif (inside := _in_zip(path)) is not None:
            yield from _of_zip(inside, word)
        elif os.path.lexists(word):
            yield _of_file(path, PurePath(path.stem))
        elif glob.has_magic(word):
            yield from _of_pattern(word, out)
        else:
            raise UserError(f"{f'in {within}: ' if within else ''}there is no file or folder {word}")


def _standard_input() -> bytes:
    try:
        if sys.stdin is None:  # so Python has it where it was closed
            raise OSError(errno.EBADF, "it is closed")
        return sys.stdin.buffer.read(LARGEST_LIST + 1)
    except OSError as error:
        raise UserError(
            f"-: the standard input cannot be read ({error.strerror}): pipe a list of paths into it"
        ) from None


def _lines(content: bytes, where: str) -> list[str]:
    if len(content) > LARGEST_LIST:
        raise UserError(f"{where} has more than {LARGEST_LIST >> 20} MiB: is it a list of paths?")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is no list of paths: byte {error.start} is not UTF-8") from None
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _of_file(path: Path | ZipPath, name: PurePath) -> Source:
    check_name(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES and suffix not in VIDEOS:
        raise UserError(
            f"{path} is no image ({', '.join(SUFFIXES)}), video ({', '.join(VIDEOS)}) or list ({', '.join(LISTS)})"
        )
    return Source("image" if suffix in SUFFIXES else "video", path, name)


def _of_folder(folder: Path, out: Path) -> Iterator[Source]:
    count = 0
    if folder.resolve() == out:
        raise UserError(
            f"--out {folder} is a folder of sources, where results would be sources the next time: choose another, "
            f"such as {folder / 'predicted'}"
        )
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and Path(parent, name).resolve() != out
        )
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES:
                count += 1
                yield _of_file(path, PurePath(path.relative_to(folder)).with_suffix(""))
    if not count:
        raise UserError(f"{folder} holds no image: {', '.join(SUFFIXES)}")


def _in_zip(path: Path) -> ZipPath | None:
    """The place in a zip that ``path`` means, as if the zip were a folder; None where none is on its way."""
    for file in (path, *path.parents):
        if file.suffix.lower() == ".zip" and os.path.isfile(file):
            place = open_root(file)
            for part in path.relative_to(file).parts:
                place = place / part
            return place
    return None


def _of_zip(place: ZipPath, word: str) -> Iterator[Source]:
    start = place.inside
    if start in place.archive.members:
        yield _of_file(place, PurePath(place.stem))
        return
    files = sorted(name for name in place.archive.members if not start or name.startswith(f"{start}/"))
    files = [name for name in files if PurePath(name).suffix.lower() in SUFFIXES]
    if not files:
        raise UserError(f"{word} holds no image: {', '.join(SUFFIXES)}")
    for name in files:
        if name.startswith("/"):
            raise UserError(f"{place.archive.path} holds {name!r}, which leads out of it: pack it again")
        yield _of_file(ZipPath(place.archive, name), PurePath(name).relative_to(start).with_suffix(""))


def _of_pattern(pattern: str, out: Path) -> Iterator[Source]:
    parts = Path(pattern).parts
    plain = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:plain])
    paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(path)]
    paths = [path for path in paths if out not in path.resolve().parents]
    if not paths:
        raise UserError(f"no file matches {pattern}")
    for path in paths:
        yield _of_file(path, PurePath(path.relative_to(base)).with_suffix(""))
