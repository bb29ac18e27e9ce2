"""Images of any kind, depth and number of bands are read as other libraries read them, or refused in one line."""

import io
import os
import struct
import time

import cv2
import damage
import numpy as np
import pytest
import tifffile
from PIL import Image

from datasets.seg.archive import ZipPath, open_root
from datasets.seg.raster import RasterFile, read_raster
from lib.base.errors import UserError

SIZE = (37, 53)


def numbers(dtype: str, bands: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 30, (*SIZE, bands)).astype(dtype)


def stored(pixels: np.ndarray) -> np.ndarray:
    """What is to come back."""
    return pixels if pixels.dtype.newbyteorder("=") in (np.uint8, np.uint16) else pixels.astype(np.float32)


TIFFS = [
    ("uint8", 4, {"compression": "lzw", "predictor": True, "planarconfig": "contig"}),
    ("uint8", 1, {"compression": "packbits"}),
    ("uint16", 3, {"compression": "deflate", "predictor": True, "tile": (16, 32), "planarconfig": "contig"}),
    ("uint16", 7, {"planarconfig": "separate", "rowsperstrip": 5, "byteorder": ">"}),
    ("int16", 2, {"compression": "zstd", "planarconfig": "separate", "tile": (32, 16)}),
    ("float16", 4, {"planarconfig": "contig"}),
    ("float32", 4, {"compression": "deflate", "predictor": True, "tile": (16, 16), "planarconfig": "separate"}),
    ("float32", 5, {"compression": "lzw", "predictor": True, "byteorder": ">", "planarconfig": "contig"}),
    ("float64", 2, {"bigtiff": True, "planarconfig": "contig", "rowsperstrip": 8}),
]


@pytest.mark.parametrize("dtype, bands, options", TIFFS)
def test_a_tiff_is_read_with_all_its_bands_and_its_first_rows_without_the_rest(tmp_path, dtype, bands, options):
    pixels, path = numbers(dtype, bands), tmp_path / "a.tif"
    written = np.moveaxis(pixels, 2, 0) if options.get("planarconfig") == "separate" else pixels
    tifffile.imwrite(path, written[..., 0] if bands == 1 else written, photometric="minisblack", **options)
    file = RasterFile(path)
    assert (file.size, file.bands, file.dtype) == (SIZE, bands, stored(pixels).dtype)
    for rows in (None, 1, 20):
        found = file.decode(rows)
        assert found.dtype == file.dtype and np.array_equal(found, stored(pixels)[:rows])


def test_pictures_of_one_band_in_one_tiff_are_its_bands_and_smaller_versions_are_passed_over(tmp_path):
    pixels = numbers("float32", 4)
    tifffile.imwrite(tmp_path / "stack.tif", np.moveaxis(pixels, 2, 0), photometric="minisblack")
    assert np.array_equal(read_raster(tmp_path / "stack.tif"), pixels)
    with tifffile.TiffWriter(tmp_path / "overview.tif") as file:
        file.write(pixels, photometric="minisblack", planarconfig="contig")
        file.write(pixels[::2, ::2], photometric="minisblack", planarconfig="contig", subfiletype=1)
    assert np.array_equal(read_raster(tmp_path / "overview.tif"), pixels)


def test_what_a_tiff_marks_as_without_data_is_no_number(tmp_path):
    pixels = numbers("int16", 2)
    pixels[3:9, 4] = -9999
    tag = [(42113, "s", 0, "-9999", True)]
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig", extratags=tag)
    found = read_raster(tmp_path / "a.tif")
    assert np.isnan(found[3:9, 4]).all() and np.array_equal(found, np.where(pixels == -9999, np.nan, pixels), True)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "i2", "f2", "f4", ">f4", "f8", "i8"])
@pytest.mark.parametrize("order", "CF")
def test_an_array_is_read_and_its_first_rows_without_the_rest(tmp_path, dtype, order):
    for shape in ((*SIZE, 5), SIZE):
        pixels = np.array(numbers("f8", 5)[..., : shape[2] if len(shape) == 3 else 1].reshape(shape), order=order)
        np.save(tmp_path / "a.npy", pixels.astype(dtype, order=order))
        file, expected = RasterFile(tmp_path / "a.npy"), stored(pixels.astype(dtype)).reshape(*SIZE, -1)
        assert (file.size, file.bands, file.dtype) == (SIZE, expected.shape[2], expected.dtype.newbyteorder("="))
        assert np.array_equal(file.decode(), expected) and np.array_equal(file.decode(9), expected[:9])


PICTURES = [
    *(("png", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
    *(("bmp", mode) for mode in ("RGB", "L", "P")),
    *(("webp", mode) for mode in ("RGB", "RGBA")),
    *(("tiff", mode) for mode in ("RGB", "RGBA", "L", "P")),
]


@pytest.mark.parametrize("kind, mode", PICTURES)
@pytest.mark.parametrize("alpha", [False, True])
def test_a_picture_has_its_levels_in_rgb_and_its_opacity_where_asked(tmp_path, kind, mode, alpha):
    picture = damage.scene(np.random.default_rng(0), *SIZE)
    image = Image.fromarray(picture).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(picture[..., 0]))
    image.save(tmp_path / f"a.{kind}", **({"lossless": True, "exact": True} if kind == "webp" else {}))
    keeps = kind == "tiff" or alpha
    plain = {"P": "RGB", "1": "L", "RGBA": "RGBA" if keeps else "RGB", "LA": "LA" if keeps else "L"}.get(mode, mode)
    bands = np.asarray(image)
    expected = bands[..., : len(plain)] if mode in ("RGBA", "LA") else np.asarray(image.convert(plain))
    assert np.array_equal(read_raster(tmp_path / f"a.{kind}", alpha), expected.reshape(*SIZE, -1))


def test_a_png_of_16_bits_and_jpegs_keep_their_depth_and_bands(tmp_path):
    deep = numbers("uint16", 3) * 400
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    assert np.array_equal(read_raster(tmp_path / "a.png"), deep)
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., 0])
    assert np.array_equal(read_raster(tmp_path / "a.png"), deep[..., :1])
    for content, bands in zip(damage.jpeg_files(np.random.default_rng(0))[-2:], (3, 1), strict=True):
        (tmp_path / "a.jpg").write_bytes(content)
        expected = np.asarray(Image.open(io.BytesIO(content))).reshape(40, 56, bands)
        assert np.array_equal(read_raster(tmp_path / "a.jpg"), expected)


def test_images_in_a_zip_are_read_in_place(tmp_path):
    import zipfile

    np.save(tmp_path / "a.npy", numbers("float32", 4))
    tifffile.imwrite(tmp_path / "b.tif", numbers("uint16", 4), photometric="minisblack", planarconfig="contig")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for name in ("a.npy", "b.tif"):
            archive.write(tmp_path / name, f"train/image/{name}")
    folder = open_root(tmp_path / "data.zip") / "train" / "image"
    for name in ("a.npy", "b.tif"):
        assert isinstance(folder / name, ZipPath)
        assert np.array_equal(RasterFile(folder / name).decode(11), read_raster(tmp_path / name)[:11])


# Refused


def tiff(**entries: int) -> bytes:
    """A TIFF of one strip of 100 bytes with these numbers in place of 10 x 10 pixels of 8 bits."""
    tags = {256: 10, 257: 10, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1 << 24, 279: 100}
    tags |= {int(name[1:]): value for name, value in entries.items()}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<I", 108) + bytes(100) + struct.pack("<H", len(tags)) + rows + bytes(4)


def npy(header: str) -> bytes:
    header = header.ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + bytes(64)


def saved(**options) -> bytes:
    file = io.BytesIO()
    np.save(file, **options)
    return file.getvalue()


def webp() -> bytes:
    file = io.BytesIO()
    Image.fromarray(damage.scene(np.random.default_rng(0))).save(file, "webp")
    return file.getvalue()


def two_pictures() -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for side in (8, 9):
            writer.write(np.zeros((side, side), np.uint8))
    return file.getvalue()


PNG = cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes()
REFUSED = {
    "a million by a million": ("a.tif", tiff(_256=10**6, _257=10**6), "claims 1000000 x 1000000 pixels"),
    "two million rows deflated": ("a.tif", tiff(_256=1 << 23, _257=1 << 23, _259=8), "claims"),
    "a strip beyond the end": ("a.tif", tiff(_273=10**6), "truncated"),
    "bits": ("a.tif", tiff(_258=4), "4-bit u samples: save it with"),
    "compression": ("a.tif", tiff(_259=7), "compressed by JPEG, which is not read here: save it with"),
    "predictor": ("a.tif", tiff(_259=5, _317=9), "unusual kind"),
    "no width": ("a.tif", tiff(_256=0), "damaged"),
    "YCbCr": ("a.tif", tiff(_262=6), "YCbCr"),
    "no deflate": ("a.tif", tiff(_259=8), "damaged"),
    "no LZW": ("a.tif", tiff(_259=5), "damaged"),
    "pictures": ("a.tif", two_pictures(), "2 pictures: save the one that is meant"),
    "half a TIFF": ("a.tif", tiff()[:150], "truncated"),
    "directories in a circle": ("a.tif", tiff()[:-4] + struct.pack("<I", 108), "damaged"),
    "an object": ("a.npy", saved(arr=np.array([{}], object)), "something else than numbers"),
    "complex": ("a.npy", saved(arr=np.zeros((2, 2), complex)), "something else than numbers"),
    "bool": ("a.npy", saved(arr=np.zeros((2, 2), bool)), "no numbers"),
    "4 axes": ("a.npy", saved(arr=np.zeros((2, 2, 2, 2))), "of shape"),
    "no pixel": ("a.npy", saved(arr=np.zeros((0, 2))), "of shape"),
    "too few": ("a.npy", saved(arr=np.zeros((9, 9)))[:-1], "truncated"),
    "a claim": ("a.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (999999, 999999, 4), }"), "truncated"),
    "code": ("a.npy", npy("{'descr': '<f4', 'fortran_order': print(), 'shape': (4, 4), }"), "or damaged"),
    "depth": ("a.npy", npy("(" * 110), "or damaged"),
    "empty array": ("a.npy", b"", "truncated"),
    "no array": ("a.npy", PNG, "no NumPy array"),
    "an array by another name": ("a.tif", saved(arr=np.zeros((4, 4))), "ending .npy"),
    "half a WebP": ("a.webp", webp()[:-9], "truncated"),
    "text": ("a.png", b"hello", "not a readable image"),
    "nothing": ("a.bmp", b"", "truncated"),
    "a PNG that claims much": (
        "a.png",
        damage.with_right_sums(PNG.replace(struct.pack(">II", 8, 8), struct.pack(">II", 30000, 30000))),
        "claims 30000 x 30000 pixels",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_one_line_that_names_the_file(tmp_path, case, capfd):
    name, content, words = REFUSED[case]
    (tmp_path / name).write_bytes(content)
    start = time.process_time()
    with pytest.raises(UserError) as error:
        read_raster(tmp_path / name)
    assert words in str(error.value) and str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)
    assert ": " in str(error.value).removeprefix(str(tmp_path / name)), "no remedy"
    assert time.process_time() - start < 1 and capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_a_pipe_a_folder_and_nothing_are_no_images(tmp_path, name):
    with pytest.raises(UserError, match=name):
        read_raster(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=name):
        read_raster(tmp_path / name)
    (tmp_path / name).rmdir()
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=name):
        read_raster(tmp_path / name)


def damaged_kinds() -> dict[str, list[bytes]]:
    """Whole files of each kind by the ending of their names."""
    rng = np.random.default_rng(0)
    kinds = {"png": damage.png_files(rng), "jpg": damage.jpeg_files(rng), "tif": [], "npy": [], "bmp": [], "webp": []}
    for dtype, bands, options in TIFFS:
        file, pixels = io.BytesIO(), numbers(dtype, bands)
        written = np.moveaxis(pixels, 2, 0) if options.get("planarconfig") == "separate" else pixels
        tifffile.imwrite(file, written[..., 0] if bands == 1 else written, photometric="minisblack", **options)
        kinds["tif"].append(file.getvalue())
    for dtype, bands in (("uint8", 4), ("uint16", 1), ("float32", 4)):
        kinds["npy"].append(saved(arr=numbers(dtype, bands)))
    for mode in ("RGB", "P", "L", "1"):
        file = io.BytesIO()
        Image.fromarray(damage.scene(rng)).convert(mode).save(file, "bmp")
        kinds["bmp"].append(file.getvalue())
    for options in ({"lossless": True}, {"quality": 80}):
        file = io.BytesIO()
        Image.fromarray(damage.scene(rng)).save(file, "webp", **options)
        kinds["webp"].append(file.getvalue())
    return kinds


def strike(tmp_path, kind: str, count: int, seed: int) -> int:
    """How many of ``count`` damaged files are refused; all others are read as an image of a sane size."""
    rng, files, refused = np.random.default_rng(seed), damaged_kinds()[kind], 0
    path = tmp_path / f"a.{kind}"
    for number in range(count):
        content = damage.damaged(files[number % len(files)], rng, "jpeg" if kind == "jpg" else kind)
        path.write_bytes(damage.with_right_sums(content) if kind == "png" and number % 2 else content)
        start = time.process_time()
        try:
            found = read_raster(path)
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            refused += 1
        else:
            assert found.ndim == 3 and found.dtype in (np.uint8, np.uint16, np.float32) and found.size < 1 << 26
        assert time.process_time() - start < damage.SLOW, f"{kind} {number} (seed {seed}) took too long"
    return refused


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "npy", "bmp", "webp"])
def test_damaged_images_are_read_or_refused(tmp_path, kind, capfd):
    assert strike(tmp_path, kind, count=100, seed=3) >= 10
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "npy", "bmp", "webp"])
def test_thousands_of_damaged_images_are_read_or_refused(tmp_path, kind, seed, capfd):
    assert strike(tmp_path, kind, count=3000, seed=seed) >= 300
    assert capfd.readouterr().err == ""
