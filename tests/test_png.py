"""Partial PNG decoding: the rows are OpenCV's, whatever the PNG, and damage anywhere in the file is found."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from datasets.seg.augment import Augmentation, Window, draw, source_rows
from datasets.seg.png import SIGNATURE, Png, PngError

HEIGHT, WIDTH = 23, 31
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
FLAGS = [cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, cv2.IMREAD_UNCHANGED]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def filtered(rows: np.ndarray, step: int, kinds: list[int]) -> bytes:
    """Filter rows of bytes [H, N], the kinds by turns: none, sub, up, average, Paeth (ISO/IEC 15948, section 9)."""
    out = b""
    padded = np.pad(rows.astype(int), ((1, 0), (step, 0)))
    for i, now in enumerate(padded[1:]):
        above = padded[i]
        x, left, up, corner = now[step:], now[:-step], above[step:], above[:-step]
        near = np.abs([up - corner, left - corner, left + up - 2 * corner])
        paeth = np.choose(near.argmin(axis=0), [left, up, corner])
        kind = kinds[i % len(kinds)]
        predicted = [0, left, up, (left + up) // 2, paeth][kind]
        out += bytes([kind]) + ((x - predicted) % 256).astype(np.uint8).tobytes()
    return out


def encode(pixels: np.ndarray, colour: int, *, interlaced=False, filters=(0,), extra=b"", piece=100) -> bytes:
    """A PNG of ``pixels`` ([H, W, C], uint8 or uint16), its compressed data in chunks of ``piece`` bytes."""
    deep = pixels.dtype == np.uint16
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16 if deep else 8, colour, 0, 0, interlaced)
    raw = b""
    for x, y, dx, dy in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        part = np.ascontiguousarray(pixels[y::dy, x::dx].astype(">u2" if deep else np.uint8))
        rows = part.view(np.uint8).reshape(part.shape[0], -1)
        raw += filtered(rows, CHANNELS[colour] * (2 if deep else 1), list(filters)) if part.size else b""
    data = zlib.compress(raw)
    pieces = b"".join(chunk(b"IDAT", data[at : at + piece]) for at in range(0, len(data), piece))
    return SIGNATURE + chunk(b"IHDR", header) + extra + pieces + chunk(b"IEND", b"")


def smooth(channels: int, top: int = 255) -> np.ndarray:
    """Pixels that every filter changes, [HEIGHT, WIDTH, channels]."""
    noise = np.random.default_rng(0).integers(0, top + 1, (HEIGHT, WIDTH, channels)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (5, 5), 1).reshape(noise.shape)
    return blurred.astype(np.uint16 if top > 255 else np.uint8)


PALETTE_OF_256 = chunk(b"PLTE", np.random.default_rng(1).integers(0, 256, 768, dtype=np.uint8).tobytes())
FILES = {
    **{f"rgb, filter {kind}": encode(smooth(3), RGB, filters=[kind]) for kind in range(5)},
    **{f"grey, filter {kind}": encode(smooth(1), GREY, filters=[kind]) for kind in range(5)},
    "rgb, filters mixed": encode(smooth(3), RGB, filters=[4, 2, 0, 3, 1, 4, 3]),
    "rgb, suggested palette": encode(smooth(3), RGB, extra=PALETTE_OF_256),
    "grey and alpha": encode(smooth(2), GREY_ALPHA, filters=[4]),
    "rgba": encode(smooth(4), RGBA, filters=[4]),
    "rgb, one colour transparent": encode(
        smooth(3), RGB, extra=chunk(b"tRNS", smooth(3)[0, 0].astype(">u2").tobytes())
    ),
    "palette": encode(smooth(1), PALETTE, extra=PALETTE_OF_256),
    "rgb, 16 bit": encode(smooth(3, 65535), RGB),
    "grey, 16 bit": encode(smooth(1, 65535), GREY),
    "rgb, interlaced": encode(smooth(3), RGB, interlaced=True),
    "grey, interlaced": encode(smooth(1), GREY, interlaced=True),
}


@pytest.mark.parametrize("flags", FLAGS, ids=["colour", "unchanged"])
@pytest.mark.parametrize("name", FILES)
def test_any_number_of_rows_is_what_opencv_decodes(name: str, flags: int) -> None:
    whole = cv2.imdecode(np.frombuffer(FILES[name], np.uint8), flags)
    png = Png.parse(FILES[name])
    assert png.size == whole.shape[:2] == (HEIGHT, WIDTH)
    for rows in range(1, HEIGHT + 1):
        part = png.decode(flags, rows)
        assert part.dtype == whole.dtype
        np.testing.assert_array_equal(part, whole[:rows])


def test_rows_longer_than_a_stored_block_are_whole() -> None:
    wide = np.random.default_rng(0).integers(0, 256, (3, 30_000, 3), dtype=np.uint8)
    content = cv2.imencode(".png", wide)[1].tobytes()
    for rows in (1, 2, 3):
        np.testing.assert_array_equal(Png.parse(content).decode(cv2.IMREAD_COLOR, rows), wide[:rows])


def test_rows_that_are_not_wanted_are_not_inflated() -> None:
    png = Png.parse(FILES["rgb, filters mixed"])
    half = Png(png.content, png.size, png.channels, png.data[: len(png.data) // 2])
    np.testing.assert_array_equal(half.decode(FLAGS[0], 8), png.decode(FLAGS[0], 8))
    with pytest.raises(PngError, match="damaged"):
        half.decode(FLAGS[0], HEIGHT)


@pytest.mark.parametrize("name", ["rgb, filters mixed", "rgb, interlaced"])
def test_a_file_that_lacks_its_end_is_truncated_wherever_it_was_cut(name: str) -> None:
    content = FILES[name]
    for length in range(len(SIGNATURE), len(content)):
        with pytest.raises(PngError, match="truncated"):
            Png.parse(content[:length])
    assert Png.parse(content + b"what follows the end is of no concern").size == (HEIGHT, WIDTH)


@pytest.mark.parametrize("name", ["grey, filter 4", "palette"])
def test_one_wrong_byte_anywhere_is_found(name: str) -> None:
    content = FILES[name]
    for at in range(len(SIGNATURE), len(content)):
        with pytest.raises(PngError, match=r"damaged|truncated"):
            Png.parse(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])


def header(width: int, height: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, RGB, 0, 0, 0))


IMPOSSIBLE = {
    "no header": chunk(b"IDAT", b""),
    "no pixels": header(5, 5),
    "no width": header(0, 5) + chunk(b"IDAT", zlib.compress(bytes(100))),
    "too large": header(2**31 - 1, 2**31 - 1) + chunk(b"IDAT", zlib.compress(bytes(100))),
    "too few rows": header(5, 5) + chunk(b"IDAT", zlib.compress(bytes(16 * 4))),
    "not compressed": header(5, 5) + chunk(b"IDAT", bytes(range(80))),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_file_with_right_check_sums_and_wrong_content_is_damaged(name: str) -> None:
    with pytest.raises(PngError, match="damaged"):
        Png.parse(SIGNATURE + IMPOSSIBLE[name] + chunk(b"IEND", b"")).decode(FLAGS[0], 5)


@pytest.mark.parametrize("crop_size", [(64, 48), (40, 30), (200, 200)])
def test_source_rows_hold_all_that_a_window_shows(crop_size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        window: Window = draw(Augmentation(crop_size), (60, 90), rng).window
        last = window.top + window.height - 1
        step = 60 / window.resized[1]
        bilinear, nearest = min(59, int((last + 0.5) * step - 0.5) + 1), int(last * step)
        assert max(bilinear, nearest) < source_rows(window, 60) <= 60
