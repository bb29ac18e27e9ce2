"""Reading files inside a ``.zip`` in place, from many processes and threads at once."""

import errno
import os
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from isal import isal_zlib

from lib.base.errors import UserError
from lib.base.regular import LARGEST

LOCAL_HEADER = struct.Struct("<4s22xHH")
"""What stands before a member's data: signature, ..., length of its name and of an extra field (APPNOTE 4.3.7)."""
ENCRYPTED = 1
"""Bit of a member's flags."""


class Member(NamedTuple):
    """Where and how a file lies in its archive; sizes and offset in bytes."""

    offset: int
    packed_size: int
    size: int
    checksum: int
    is_deflated: bool


class Archive:
    """A zip file whose members are stored or deflated.

    Every read names its own place in the file, so that forked processes and threads share one open file without a
    lock; a process that an archive is pickled to opens its own.

    Args:
        path: the file.

    Attributes:
        members: the files inside by name, without hidden ones and those that macOS adds.

    Raises:
        UserError: the file is unreadable, no zip or cut off, or a member has no name or lies outside the file, is
            encrypted, packed in another way or larger than any image.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
            size = os.fstat(self._file.fileno()).st_size
            with zipfile.ZipFile(self._file) as content:
                entries = [entry for entry in content.infolist() if _is_visible_file(entry.filename)]
        except Exception as error:  # a damaged directory makes zipfile raise almost anything
            if isinstance(error, OSError) and error.strerror and error.errno != errno.EINVAL:
                raise UserError(f"{path} cannot be read: {error.strerror}") from error
            raise UserError(f"{path} is not a zip file, damaged or cut off: copy it or pack it again") from error
        for entry in entries:
            if not entry.filename:
                raise UserError(f"{path} holds a file without a name: pack it again")
            if not 0 <= entry.header_offset <= entry.header_offset + entry.compress_size <= size:
                raise UserError(f"{path} is not a zip file, damaged or cut off: copy it or pack it again")
            if entry.file_size > LARGEST:
                raise UserError(f"{path}!{entry.filename} has {entry.file_size} bytes: no image or label is so large")
            if entry.flag_bits & ENCRYPTED:
                raise UserError(f"{path}!{entry.filename} is encrypted: pack it again without a password")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(f"{path}!{entry.filename} is neither stored nor deflated: pack it again with 'zip -0'")
        self.members = {
            entry.filename: Member(
                entry.header_offset, entry.compress_size, entry.file_size, entry.CRC, entry.compress_type != 0
            )
            for entry in entries
        }

    def __getstate__(self) -> dict:
        return {"path": self.path, "members": self.members}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, _file=state["path"].open("rb"))

    def read(self, name: str) -> bytes:
        """The contents of member ``name``; raises UserError if they are damaged or cannot be read."""
        member = self.members[name]
        try:
            header = os.pread(self._file.fileno(), LOCAL_HEADER.size, member.offset)
            signature, *lengths = LOCAL_HEADER.unpack(header)
            start = member.offset + LOCAL_HEADER.size + sum(lengths)
            content = os.pread(self._file.fileno(), member.packed_size, start)
            if member.is_deflated:
                content = isal_zlib.decompressobj(wbits=-15).decompress(content, member.size + 1)
        except OSError as error:
            raise UserError(f"{self.path}!{name} cannot be read: {error.strerror}") from error
        except (struct.error, isal_zlib.error) as error:
            raise self._damaged(name) from error
        if signature != zipfile.stringFileHeader or isal_zlib.crc32(content) != member.checksum:
            raise self._damaged(name)
        return content

    def _damaged(self, name: str) -> UserError:
        return UserError(f"{self.path}!{name} is damaged: copy {self.path.name} or pack it again")


@dataclass(frozen=True)
class ZipPath:
    """A file or folder in an archive, with as much of ``pathlib.Path`` as reading a dataset takes.

    Attributes:
        archive: the zip file.
        inside: the path in it, without a slash at either end; empty for the archive's top.
    """

    archive: Archive
    inside: str = ""

    def __str__(self) -> str:
        return f"{self.archive.path}!{self.inside}" if self.inside else str(self.archive.path)

    def __truediv__(self, name: str) -> "ZipPath":
        return ZipPath(self.archive, f"{self.inside}/{name}".lstrip("/"))

    def __lt__(self, other: "ZipPath") -> bool:
        return self.inside < other.inside

    @property
    def name(self) -> str:
        return PurePosixPath(self.inside).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.inside).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.inside).suffix

    def iterdir(self) -> Iterator["ZipPath"]:
        """The files and folders in this folder; none if it is no folder."""
        start = f"{self.inside}/".lstrip("/")
        names = {name[len(start) :].partition("/")[0] for name in self.archive.members if name.startswith(start)}
        return (self / name for name in names)

    def is_dir(self) -> bool:
        return not self.inside or any(True for _ in self.iterdir())

    def read_bytes(self) -> bytes:
        """The file's contents; raises UserError if they are damaged or cannot be read."""
        return self.archive.read(self.inside)


def open_root(root: Path) -> Path | ZipPath:
    """Where the prepared layout ``<split>/image`` begins: at ``root``, or in a zip at its top or in its one folder.

    Raises:
        UserError: ``root`` is a file that is no usable zip.
    """
    if not os.path.isfile(root):
        return root
    top = ZipPath(Archive(root))
    found = list(top.iterdir())
    is_wrapped = len(found) == 1 and found[0].is_dir() and not (found[0] / "image").is_dir()
    return found[0] if is_wrapped else top


def _is_visible_file(name: str) -> bool:
    return not name.endswith("/") and not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
