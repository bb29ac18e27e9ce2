"""Images larger than memory are read, predicted and written by windows, as they are where they fit."""

import json
import subprocess
import sys
from pathlib import Path, PurePath

import cv2
import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from datasets.seg.bands import open_bands
from datasets.seg.pixels import Pixels
from lib.base.errors import UserError
from lib.predict.large import LargeImage
from lib.predict.output import Output
from lib.predict.run import predict_sources
from lib.predict.sources import Source, find_sources
from lib.tasks import load_config, make_task
from lib.tasks.segmentation import DataConfig
from lib.tasks.trained import Trained

WORDS = ("val.mode=sscrop", "val.window=[96,96]", "val.batch_size=1", "device=cpu", "train.amp=false")


class Tiny(nn.Module):
    """19 classes; the answer depends on where a window's border is."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 19, 3, padding=1)

    def forward(self, image):
        return {"out": self.layer(image)}


@pytest.fixture
def predict():
    """predict(path, out, *settings, **kinds) with a network of one layer: whether it went well."""
    torch.manual_seed(0)
    network = Tiny().eval().requires_grad_(False)

    def call(path, out, *settings, **kinds):
        config = load_config(None, [*WORDS, *settings])
        task = make_task(config)
        trained = Trained(config, task, network, torch.device("cpu"), 0, Path("none.pth"))
        sources = find_sources([str(path)], out)
        return predict_sources(trained, sources, Output(out, task.table, **kinds), {}, batch=0, overwrite=False)

    return call


def label(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 256, (12, 30, 3)).astype(np.uint8), (500, 210), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(
    "options", [{"tile": (64, 64)}, {"rowsperstrip": 50, "compression": "zlib"}, {}], ids=["tiles", "strips", "plain"]
)
@pytest.mark.parametrize("stride", [0.667, 1])
def test_a_tiff_larger_than_memory_is_predicted_as_the_same_image_in_memory(
    predict, tmp_path, monkeypatch, capfd, pixels, options, stride
):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", **options)
    assert predict(tmp_path / "a.tif", tmp_path / "whole", f"val.stride={stride}")
    # Each pixel takes 206 bytes as a whole, 22 MB in all; the columns then go through in two parts.
    monkeypatch.setattr("lib.base.memory.available_bytes", lambda: 30 << 20)
    capfd.readouterr()
    monkeypatch.setattr("lib.strips.HELD", 1 << 16)
    assert predict(tmp_path / "a.tif", tmp_path / "parts", f"val.stride={stride}") and capfd.readouterr().err == ""
    found = tifffile.imread(tmp_path / "parts" / "label" / "a.tif")
    assert len(np.unique(found)) > 5
    assert np.array_equal(found, label(tmp_path / "whole" / "label" / "a.png"))
    assert np.array_equal(*(label(tmp_path / folder / "vis" / "a.jpg") for folder in ("parts", "whole")))
    record = json.loads((tmp_path / "parts" / "predictions.json").read_text())
    assert record["images"] == 1 and "by_windows" not in record


def test_what_a_large_image_cannot_have_is_refused_or_marked(predict, tmp_path, monkeypatch, capfd, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 64))
    monkeypatch.setattr("lib.base.memory.available_bytes", lambda: 30 << 20)
    for kinds in ({"probabilities": True}, {"polygons": "coco"}, {"polygons": "geojson"}):
        with pytest.raises(UserError, match=r"a\.tif of 500 x 210 pixels is larger than memory allows, and --p.*leave"):
            predict(tmp_path / "a.tif", tmp_path / "out", **kinds)
    assert not (tmp_path / "out").exists()
    capfd.readouterr()
    assert predict(tmp_path / "a.tif", tmp_path / "out", "val.mode=ss")
    assert capfd.readouterr().err.count("windows of 96 x 96 take its place, with other results") == 1
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert record["by_windows"] == ["a"] and record["windows_for_want_of_memory"]


def test_a_full_disk_ends_in_one_line(predict, tmp_path, monkeypatch, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 64))
    monkeypatch.setattr("lib.base.memory.available_bytes", lambda: 30 << 20)
    monkeypatch.setattr("lib.predict.large.os.pwrite", lambda *_: 5)
    with pytest.raises(UserError, match=r"cannot write .*a\.tif: No space left on device; free some space"):
        predict(tmp_path / "a.tif", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["predictions.json"]


@pytest.mark.parametrize("kind", ["grey", "int16", "big endian", "white is zero", "one strip", "lzw"])
def test_rectangles_of_a_tiff_are_those_of_the_image(tmp_path, kind):
    rng = np.random.default_rng(0)
    shape, dtype, options = {
        "grey": ((90, 70), np.uint8, {"tile": (32, 16)}),
        "int16": ((90, 70, 5), np.int16, {"rowsperstrip": 7, "planarconfig": "contig"}),
        "big endian": ((90, 70, 3), np.uint16, {"tile": (16, 48), "byteorder": ">", "photometric": "rgb"}),
        "white is zero": ((90, 70), np.uint8, {"photometric": "miniswhite"}),
        "one strip": ((700, 70, 3), np.uint8, {"photometric": "rgb"}),
        "lzw": ((90, 70, 3), np.float32, {"rowsperstrip": 20, "compression": "lzw", "predictor": 3}),
    }[kind]
    values = rng.integers(0, 200, shape).astype(dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, extratags=[(42113, "s", 0, "17", True)], **options)
    bands = 3 if len(shape) == 2 else shape[2]
    image = LargeImage(Source("image", path, PurePath("a")), Pixels("bgr", (0.0,) * bands, (1.0,) * bands))
    image.check()
    expected = open_bands(path, bands).decode()
    for rows, columns in ((slice(3, 80), slice(5, 69)), (slice(0, shape[0]), slice(0, 70)), (slice(89, 90), slice(3))):
        found = image.values(rows, slice(columns.start or 0, columns.stop))
        assert found.dtype == expected.dtype and np.array_equal(found, expected[rows, columns], equal_nan=True)
    image.close()


@pytest.mark.slow
def test_900_million_pixels_are_predicted_within_2_and_a_half_gb(tmp_path):
    script = Path(__file__).parent / "large_image.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=True)
    succeeded, peak = done.stdout.split()[-2:]
    assert succeeded == "True" and float(peak) < 2400
    tile = np.load(tmp_path / "tile.npy")
    mean = sum(DataConfig().mean)
    expected = np.where(tile.sum(2, dtype=int) > mean, 9, 7)
    with tifffile.TiffFile(tmp_path / "out" / "label" / "large.tif") as file:
        assert file.pages[0].shape == (30_000, 30_000)
        strips = [file.pages[0].decode(data, index)[0] for data, index in _some_strips(file)]
    for first, strip in zip((0, 256 * 60, 256 * 117), strips, strict=True):
        rows = np.arange(first, min(first + 256, 30_000)) % 512
        shown = np.tile(expected[rows], (1, 59))[:, :30_000]
        assert (strip[0, : len(rows), :, 0] == shown).mean() == 1
    (tmp_path / "large.tif").unlink()


def _some_strips(file):
    page = file.pages[0]
    for index in (0, 60, 117):
        file.filehandle.seek(page.dataoffsets[index])
        yield file.filehandle.read(page.databytecounts[index]), index
