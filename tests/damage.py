"""Damaged files by the thousand: ``python tests/damage.py KIND COUNT [SEED]`` reads each and counts what becomes of it.

KIND is png, palette, jpeg, runs, mat or zip. A file must be read as another reader reads it, or be refused in one line.
(A ``.mat`` has no check sums; where SciPy stumbles over another part of the file, any label will do.)
The first that is not is printed; where the interpreter crashes, its number is the last line of standard error.
"""

import io
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco
from scipy.io import loadmat, savemat

sys.path.insert(0, str(Path(__file__).parents[1]))
from datasets.seg.archive import open_root
from datasets.seg.files import open_image, read_image, read_label
from datasets.seg.preprocess.matlab import read_matlab
from datasets.seg.preprocess.runner import LabelError
from datasets.seg.preprocess.runs import decode_runs
from lib.base.errors import UserError

SLOW = 5.0
"""Seconds that reading one small file may take."""
LAST = {"jpeg": b"\xff\xd9", "png": b"\x00\x00\x00\x00IEND\xaeB`\x82", "palette": b"\x00\x00\x00\x00IEND\xaeB`\x82"}
"""What a file of a kind ends in."""


def damaged(content: bytes, rng: np.random.Generator, kind: str) -> bytes:
    """``content`` changed one to three times: cut, cut and ended, bits, bytes, pieces moved, left out, doubled."""
    for _ in range(rng.integers(1, 4)):
        data, size = bytearray(content), max(1, len(content))
        at, length = int(rng.integers(size)), int(rng.integers(1, 1 + min(size, 64)))
        match int(rng.integers(8)):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + LAST.get(kind, content[-22:])
            case 2:
                data[at : at + 1] = [data[at] ^ 1 << int(rng.integers(8))] if data else []
            case 3:
                data[at : at + length] = rng.bytes(length)
            case 4:
                data[at : at + length] = b""
            case 5:
                data[at:at] = data[at : at + length]
            case 6:
                other = int(rng.integers(size))
                data[at : at + length] = data[other : other + length]
            case 7:
                data[at : at + 4] = [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"][rng.integers(4)]
        content = bytes(data)
    return content


def with_right_sums(content: bytes) -> bytes:
    """A PNG whose chunks' check sums are made right, as far as chunks can be made out."""
    data, at = bytearray(content), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(data)


def scene(rng: np.random.Generator, height: int = 40, width: int = 56) -> np.ndarray:
    """Smooth colours with noise, uint8 [H, W, 3]."""
    coarse = rng.integers(0, 256, (5, 7, 3)).astype(np.float32)
    noisy = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 8, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def jpeg_files(rng: np.random.Generator) -> list[bytes]:
    """JPEGs in the variants that cameras and programs write."""
    files, pixels = [], Image.fromarray(scene(rng))
    for mode, options in (
        ("RGB", {"quality": 90}),
        ("RGB", {"quality": 60, "subsampling": 0}),
        ("RGB", {"quality": 80, "optimize": True}),
        ("RGB", {"quality": 80, "restart_marker_blocks": 3}),
        ("RGB", {"quality": 80, "progressive": True}),
        ("L", {"quality": 85}),
    ):
        file = io.BytesIO()
        pixels.convert(mode).save(file, "jpeg", **options)
        files.append(file.getvalue())
    return files


def png_files(rng: np.random.Generator) -> list[bytes]:
    """PNGs of images, of labels, with transparency and with 16 bits."""
    pixels = scene(rng)
    alpha, deep = np.dstack([pixels, pixels[..., :1]]), pixels.astype(np.uint16) * 200
    return [cv2.imencode(".png", part)[1].tobytes() for part in (pixels, pixels[..., 0] // 8, alpha, deep)]


def palette_files(rng: np.random.Generator) -> list[bytes]:
    """PNGs with a palette, of 8, 4, 2 and 1 bits."""
    files = []
    for colours, bits in ((200, 8), (16, 4), (4, 2), (2, 1)):
        image = Image.fromarray(scene(rng)[..., 0]).quantize(colours)
        file = io.BytesIO()
        image.save(file, "png", bits=bits)
        files.append(file.getvalue())
    return files


def runs_files(rng: np.random.Generator) -> list[bytes]:
    """Compressed counts of masks of 40 x 56."""
    masks = [scene(rng)[..., 0] > level for level in (0, 100, 128, 200)] + [np.zeros((40, 56), bool)]
    return [coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"] for mask in masks]


def mat_files(rng: np.random.Generator) -> list[bytes]:
    """Files of PASCAL Context and of SBD, compressed and not."""
    label, files = scene(rng)[..., 0] // 12, []
    boundaries = np.empty((2, 1), object)
    boundaries[:] = [[label[:4]]] * 2
    for value in (label.astype(np.uint16), label.astype(np.float64), {"Boundaries": boundaries, "Segmentation": label}):
        for packed in (False, True):
            file = io.BytesIO()
            savemat(file, {"other": "text", "LabelMap": value, "GTcls": value}, do_compression=packed)
            files.append(file.getvalue())
    return files


def zip_files(rng: np.random.Generator) -> list[bytes]:
    """Zips of three images, stored and deflated."""
    files = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for index, content in enumerate(png_files(rng)[:3]):
                archive.writestr(f"train/image/{index}.png", content)
        files.append(file.getvalue())
    return files


FILES = {
    "png": png_files,
    "palette": palette_files,
    "jpeg": jpeg_files,
    "runs": runs_files,
    "mat": mat_files,
    "zip": zip_files,
}


def reference_png(content: bytes) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def reference_palette(content: bytes) -> np.ndarray | None:
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image) if image.mode == "P" else cv2.imdecode(np.frombuffer(content, np.uint8), -1)


def reference_runs(content: bytes) -> np.ndarray | None:
    """pycocotools' own way, a digit and a run after the other."""
    runs, at = [], 0
    while at < len(content):
        value, place = 0, 0
        while True:
            digit = content[at] - 48
            value |= (digit & 31) << 5 * place
            at, place = at + 1, place + 1
            if not digit & 32:
                break
        value -= 32 << 5 * (place - 1) if digit & 16 else 0
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    flat = [index % 2 == 1 for index, run in enumerate(runs) for _ in range(run)]
    return np.array(flat).reshape(56, 40).T if len(flat) == 40 * 56 and min(runs) >= 0 else None


def read_mat(path: Path) -> np.ndarray:
    try:
        return read_matlab(path, "LabelMap")
    except LabelError:
        return read_matlab(path, "GTcls", "Segmentation")


def reference_mat(content: bytes) -> np.ndarray | None:
    """What SciPy reads, in a process that may crash."""
    receive, send = get_context("fork").Pipe(duplex=False)
    process = get_context("fork").Process(target=_send_mat, args=(content, send))
    process.start()
    send.close()
    try:
        return receive.recv() if receive.poll(20) else None
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()


def _send_mat(content: bytes, send) -> None:
    value = None
    for fields in (("LabelMap",), ("GTcls", "Segmentation")):
        try:
            value = loadmat(io.BytesIO(content), variable_names=fields[:1])[fields[0]]
            for field in fields[1:]:
                value = value[field][0, 0]
            if value.dtype.kind in "uif" and value.ndim == 2:
                break
            value = None
        except Exception:
            value = None
    send.send(value)


def read_zip(path: Path) -> np.ndarray:
    top = open_root(path)
    if isinstance(top, Path):
        raise UserError("no zip")
    files = sorted((top / "train" / "image").iterdir(), key=str) if (top / "train").is_dir() else []
    return np.concatenate([open_image(file).decode().ravel() for file in files]) if files else np.zeros(0)


def reference_zip(content: bytes) -> np.ndarray | None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = sorted({name for name in archive.namelist() if name.startswith("train/image/") and name[-1] != "/"})
        pixels = [reference_png(archive.read(name)).ravel() for name in names]
    return np.concatenate(pixels) if pixels else np.zeros(0)


READERS: dict[str, tuple[Callable[[Path], np.ndarray], Callable[[bytes], np.ndarray | None]]] = {
    "png": (read_image, reference_png),
    "palette": (lambda path: read_label(path, indices=True), reference_palette),
    "jpeg": (read_image, reference_png),
    "runs": (
        lambda path: decode_runs({"size": [40, 56], "counts": path.read_bytes().decode("latin-1")}, (40, 56)),
        reference_runs,
    ),
    "mat": (read_mat, reference_mat),
    "zip": (read_zip, reference_zip),
}


def quiet(reference: Callable[[bytes], np.ndarray | None], content: bytes) -> np.ndarray | None:
    """What ``reference`` reads; None where it raises."""
    try:
        return reference(content)
    except Exception:
        return None


def campaign(kind: str, count: int, seed: int) -> Counter:
    """How many of ``count`` files were read and how many refused; raises AssertionError for one that was neither."""
    rng, outcomes = np.random.default_rng(seed), Counter()
    files, (read, reference) = FILES[kind](rng), READERS[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.png"
        for number in range(count):
            content = damaged(files[number % len(files)], rng, kind)
            if kind in ("png", "palette") and number % 2:
                content = with_right_sums(content)
            path.write_bytes(content)
            print(number, file=sys.stderr)
            start = time.monotonic()
            try:
                found = read(path)
            except (UserError, LabelError) as error:
                assert "\n" not in str(error), f"{kind} {number} (seed {seed}): {error}"
                outcomes["refused"] += 1
                found = None
            except Exception as error:
                raise AssertionError(f"{kind} {number} (seed {seed}): {error!r}") from error
            assert time.monotonic() - start < SLOW, f"{kind} {number} (seed {seed}) took too long"
            if found is not None:
                same = (kind == "mat" and quiet(reference, content) is None) or any(
                    expected is not None and np.array_equal(expected, found)
                    for expected in (quiet(reference, content), reference(files[number % len(files)]))
                )
                assert same, f"{kind} {number} (seed {seed}) is read as no other reader reads it"
                outcomes["read"] += 1
    return outcomes


def main() -> None:
    kind, count, seed = sys.argv[1], int(sys.argv[2]), int((sys.argv[3:] or [0])[0])
    start = time.monotonic()
    outcomes = campaign(kind, count, seed)
    took = time.monotonic() - start
    print(f"{kind}: {count} files, {outcomes['read']} read, {outcomes['refused']} refused, {took:.0f} s")


if __name__ == "__main__":
    main()
