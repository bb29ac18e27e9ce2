"""``main.py predict``: what val writes, for images from anywhere, and nothing lost where one of them is bad."""

import json
import os
import sys

import cv2
import numpy as np
import pytest
import tifffile
import torch
from conftest import FAST, RECIPE
from PIL import Image
from pycocotools.coco import COCO

import main
from datasets.seg.classes import load_table
from lib.engine.checkpoint import CheckpointFiles
from lib.engine.runs import RunFolder
from lib.frugal import Way
from lib.predict import output as output_module
from lib.predict.forecast import Forecast
from lib.predict.outlines import filled, regions
from lib.predict.pipeline import in_batches
from lib.tasks import load_config, make_task
from lib.tasks.trained import open_trained

TABLE = load_table("cityscapes")
WORDS = (*FAST, "model.head.name=fcn", "model.head.options={width: 8}", "tag=tiny")


def label(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def names_of(kind, *names, ending):
    return [f"{kind}/{name}{ending}" for name in names]


@pytest.mark.parametrize("mode", ["ss", pytest.param("sscrop", marks=pytest.mark.slow), "mscrop"])
def test_predictions_are_vals_label_images_pixel_by_pixel(
    predict, network, data_root, command, monkeypatch, tmp_path, mode
):
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "runs"))
    settings = (f"val.mode={mode}", "val.scales=[0.5,1.0]", "device=cpu")
    validated = command("val", "tag=v", f"data.root={data_root}", f"checkpoint={network}", *WORDS[:-1], *settings)
    assert validated.status == 0, validated.stderr
    done = predict(data_root / "val" / "image", *settings)
    assert done.status == 0, done.stderr
    (folder,) = (tmp_path / "runs").rglob("val")
    written = sorted((tmp_path / "out" / "label").iterdir())
    assert len(written) == 3 and len(np.unique(label(written[0]))) > 1
    for path in written:
        assert np.array_equal(label(path), label(folder / "label" / path.name))
        assert (
            label(tmp_path / "out" / "vis" / f"{path.stem}.jpg").tobytes()
            == label(folder / "vis" / f"{path.stem}.jpg").tobytes()
        )
    assert done.stdout.splitlines()[-1].startswith(f"{tmp_path / 'out'}: 3 images in ")
    assert done.stdout.splitlines()[-1].endswith(" images/s")


def test_images_of_one_size_go_together_and_come_out_the_same(predict, pictures, tmp_path, monkeypatch):
    assert predict(pictures).status == 0
    counts, call = [], Forecast.__call__
    monkeypatch.setattr(Forecast, "__call__", lambda self, group: counts.append(len(group)) or call(self, group))
    assert predict(pictures, "--batch", 2, out=tmp_path / "two").status == 0
    assert sorted(counts) == [1, 1, 1, 2]
    assert tree(tmp_path / "out") == tree(tmp_path / "two")
    for name in names_of("label", "a", "b", "c", "d", "sub/a", ending=".png"):
        differing = label(tmp_path / "out" / name) != label(tmp_path / "two" / name)
        assert differing.mean() < 0.001


@pytest.mark.parametrize("kind", [pytest.param("tif16", marks=pytest.mark.slow), "five.npy", "four.tif"])
def test_images_of_other_bands_and_depths_are_predicted_as_val_does(command, monkeypatch, tmp_path, capfd, kind):
    rng = np.random.default_rng(0)
    bands = {"tif16": 3, "five.npy": 5, "four.tif": 4}[kind]
    for part in ("image", "label"):
        (tmp_path / "data" / "val" / part).mkdir(parents=True)
    values = rng.integers(0, 60_000, (48, 64, bands)).astype(np.float32 if kind == "four.tif" else np.uint16)
    image = tmp_path / "data" / "val" / "image" / f"a.{kind[-3:] if '.' in kind else 'tif'}"
    if kind == "five.npy":
        np.save(image, values)
    else:
        tifffile.imwrite(image, values, photometric="rgb" if bands == 3 else "minisblack", planarconfig="contig")
    cv2.imwrite(str(tmp_path / "data" / "val" / "label" / "a.png"), np.full((48, 64), 7, np.uint8))
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "runs"))
    statistics = (f"data.mean={[30000.0] * bands}", f"data.std={[17000.0] * bands}")
    words = (*WORDS, f"data.bands={bands}", *statistics, "val.mode=ss")
    config = load_config(RECIPE, words)
    task, folder = make_task(config), RunFolder(config)
    folder.create()
    state = {"model": task.network().state_dict(), "iteration": 1, "config": folder.recorded, **task.texts}
    CheckpointFiles(folder.checkpoints, keep=1).save(state, 1, is_best=True)
    validated = command("val", *words, f"data.root={tmp_path / 'data'}", "val.extremes=0")
    assert validated.status == 0, validated.stderr
    for number, source in enumerate((tmp_path / "data" / "val" / "image", image)):
        out = tmp_path / f"out {number}"
        monkeypatch.setattr(sys, "argv", ["main.py", "predict", str(folder.path), str(source), "--out", str(out)])
        assert main.main() in (0, None)
        for name in ("label/a.png", "vis/a.jpg"):
            assert np.array_equal(label(out / name), label(folder.path / "val" / name))


class Sized:
    def __init__(self, *size):
        self.size = size


def test_groups_wait_for_more_of_their_size_but_not_for_ever():
    items = [(index, Sized(index % 2)) for index in range(8)] + [(8, Sized(2))] + [(n, Sized(0)) for n in range(9, 30)]
    groups = [[index for index, _ in group] for group in in_batches(items, lambda size: 4)]
    assert sorted(index for group in groups for index in group) == list(range(30))
    assert groups[:2] == [[0, 2, 4, 6], [1, 3, 5, 7]] and [8] in groups and max(map(len, groups)) == 4
    assert [len(group) for group in in_batches(items[:5], lambda size: 1)] == [1] * 5


@pytest.mark.parametrize("ending", [".bmp", ".webp", ".tif", ".npy", ".jpg"])
def test_other_kinds_of_images_are_predicted_as_their_pixels_are(predict, pictures, tmp_path, ending):
    pixels = np.asarray(Image.open(pictures / "a.png"))
    folder = tmp_path / "others"
    folder.mkdir()
    if ending == ".npy":
        np.save(folder / "a.npy", pixels)
    else:
        Image.fromarray(pixels).save(folder / f"a{ending}", **({"lossless": True} if ending == ".webp" else {}))
    if ending == ".jpg":
        Image.open(folder / "a.jpg").save(pictures / "a.png")
    assert predict(folder).status == 0
    assert predict(pictures / "a.png", out=tmp_path / "png").status == 0
    assert np.array_equal(label(tmp_path / "out" / "label" / "a.png"), label(tmp_path / "png" / "label" / "a.png"))


def test_an_unreadable_image_is_named_and_the_rest_is_done(predict, pictures, tmp_path):
    (pictures / "b.png").write_bytes((pictures / "b.png").read_bytes()[:-40])
    os.mkfifo(pictures / "c2.png")
    done = predict(pictures)
    assert done.status == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and "b.png is truncated" in lines[0] and "c2.png is no regular file" in lines[1]
    expected = names_of("label", "a", "c", "d", "sub/a", ending=".png")
    assert tree(tmp_path / "out") == sorted(
        [*expected, *(n.replace("label", "vis")[:-3] + "jpg" for n in expected), "predictions.json"]
    )
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert record["images"] == 4 and len(record["failed"]) == 2 and record["complete"]
    assert (
        done.stdout.splitlines()[-1].endswith("images/s") and "4 images in" in done.stdout and "2 failed" in done.stdout
    )


class TestOverwriting:
    def test_the_same_command_may_be_repeated_and_another_may_not(self, predict, pictures, tmp_path):
        assert predict(pictures).status == 0
        before = (tmp_path / "out" / "label" / "a.png").read_bytes()
        (tmp_path / "out" / "label" / "a.png").write_bytes(b"")
        assert predict(pictures).status == 0
        assert (tmp_path / "out" / "label" / "a.png").read_bytes() == before
        assert "predictions.json is there already, and of another command" in predict(pictures, "val.mode=ss").error
        (tmp_path / "out" / "predictions.json").unlink()
        assert "label/a.png is there already" in predict(pictures).error
        assert predict(pictures, "val.mode=ss", "--overwrite").status == 0

    def test_a_file_where_the_folder_should_be(self, predict, pictures):
        assert "/dev/full is a file: choose another folder" in predict(pictures, out="/dev/full").error


def test_a_full_disk_ends_in_one_line_and_leaves_no_half_of_a_file(predict, pictures, tmp_path, monkeypatch):
    write = output_module.write_atomically

    def on_a_full_disk(path, content):
        if path.name != "c.png":
            return write(path, content)
        return write(
            path, lambda file: (file.write(b"half"), (_ for _ in ()).throw(OSError(28, "No space left on device")))
        )

    monkeypatch.setattr(output_module, "write_atomically", on_a_full_disk)
    error = predict(pictures).error
    assert "cannot write" in error and "label/c.png: No space left on device; free some space" in error
    assert not list((tmp_path / "out").rglob("*.part*"))
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["complete"] is False


def test_what_is_written_when_it_is_interrupted_is_whole(predict, pictures, tmp_path, monkeypatch):
    call, seen = Forecast.__call__, []

    def interrupted(self, group):
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return call(self, group)

    monkeypatch.setattr(Forecast, "__call__", interrupted)
    done = predict(pictures)
    assert (done.status, done.stderr) == (130, "interrupted\n")
    assert not list((tmp_path / "out").rglob("*.part*"))
    assert all(label(path) is not None for path in (tmp_path / "out" / "label").rglob("*.png"))
    monkeypatch.setattr(Forecast, "__call__", call)
    assert predict(pictures).status == 0


def test_probabilities_are_those_that_decide(predict, pictures, tmp_path):
    assert predict(pictures, "--probabilities", "val.mode=ss").status == 0
    with np.load(tmp_path / "out" / "probabilities" / "a.npz", allow_pickle=False) as found:
        probabilities, ids, names = found["probabilities"], found["ids"], found["names"]
    assert probabilities.shape == (19, 48, 64) and probabilities.dtype == np.float16
    assert names.tolist() == list(TABLE.names) and np.array_equal(ids, TABLE.id_of)
    np.testing.assert_allclose(probabilities.astype(np.float64).sum(0), 1, atol=0.01)
    chosen = label(tmp_path / "out" / "label" / "a.png")
    of_chosen = np.take_along_axis(probabilities, TABLE.train_id_of[chosen][None].astype(int), 0)[0]
    assert (of_chosen == probabilities.max(0)).all()


class TestOutlines:
    @pytest.mark.parametrize("seed", range(20))
    def test_filled_by_the_even_odd_rule_they_are_the_regions(self, seed):
        rng = np.random.default_rng(seed)
        height, width = rng.integers(1, 30, 2)
        ids = rng.integers(0, 1 + seed % 4, (height, width)).astype(np.uint8)
        found, counted = np.full((height, width), 255, np.uint8), 0
        for region in regions(ids, 5):
            pixels = filled(region, (height, width)) > 0
            assert pixels.sum() == region.area and (found[pixels] == 255).all()
            found[pixels], counted = region.train_id, counted + 1
        assert np.array_equal(found, ids)
        assert counted == sum(
            cv2.connectedComponents((ids == k).astype(np.uint8), connectivity=8)[0] - 1 for k in range(5)
        )

    def test_coco(self, predict, pictures, tmp_path):
        assert predict(pictures, "--polygons", "coco").status == 0
        coco = COCO(tmp_path / "out" / "polygons.json")
        assert coco.loadCats([7])[0]["name"] == "road"
        for number, image in coco.imgs.items():
            found = np.zeros((image["height"], image["width"]), np.uint8)
            for annotation in coco.imgToAnns[number]:
                mask = coco.annToMask(annotation)
                assert abs(int(mask.sum()) - annotation["area"]) <= 0.05 * annotation["area"] + 4
                found[mask > 0] = annotation["category_id"]
            name = os.path.relpath(image["file_name"], pictures)
            assert (found == label(tmp_path / "out" / "label" / name)).mean() > 0.97

    def test_geojson(self, predict, pictures, tmp_path):
        assert predict(pictures / "a.png", "--polygons", "geojson").status == 0
        content = json.loads((tmp_path / "out" / "polygons" / "a.geojson").read_text())
        expected = label(tmp_path / "out" / "label" / "a.png")
        assert content["type"] == "FeatureCollection" and "y down" in content["coordinates"]
        areas = dict.fromkeys(np.unique(expected).tolist(), 0)
        for feature in content["features"]:
            for ring in feature["geometry"]["coordinates"]:
                assert ring[0] == ring[-1]
                x, y = np.array(ring).T
                signed = (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2
                outer = ring is feature["geometry"]["coordinates"][0]
                areas[feature["properties"]["id"]] += abs(signed) * (1 if outer else -1)
        assert areas == {number: int((expected == number).sum()) for number in areas}


@pytest.fixture
def video(tmp_path):
    """A video of nine frames of 64 x 48 at 12 frames a second, and its frames as they are decoded."""
    path, rng = tmp_path / "street.avi", np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (64, 48))
    for _ in range(9):
        writer.write(cv2.resize(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8), (64, 48)))
    writer.release()
    return path


def frames_of(path):
    reader, frames = cv2.VideoCapture(str(path)), []
    while (frame := reader.read())[0]:
        frames.append(frame[1])
    return frames, reader.get(cv2.CAP_PROP_FPS)


class TestVideos:
    def test_frames_are_predicted_as_images_and_the_rate_is_kept(self, predict, video, tmp_path):
        assert predict(video, "--frames").status == 0
        decoded, rate = frames_of(video)
        shown, shown_rate = frames_of(tmp_path / "out" / "vis" / "street.mp4")
        assert rate == shown_rate == 12 and len(shown) == len(decoded) == 9 and shown[0].shape == (48, 64, 3)
        (tmp_path / "frames").mkdir()
        for number, frame in enumerate(decoded):
            cv2.imwrite(str(tmp_path / "frames" / f"{number:06}.png"), frame)
        assert predict(tmp_path / "frames", out=tmp_path / "images").status == 0
        for number in range(9):
            of_image, of_frame = (
                label(tmp_path / folder / f"{number:06}.png") for folder in ("images/label", "out/label/street")
            )
            assert np.array_equal(of_image, of_frame)

    def test_sides_of_an_overlay_video_are_even_and_those_of_label_images_the_videos_own(self, predict, tmp_path):
        # OpenCV writes no odd sides; raw frames of Y, U and V, whatever the name, are read by what they are.
        path = tmp_path / "odd.avi"
        path.write_bytes(
            b"YUV4MPEG2 W61 H47 F10:1 C444\n"
            + b"".join(b"FRAME\n" + b"".join(bytes([v]) * (61 * 47) for v in (level, 128, 128)) for level in (40, 200))
        )
        frames, _ = frames_of(path)
        assert [frame.shape for frame in frames] == [(47, 61, 3)] * 2
        assert predict(path, "--frames").status == 0
        shown, rate = frames_of(tmp_path / "out" / "vis" / "odd.mp4")
        assert rate == 10 and [frame.shape for frame in shown] == [(48, 62, 3)] * 2
        assert label(tmp_path / "out" / "label" / "odd" / "000001.png").shape == (47, 61)

    def test_one_without_a_frame_is_named_and_leaves_nothing(self, predict, tmp_path):
        path = tmp_path / "none.avi"
        cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48)).release()
        done = predict(path, "--frames")
        assert done.status == 1 and len(done.stderr.splitlines()) == 1 and "none.avi" in done.stderr
        assert tree(tmp_path / "out") == ["predictions.json"]

    def test_one_that_ends_early_is_named_and_what_there_is_is_predicted(self, predict, video, pictures, tmp_path):
        content = video.read_bytes()
        # Cut off within the frames: the header still promises nine.
        video.write_bytes(content[: int(len(content) * 0.6)])
        done = predict(video, pictures / "a.png")
        assert done.status == 1 and len(done.stderr.splitlines()) == 1
        assert "street.avi ends after" in done.stderr and "of 9 frames: copy it again" in done.stderr
        assert "vis/street.mp4" in tree(tmp_path / "out")
        assert (tmp_path / "out" / "label" / "a.png").exists()

    def test_what_is_no_video_is_named_and_the_rest_is_done(self, predict, video, pictures, tmp_path):
        (tmp_path / "no.mp4").write_bytes(b"no video")
        done = predict(tmp_path / "no.mp4", video, pictures / "a.png")
        assert done.status == 1
        assert "no.mp4 is no video that can be read" in done.stderr
        assert "vis/street.mp4" in tree(tmp_path / "out") and not list((tmp_path / "out").rglob(".*"))

    def test_an_interrupted_one_leaves_no_half(self, predict, video, tmp_path, monkeypatch):
        monkeypatch.setattr(Forecast, "__call__", lambda self, group: (_ for _ in ()).throw(KeyboardInterrupt))
        assert predict(video).status == 130
        assert tree(tmp_path / "out") == ["predictions.json"]

    def test_a_camera_that_is_not_there(self, predict):
        done = predict("camera:99")
        assert (
            done.status == 1
            and len(done.stderr.splitlines()) == 1
            and "camera:99 cannot be opened: is it connected?" in done.stderr
        )


def test_what_does_not_fit_into_memory_is_marked(predict, pictures, tmp_path, monkeypatch, network):
    forecast = Forecast(open_trained(network, ["val.mode=ss", "val.window=[32,32]"]))
    needed = forecast.frugal.needed(forecast.network, Way(1, forecast.predictor), (48, 64))
    monkeypatch.setattr("lib.base.memory.available_bytes", lambda: int(0.95 * needed / 0.8))
    done = predict(pictures / "a.png", pictures / "c.png", "val.mode=ss", "val.window=[32,32]")
    assert done.status == 0 and done.stderr.count("take its place, with other results") == 1
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert set(record["by_windows"]) == {"a", "c"}
    assert {"size": [64, 48], "window": [32, 32]} in record["windows_for_want_of_memory"]


def test_what_does_not_fit_into_memory_is_marked_by_val_too(network, data_root, command, monkeypatch, tmp_path):
    monkeypatch.setenv("RUNS_DIR", str(tmp_path / "runs"))
    settings = ("val.mode=ss", "val.window=[32,32]", "val.extremes=0")
    forecast = Forecast(open_trained(network, settings))
    needed = forecast.frugal.needed(forecast.network, Way(1, forecast.predictor), (64, 96))
    monkeypatch.setattr("lib.base.memory.available_bytes", lambda: int(0.95 * needed / 0.8))
    words = (f"data.root={data_root}", f"checkpoint={network}", *WORDS[:-1], *settings)
    done = command("val", "tag=v", *words)
    assert done.status == 0 and (done.stdout + done.stderr).count("take its place, with other results") == 1
    (metrics,) = (tmp_path / "runs").rglob("val/metrics.json")
    expected = [{"size": [96, 64], "window": [32, 32]}]
    assert json.loads(metrics.read_text())["windows_for_want_of_memory"] == expected


def test_a_checkpoint_of_no_network_is_named(predict, pictures, tmp_path, monkeypatch):
    torch.save({"a": 1}, tmp_path / "none.pth")
    monkeypatch.setattr(sys, "argv", ["main.py", "predict", str(tmp_path / "none.pth"), str(pictures), "--out", "x"])
    assert main.main() == 2
