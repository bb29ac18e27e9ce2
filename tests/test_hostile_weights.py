"""Files of weights that are forged or no files at all: one line, no memory for what is not there, no waiting."""

import os
import resource
import struct
import zipfile
from contextlib import suppress

import pytest
import torch

from lib.base.errors import UserError
from lib.weights import read_file

PICKLES = {
    "a number for an object, 268 million": b"\x80\x02]r\xff\xff\xff\x0f.",
    "bytes": b"\x80\x05\x8e" + struct.pack("<Q", 1 << 33) + b".",
    "an array of bytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 33) + b".",
    "a frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 33) + b"N.",
    "a number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "a line that does not end": b"\x80\x02I" + b"1" * (1 << 17),
    "a key whose hash takes for ever": b"\x80\x02})" + b"q\x01h\x01\x86" * 100 + b"Ns.",
}


def archive(path, data, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in data.items():
            file.writestr(f"archive/{name}", content)


def tensor(count, size, stride=1):
    """The pickle of one tensor on a storage of ``count`` numbers."""
    numbers = [b"J" + struct.pack("<i", number) for number in (count, size, stride)]
    storage = b"((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu" + numbers[0] + b"tQ"
    view = b"K\x00" + numbers[1] + b"\x85" + numbers[2] + b"\x85\x89Nt"
    return b"\x80\x02}U\x06weightctorch._utils\n_rebuild_tensor_v2\n" + storage + view + b"Rs."


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("content", PICKLES.values(), ids=list(PICKLES))
def test_a_small_file_that_announces_much_takes_no_memory(tmp_path, content, legacy):
    path = tmp_path / "weights.pth"
    path.write_bytes(content) if legacy else archive(path, {"data.pkl": content})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with suppress(UserError):
        # What is there may yet be an empty list.
        assert not read_file(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize(
    "data",
    [
        {"data.pkl": tensor(1 << 28, 1 << 28), "data/0": b"1234"},
        {"data.pkl": tensor(1, 1 << 28), "data/0": b"1234"},
        {"data.pkl": tensor(1, 1 << 28, 0), "data/0": b"1234"},
        {"data.pkl": tensor(1, 2), "data/0": b"1234"},
        {"data.pkl": tensor(1, 1), "data/1": b"1234"},
        {"data.pkl": tensor(1, -1), "data/0": b"1234"},
        {"data.pkl": tensor(-1, 1), "data/0": b"1234"},
        {"other": b""},
    ],
)
def test_a_tensor_larger_than_its_storage_is_refused(tmp_path, data):
    archive(tmp_path / "weights.pth", data)
    with pytest.raises(UserError, match=r"weights\.pth is "):
        read_file(tmp_path / "weights.pth")


def test_the_forger_can_also_write_an_honest_one(tmp_path):
    archive(tmp_path / "weights.pth", {"data.pkl": tensor(1, 1), "data/0": struct.pack("<f", 2.5)})
    assert read_file(tmp_path / "weights.pth")["weight"].tolist() == [2.5]


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    archive(tmp_path / "weights.pth", {"data.pkl": bytes(1 << 24)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="packed anew"):
        read_file(tmp_path / "weights.pth")


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_one_wrong_bit_in_the_numbers_is_found(tmp_path, place):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.randn(100_000)}, path)
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.pth is damaged: 'weights/data/0' does not have its checksum"):
        read_file(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: os.mkfifo(path), "no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
        (lambda path: path.symlink_to("/dev/null"), "no regular file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.symlink_to(path), "symbolic link"),
        (lambda path: path.symlink_to("nothing"), "does not exist"),
        (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 40), "bytes, more than"),
    ],
)
def test_what_is_no_file_of_a_sane_size_is_not_opened(tmp_path, make, words):
    make(tmp_path / "weights.pth")
    with pytest.raises(UserError, match=rf"weights\.pth.* {words}"):
        read_file(tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_a_name_that_no_file_has_is_one_line(name):
    with pytest.raises(UserError, match="pretrained file"):
        read_file(name)
