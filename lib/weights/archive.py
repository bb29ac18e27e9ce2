"""The zip archive that ``torch.save`` writes, read with its checksums verified: PyTorch's own reader ignores them."""

import struct
import zipfile
import zlib
from pathlib import Path

BLOCK = 1 << 20
"""Bytes that are read at once: they are still in the processor's cache when their checksum is taken."""

_LOCAL = struct.Struct("<4s22xHH")
"""The header before an entry's content: signature, lengths of its name and of what else follows."""


class Broken(Exception):
    """What is damaged or forged in a file, in words that follow its name."""


class Archive:
    """The entries of an archive, none of which is compressed; a context that keeps the file open.

    Raises:
        Broken: an entry says that it is longer than the file, or lies where another does; two have one name; one is
            compressed or encrypted, which PyTorch never does.
        zipfile.BadZipFile: it is no archive.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")
        try:
            size = path.stat().st_size
            entries = zipfile.ZipFile(self.file).infolist()
            self.entries = {entry.filename: entry for entry in entries}
            if len(self.entries) < len(entries):
                raise Broken("is damaged: it holds two entries of one name")
            end = 0
            for entry in sorted(entries, key=lambda entry: entry.header_offset):
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                    raise Broken("is an archive that was packed anew: give the file as PyTorch wrote it")
                if entry.header_offset < end or entry.file_size != entry.compress_size:
                    raise Broken(f"is damaged: {entry.filename!r} lies where another entry does")
                end = entry.header_offset + _LOCAL.size + entry.file_size
            if end > size:
                raise Broken("is damaged: it announces more than it holds")
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def size(self, name: str) -> int:
        """Of an entry in bytes; raises Broken where there is none."""
        if name not in self.entries:
            raise Broken(f"is damaged: {name!r} is not in it")
        return self.entries[name].file_size

    def read(self, name: str) -> bytes:
        """The content of an entry; raises Broken where it does not have its checksum."""
        content = bytearray(self.size(name))
        self.read_into(name, memoryview(content))
        return bytes(content)

    def read_into(self, name: str, target: memoryview) -> None:
        """Fill ``target``, of the entry's size, with its content; raises Broken as ``read`` does."""
        self._follow(name, target)

    def verify(self, name: str) -> None:
        """Raise Broken where an entry does not have its checksum."""
        self._follow(name, None)

    def _follow(self, name: str, target: memoryview | None) -> None:
        entry, left, checksum = self.entries[name], self.size(name), 0
        self.file.seek(entry.header_offset)
        header = self.file.read(_LOCAL.size)
        if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
            raise Broken(f"is damaged: {name!r} is not where it should be")
        self.file.seek(sum(_LOCAL.unpack(header)[1:]), 1)
        block = memoryview(bytearray(BLOCK)) if target is None else None
        while left:
            part = block[: min(left, BLOCK)] if target is None else target[-left:][:BLOCK]
            count = self.file.readinto(part)
            if not count:
                raise Broken(f"is cut off or damaged: {name!r} ends early")
            checksum = zlib.crc32(part[:count], checksum)
            left -= count
        if checksum != entry.CRC:
            raise Broken(f"is damaged: {name!r} does not have its checksum")


def is_whole(path: Path) -> bool:
    """Whether ``path`` is an archive whose entries all have their checksums."""
    try:
        with Archive(path) as archive:
            for name in archive.entries:
                archive.verify(name)
    except Exception:  # the bytes of a broken file can lead the reader into any error
        return False
    return True
