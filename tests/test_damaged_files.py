"""Damaged, forged and strange files end in what another reader reads or in one line, never in a crash or a wait."""

import io
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import damage
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from raw_layouts import change_json, contents, make_camvid, make_context_json, make_voc, preprocess, start, write_pair
from scipy.io import savemat

from datasets.seg import files
from datasets.seg.archive import open_root
from datasets.seg.dataset import list_samples
from datasets.seg.files import read_image, read_label
from datasets.seg.jpeg import JpegError, check_whole
from datasets.seg.preprocess.matlab import read_matlab
from datasets.seg.preprocess.runner import LabelError
from datasets.seg.preprocess.runs import decode_counts, decode_runs
from lib.base.errors import UserError
from lib.base.lock import only_process
from lib.base.names import printable, shortened
from lib.base.regular import read_regular

ROOT = Path(__file__).parents[1]


def run_campaign(kind: str, count: int, seed: int, seconds: float) -> None:
    command = [sys.executable, ROOT / "tests" / "damage.py", kind, str(count), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, f"{kind}, seed {seed}: {done.stderr.splitlines()[-1]}"


@pytest.mark.parametrize("kind", damage.FILES)
def test_damaged_files_are_read_as_by_others_or_refused(kind):
    run_campaign(kind, count=150, seed=11, seconds=60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", damage.FILES)
def test_thousands_of_damaged_files_are_read_as_by_others_or_refused(kind, seed):
    run_campaign(kind, count=1000, seed=seed, seconds=600)


# JPEG


JPEGS = dict(
    zip(
        ("4:2:0", "4:4:4", "optimised", "restarts", "progressive", "grey"),
        damage.jpeg_files(np.random.default_rng(0)),
        strict=True,
    )
)


def scan_ends(content: bytes) -> int:
    return content.rindex(b"\xff\xd9")


@pytest.mark.parametrize("name", JPEGS)
def test_a_whole_jpeg_is_whole_whatever_its_size(name):
    check_whole(JPEGS[name])
    rng = np.random.default_rng(0)
    for size in ((1, 1), (3, 70), (16, 16), (17, 33), (64, 8)):
        options = {"progressive": True} if name == "progressive" else {}
        options |= {"restart_marker_blocks": 2} if name == "restarts" else {}
        file = io.BytesIO()
        Image.fromarray(damage.scene(rng, *size)).save(file, "jpeg", **options)
        check_whole(file.getvalue() + b"what follows the end is of no concern")


@pytest.mark.parametrize("level", [0, 127, 128, 255])
def test_a_flat_jpeg_is_whole(level):
    file = io.BytesIO()
    Image.fromarray(np.full((40, 56, 3), level, np.uint8)).save(file, "jpeg")
    check_whole(file.getvalue())


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_cut_anywhere_and_ended_by_a_marker_is_refused_or_has_the_same_pixels(name):
    content = JPEGS[name]
    end, refused = scan_ends(content), 0
    start = max(content.index(b"\xff\xda"), end - 400)
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    for cut in range(start, end):
        ended = content[:cut] + b"\xff\xd9"
        try:
            check_whole(ended)
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(ended))), pixels), cut
        except JpegError as error:
            assert str(error) in ("truncated", "damaged")
            refused += 1
    assert refused >= 0.98 * (end - start)


def test_a_jpeg_cut_and_ended_is_named_by_training_and_by_preparing(tmp_path, capfd):
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEGS["4:2:0"][: scan_ends(JPEGS["4:2:0"]) // 2] + b"\xff\xd9")
    with pytest.raises(UserError, match=r"a.jpg is truncated: copy or prepare it again"):
        read_image(path)
    assert capfd.readouterr().err == "", "libjpeg says so on standard error, where one line is promised"
    raw = make_camvid(tmp_path / "raw", count=2)
    (raw / "train" / "train_0001.jpg").write_bytes(path.read_bytes())
    status, _, err = preprocess("camvid", raw, tmp_path / "dst")
    assert status == 1 and len(err) == 1 and "cannot read image" in err[0] and "train_0001.jpg" in err[0]


def test_a_jpeg_is_checked_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr(files, "check_whole", checked.append)
    path = tmp_path / "a.jpg"
    for content, expected in ((JPEGS["grey"], 1), (None, 1), (JPEGS["4:4:4"], 2)):
        if content:
            path.write_bytes(content)
        read_image(path)
        assert len(checked) == expected


def test_other_formats_are_no_images_whatever_their_name(tmp_path):
    for format in ("bmp", "tiff", "webp"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png", format)
        with pytest.raises(UserError, match="not a readable PNG or JPEG"):
            read_image(tmp_path / "a.png")


# Files that are none


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_folder(path: Path) -> None:
    path.mkdir()


def make_huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("make", [make_fifo, link_to_zeros, make_folder, make_huge])
def test_what_is_no_file_of_a_sane_size_is_refused_at_once(tmp_path, make):
    folder = tmp_path / "train" / "image"
    folder.mkdir(parents=True)
    make(folder / "x.png")
    for read in (read_regular, read_image, read_label):
        with pytest.raises(UserError, match=r"x.png"):
            read(folder / "x.png")
    if make is not make_huge:
        with pytest.raises(UserError, match=r"x.png is not a file that can be read"):
            list_samples(tmp_path, "train", labelled=False)


@pytest.mark.parametrize("make", [make_fifo, link_to_zeros, make_huge])
def test_preparing_and_evaluating_do_not_wait_for_what_is_no_file(tmp_path, make):
    raw = make_camvid(tmp_path / "raw", count=1)
    (raw / "train" / "train_0000.png").unlink()
    make(raw / "train" / "train_0000.png")
    status, _, err = preprocess("camvid", raw, tmp_path / "dst")
    assert status == 1 and len(err) == 1 and "train_0000.png" in err[0]
    make_voc(tmp_path / "voc")
    listed = tmp_path / "voc/ImageSets/Segmentation/val.txt"
    listed.unlink()
    make(listed)
    status, _, err = preprocess("pascal_voc", tmp_path / "voc", tmp_path / "dst voc")
    assert status == 2 and len(err) == 1 and "val.txt" in err[0]
    status, err = evaluate(raw / "trainannot", raw / "trainannot", "camvid")
    assert status == 0
    make(raw / "trainannot" / "x.png")
    status, err = evaluate(raw / "trainannot", raw / "trainannot", "camvid")
    assert status == 2 and len(err) == 1 and "x.png" in err[0]


def evaluate(predictions: Path, truths: Path, dataset: str) -> tuple[int, list[str]]:
    command = [sys.executable, "main.py", "evaluate", "--pred", predictions, "--gt", truths, "--dataset", dataset]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stderr.splitlines()


# What must not be passed over


def test_labels_are_evaluated_whatever_the_case_of_their_suffix_and_in_linked_folders(tmp_path):
    from lib.scores.folders import find_pairs

    for folder in ("pred", "gt"):
        for name in ("a.png", "b.PNG", "c.Png"):
            write_pair(tmp_path / folder / f"{folder}.jpg", tmp_path / folder / name.lower())
            (tmp_path / folder / name.lower()).rename(tmp_path / folder / name)
    write_pair(tmp_path / "elsewhere" / "x.jpg", tmp_path / "elsewhere" / "d.png")
    for folder in ("pred", "gt"):
        (tmp_path / folder / "city").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "again").unlink(missing_ok=True)
        (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    assert [pair.truth.stem for pair in find_pairs(tmp_path / "pred", tmp_path / "gt", "camvid")] == list("abcd")
    (tmp_path / "pred" / "b.PNG").unlink()
    with pytest.raises(UserError, match=r"b.PNG has no prediction"):
        find_pairs(tmp_path / "pred", tmp_path / "gt", "camvid")


def test_preparing_takes_suffixes_in_capitals(tmp_path):
    raw = make_camvid(tmp_path / "raw", count=1)
    (raw / "train/train_0000.png").rename(raw / "train/train_0000.PNG")
    (raw / "trainannot/train_0000.png").rename(raw / "trainannot/train_0000.PNG")
    write_pair(raw / "train/second.jpeg", raw / "trainannot/second.png")
    status, out, err = preprocess("camvid", raw, tmp_path / "dst")
    assert (status, err) == (0, []) and "train 2 images, 2 labels" in out


@pytest.mark.parametrize("bits, colours", [(8, 200), (4, 16), (2, 4), (1, 2)])
def test_indices_of_a_palette_are_pillows(tmp_path, bits, colours):
    image = Image.fromarray(damage.scene(np.random.default_rng(bits))[..., 0]).quantize(colours)
    image.save(tmp_path / "a.png", bits=bits)
    np.testing.assert_array_equal(read_label(tmp_path / "a.png", indices=True), np.asarray(image))


# Names


def test_names_of_240_letters_are_prepared_and_names_that_are_not_utf8_refused(tmp_path):
    raw, long = make_camvid(tmp_path / "raw", count=1), "x" * 240
    write_pair(raw / "train/a.jpeg", raw / "trainannot/a.png")
    (raw / "train/a.jpeg").rename(raw / f"train/{long}.jpeg")
    (raw / "trainannot/a.png").rename(raw / f"trainannot/{long}.png")
    for options in ((), ("--link",)):
        status, out, err = preprocess("camvid", raw, tmp_path / f"dst{len(options)}", *options)
        assert (status, err) == (0, []) and "train 2 images, 2 labels" in out
    strange = os.fsdecode(b"caf\xe9.png")
    (raw / "val/val_0000.png").rename(raw / "val" / strange)
    (raw / "valannot/val_0000.png").rename(raw / "valannot" / strange)
    status, _, err = preprocess("camvid", raw, tmp_path / "dst")
    assert status == 1 and len(err) == 1 and re.search(r"caf\\udce9.png is not UTF-8 .*: rename it", err[0])
    (raw / "val").rename(raw / "valimage")
    (tmp_path / "data/train").mkdir(parents=True)
    (raw / "valimage").rename(tmp_path / "data/train/image")
    with pytest.raises(UserError, match=r"caf\\udce9.png is not UTF-8 .*: rename it"):
        list_samples(tmp_path / "data", "train", labelled=False)


def test_names_are_shortened_to_what_file_systems_take():
    assert shortened("short", ".jpg") == "short.jpg"
    assert len(shortened("ü" * 200, ".jpg").encode()) <= 255
    assert printable("a\nb\udce9") == "a\\nb\\udce9"


def test_lists_may_hold_names_that_no_file_can_have(tmp_path):
    make_voc(tmp_path / "raw")
    listed = tmp_path / "raw/ImageSets/Segmentation/train.txt"
    listed.write_bytes(listed.read_bytes() + b"a\0b\n" + b"x" * 300 + b"\n\xff\xfe\n")
    status, _, err = preprocess("pascal_voc", tmp_path / "raw", tmp_path / "dst")
    assert status == 1 and len(err) == 3 and all(line.startswith("problem: ") for line in err)


# Runs


def test_runs_are_decoded_as_by_coco():
    rng = np.random.default_rng(0)
    for height, width, level in ((1, 1, 0.5), (1, 900, 0.01), (700, 3, 0.5), (40, 56, 0.001), (333, 444, 0.3)):
        for mask in (rng.random((height, width)) < level, np.zeros((height, width)), np.ones((height, width))):
            encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
            segment = {"size": [height, width], "counts": encoded["counts"].decode()}
            np.testing.assert_array_equal(decode_runs(segment, (height, width)), mask.astype(bool))


@pytest.mark.parametrize("counts", [b"", b"P", b"o" * 9, b"\x7f", b" ", b"oooooooooooo1"])
def test_forged_counts_are_no_runs(counts):
    assert decode_counts(counts) is None


def test_negative_runs_that_sum_up_to_the_image_are_refused():
    for counts in ("O14O1", "0n12O1"):
        with pytest.raises(LabelError, match="runs that do not fill the image"):
            decode_runs({"size": [4, 4], "counts": counts}, (4, 4))


@pytest.mark.parametrize("size", [1 << 20, "12", None, [1]])
def test_an_annotation_of_an_impossible_image_is_refused(tmp_path, size):
    raw = tmp_path / "raw"
    make_context_json(raw)
    change_json(raw, lambda detail: detail["images"][0].update(height=size, width=size))
    status, _, err = preprocess("pascal_context", raw, tmp_path / "dst")
    assert status == 2 and len(err) == 1 and "is not PASCAL in Detail's" in err[0]


def test_a_json_nested_without_end_is_refused(tmp_path):
    make_context_json(tmp_path / "raw")
    (tmp_path / "raw/trainval_merged.json").write_text('{"images": ' + "[" * 200_000)
    status, _, err = preprocess("pascal_context", tmp_path / "raw", tmp_path / "dst")
    assert status == 2 and len(err) == 1 and "is not PASCAL in Detail's" in err[0]


# MATLAB


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint32, np.int64, np.float32, np.float64])
def test_matlab_files_are_read_as_by_scipy(tmp_path, dtype, packed):
    label = np.random.default_rng(0).integers(0, 100, (7, 5)).astype(dtype)
    values = {"text": "before", "LabelMap": label, "GTcls": {"first": label[:2], "Segmentation": label.T}}
    savemat(tmp_path / "a.mat", values, do_compression=packed)
    np.testing.assert_array_equal(read_matlab(tmp_path / "a.mat", "LabelMap"), label)
    np.testing.assert_array_equal(read_matlab(tmp_path / "a.mat", "GTcls", "Segmentation"), label.T)
    for fields in (("LabelMap", "Segmentation"), ("GTcls", "third"), ("absent",)):
        with pytest.raises(LabelError, match="not a MATLAB file that holds"):
            read_matlab(tmp_path / "a.mat", *fields)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, 0.5, 1j])
def test_numbers_that_are_no_ids_are_refused(tmp_path, value):
    savemat(tmp_path / "a.mat", {"LabelMap": np.full((3, 3), value)})
    with pytest.raises(LabelError, match="is not a matrix of label ids"):
        read_matlab(tmp_path / "a.mat", "LabelMap")


# Zip


def test_a_zip_with_a_file_without_a_name_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("train/image/a.png", b"")
        archive.writestr("x", b"")
    forged = (tmp_path / "a.zip").read_bytes()
    at = forged.rindex(b"PK\x01\x02")
    name = forged.index(b"x", at)
    forged = bytearray(forged[:name] + forged[name + 1 :])
    forged[at + 28] = 0
    end = forged.rindex(b"PK\x05\x06")
    forged[end + 12] -= 1
    (tmp_path / "a.zip").write_bytes(forged)
    with pytest.raises(UserError, match=r"a.zip holds a file without a name: pack it again"):
        open_root(tmp_path / "a.zip")


# Two at once


def test_a_folder_is_prepared_by_one_process_at_a_time(tmp_path):
    raw, dst = make_camvid(tmp_path / "raw", count=2), tmp_path / "dst"
    dst.mkdir()
    (dst / "mine.part").write_bytes(b"")
    with only_process(dst, "held"):
        before = contents(dst)
        status, out, err = preprocess("camvid", raw, dst)
        assert (status, out) == (2, "") and len(err) == 1
        assert f"another process is preparing --dst {dst}" in err[0]
        assert contents(dst) == before
    assert preprocess("camvid", raw, dst)[0] == 0
    assert not (dst / ".lock").exists()


def test_of_processes_that_prepare_a_folder_together_one_at_least_ends_well(tmp_path):
    raw, dst = make_camvid(tmp_path / "raw", count=40), tmp_path / "dst"
    both = [start("camvid", raw, dst) for _ in range(2)]
    ends = [(process.communicate(timeout=60)[1].splitlines(), process.returncode) for process in both]
    assert sorted(status for _, status in ends)[0] == 0
    assert all(status == 0 or (status == 2 and len(err) == 1 and "another process" in err[0]) for err, status in ends)
    assert len(list(dst.rglob("*.*g"))) == 240


def test_a_killed_process_stops_nobody(tmp_path):
    code = "import sys, time; from pathlib import Path; from lib.base.lock import only_process\n"
    code += "with only_process(Path(sys.argv[1]), 'busy'): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="busy"), only_process(tmp_path, "busy"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (tmp_path / ".lock").exists()
    with only_process(tmp_path, "busy"):
        pass
    assert list(tmp_path.iterdir()) == []
