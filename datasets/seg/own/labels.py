"""Reading one label file, of whatever kind it is: its values, and what these may be."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from datasets.seg.files import check_jpeg, read_content
from datasets.seg.jpeg import SOI, JpegError
from datasets.seg.npy import Npy, NpyError
from datasets.seg.own.facts import Pair
from datasets.seg.png import PALETTE as PNG_PALETTE
from datasets.seg.png import SIGNATURE as PNG
from datasets.seg.png import Png, PngError, imdecode
from datasets.seg.raster import read_raster
from datasets.seg.tiff import Tiff, TiffError
from lib.base.errors import UserError

IDS, PALETTE, COLOURS = "ids", "palette", "colours"
"""What a label file may hold: numbers, indices of its palette, red, green and blue."""

LARGEST_ID = 65535


@dataclass(frozen=True)
class RawLabel:
    """A label as it is in its file.

    Attributes:
        values: [H, W] of whole numbers: ids, indices, or colours as red << 16 | green << 8 | blue.
        form: ``IDS``, ``PALETTE`` or ``COLOURS``.
        palette: int64 [256], the colours of a palette, packed likewise; None without one.
        plain: whether the file itself is an 8-bit PNG of one channel whose levels are ``values``.
        lossy: whether the file is of a kind that changes values.
    """

    values: np.ndarray
    form: str = IDS
    palette: np.ndarray | None = None
    plain: bool = False
    lossy: bool = False


class LabelFiles:
    """Labels of a file each."""

    def read(self, pair: Pair, size: tuple[int, int]) -> RawLabel:
        """Decode the label of ``pair``; raises UserError, which names it."""
        return read_label_file(pair.labels[0])

    def sources(self, pair: Pair) -> tuple[Path, ...]:
        """The files that the label comes from."""
        return pair.labels

    def recipe(self, pair: Pair) -> str:
        """What else the label's values depend on."""
        return ""


class ClassFolders:
    """Labels of a mask for each class, the largest below and the smallest above.

    Args:
        class_of: the class of each file.
        value_of: the value of each class.
        background: that of what no mask covers.
    """

    def __init__(self, class_of: Mapping[Path, str], value_of: Mapping[str, int], background: int) -> None:
        self.class_of, self.value_of, self.background = class_of, value_of, background

    def read(self, pair: Pair, size: tuple[int, int]) -> RawLabel:
        """Draw the masks of ``pair`` over each other; raises UserError where they cannot be read or differ in size."""
        masks = []
        for path in pair.labels:
            raw = read_label_file(path)
            # Whatever is not black; near-black is black in files with loss.
            mask = raw.values & 255 > 127 if raw.lossy else raw.values != 0
            masks.append((-int(mask.sum()), self.value_of[self.class_of[path]], mask, path, raw.lossy))
        for _, _, mask, path, _ in masks[1:]:
            if mask.shape != masks[0][2].shape:
                sizes = [f"{m.shape[1]} x {m.shape[0]}" for m in (masks[0][2], mask)]
                raise UserError(f"{masks[0][3]} is {sizes[0]} but {path} is {sizes[1]}: masks have to be of one size")
        is_small = max(*self.value_of.values(), self.background) < 256
        values = np.full(masks[0][2].shape, self.background, np.uint8 if is_small else np.uint16)
        for _, value, mask, _, _ in sorted(masks, key=lambda mask: mask[:2]):
            values[mask] = value
        return RawLabel(values, lossy=any(mask[4] for mask in masks))

    def sources(self, pair: Pair) -> tuple[Path, ...]:
        return pair.labels

    def recipe(self, pair: Pair) -> str:
        return " ".join(map(str, [self.background, *(self.value_of[self.class_of[path]] for path in pair.labels)]))


def read_label_file(path: Path) -> RawLabel:
    """Decode a PNG, TIFF, JPEG, BMP, WebP or ``.npy`` file to its values.

    Raises:
        UserError: it is unreadable, cut off, damaged, or holds neither whole numbers from -1 to 65535 nor 8-bit
            colours.
    """
    if path.suffix.lower() == ".npy":
        try:
            source = Npy.parse(path)
            return _from_numbers(source.decode(source.size[0]), path)
        except NpyError as error:
            raise _bad(path, error) from error
    content, identity = read_content(path)
    try:
        if content.startswith(PNG):
            return _from_png(Png.parse(content), path)
        if content[:2] in (b"II", b"MM"):
            tiff = Tiff.parse(content)
            return _from_numbers(tiff.decode(tiff.size[0]), path)
        if content.startswith(SOI):
            check_jpeg(content, identity)
            pixels = imdecode(content, cv2.IMREAD_UNCHANGED)
            if pixels is None:
                raise _bad(path, "not a readable image")
            return (
                RawLabel(pixels, lossy=True) if pixels.ndim == 2 else RawLabel(pack(pixels, "bgr"), COLOURS, lossy=True)
            )
    except (PngError, JpegError, TiffError) as error:
        raise _bad(path, error) from error
    # Of the WebPs those with loss have a chunk "VP8 ", those without one "VP8L".
    lossy = content[:4] == b"RIFF" and b"VP8 " in content[12:64] + content[64:4096]
    return replace(_from_numbers(read_raster(path), path), lossy=lossy)


def pack(colours: np.ndarray, order: str = "rgb") -> np.ndarray:
    """uint8 [H, W, 3] or, with opacity, [H, W, 4] as int32 [H, W], red << 16 | green << 8 | blue.

    Args:
        order: "rgb" or "bgr".
    """
    code = {
        ("rgb", 3): cv2.COLOR_RGB2BGRA,
        ("rgb", 4): cv2.COLOR_RGBA2BGRA,
        ("bgr", 3): cv2.COLOR_BGR2BGRA,
        ("bgr", 4): None,
    }[order, colours.shape[2]]
    colours = np.ascontiguousarray(colours)
    packed = (colours.copy() if code is None else cv2.cvtColor(colours, code)).view("<i4")[..., 0]
    packed &= 0xFFFFFF
    return packed


def unpack(colour: int) -> tuple[int, int, int]:
    """Red, green and blue of a packed colour."""
    return colour >> 16 & 255, colour >> 8 & 255, colour & 255


def _from_png(png: Png, path: Path) -> RawLabel:
    if png.colour == PNG_PALETTE:
        table = dict(png.colours).get(b"PLTE", b"")
        entries = np.frombuffer(table[: len(table) // 3 * 3], np.uint8).reshape(-1, 3)[:256]
        palette = np.zeros(256, np.int64)
        palette[: len(entries)] = pack(entries[None])[0] if len(entries) else 0
        indices = _decoded(png.indices(), path)
        return RawLabel(indices, PALETTE, palette)
    # Transparency is not part of what a pixel is.
    png = replace(png, colours=())
    pixels = _decoded(png.decode(cv2.IMREAD_UNCHANGED, png.size[0]), path)
    if pixels.ndim == 2:
        # OpenCV stretches levels of 1, 2 and 4 bits over 0..255.
        values = pixels // (255 // (2**png.depth - 1)) if png.depth < 8 else pixels
        return RawLabel(values, plain=png.channels == 1)
    if pixels.dtype == np.uint8:
        return RawLabel(pack(pixels, "bgr"), COLOURS)
    return _from_numbers(pixels[..., 2::-1], path)


def _decoded(pixels: np.ndarray | None, path: Path) -> np.ndarray:
    if pixels is None:
        raise _bad(path, "not a readable image")
    return pixels


def _from_numbers(pixels: np.ndarray, path: Path) -> RawLabel:
    """The values of an array [H, W, C]: of one band ids, of three or four colours."""
    bands = pixels.shape[2]
    if bands == 2 or bands > 4:
        raise UserError(f"{path} has {bands} bands: a label has one, of ids, or three, of colours")
    if bands == 1:
        return RawLabel(_whole(pixels[..., 0], path))
    if pixels.dtype != np.uint8:
        red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
        if np.array_equal(red, green) and np.array_equal(green, blue):
            return RawLabel(_whole(red, path))
        raise UserError(f"{path} holds colours of {pixels.dtype.itemsize * 8} bits: save it with 8")
    return RawLabel(pack(pixels), COLOURS)


def _whole(values: np.ndarray, path: Path) -> np.ndarray:
    if values.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(values)
    least, most = values.min().item(), values.max().item()  # or half floats would overflow at 65535
    # NaN is in no range.
    if not (least >= -1 and most <= LARGEST_ID):
        raise UserError(f"{path} holds values from {least} to {most}: ids of labels are whole numbers from 0 to 65535")
    whole = values.astype(np.int32)
    if values.dtype.kind == "f" and (whole != values).any():
        wrong = values[whole != values].flat[0]
        raise UserError(f"{path} holds {wrong}: ids of labels are whole numbers from 0 to {LARGEST_ID}")
    return whole.astype(np.uint16) if least >= 0 else whole


def _bad(path: Path, reason: object) -> UserError:
    remedy = "" if ": " in str(reason) else ": copy it again, or leave it out"
    return UserError(f"label {path} is {reason}{remedy}")
