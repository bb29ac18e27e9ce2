"""DATA_DIR as one zip: the same samples as the folder, read in place by many workers, and what is wrong with a zip."""

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.seg.archive import Archive, ZipPath
from datasets.seg.augment import Augmentation
from datasets.seg.classes import load_table
from datasets.seg.dataset import EvalDataset, Pixels, Sample, TrainDataset, has_labels, list_samples
from lib.base.errors import UserError
from lib.engine.loader import eval_loader, train_loader

PIXELS = Pixels("bgr", mean=(102.9801, 115.9465, 122.7717), std=(1.0, 1.0, 1.0))
TABLE = load_table("cityscapes")
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def pack(folder: Path, path: Path, *, top: str = "", compression: int = STORED) -> Path:
    """Zip the contents of ``folder`` below ``top``, folders and what macOS adds included."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, top + file.relative_to(folder).as_posix())
        archive.writestr("__MACOSX/train/image/._a.png", b"added")
        archive.writestr(f"{top}.DS_Store", b"added")
    return path


def items(root: Path) -> list[dict]:
    """Whole images of val, then the crops of train in two epochs."""
    train = TrainDataset(list_samples(root, "train"), TABLE, PIXELS, Augmentation(crop_size=(64, 48)), seed=0)
    val = EvalDataset(list_samples(root, "val"), TABLE, PIXELS)
    crops = [train[(epoch, index)] for epoch in range(2) for index in range(len(train))]
    return [val[index] for index in range(len(val))] + crops


@pytest.mark.parametrize("compression", [STORED, DEFLATED])
@pytest.mark.parametrize("top", ["", "prepared data/"])
def test_a_zip_holds_the_samples_of_its_folder(data_root, tmp_path, top, compression):
    root = pack(data_root, tmp_path / "data.zip", top=top, compression=compression)
    for ours, theirs in zip(items(root), items(data_root), strict=True):
        assert torch.equal(ours["image"], theirs["image"]) and torch.equal(ours["label"], theirs["label"])
        inside = Path(theirs["meta"]["label"]).relative_to(data_root).as_posix()
        assert ours["meta"] == theirs["meta"] | {
            "image": f"{root}!{top}{inside.replace('/label/', '/image/')}",
            "label": f"{root}!{top}{inside}",
        }
    assert [sample.name for sample in list_samples(root, "test", labelled=False)] == [
        sample.name for sample in list_samples(data_root, "test", labelled=False)
    ]
    assert has_labels(root, "val") and not has_labels(root, "test")


def test_a_zip_of_one_split_needs_no_other(data_root, tmp_path):
    (tmp_path / "only").mkdir()
    shutil.copytree(data_root / "val", tmp_path / "only" / "val")
    assert len(list_samples(pack(tmp_path / "only", tmp_path / "data.zip"), "val")) == 3


def contents(samples: list[Sample]) -> list[bytes]:
    """The images, which are read again and again while others read too."""
    for _ in range(30):
        found = [sample.image.read_bytes() for sample in samples]
    return found


def inherited_contents(_job: int) -> list[bytes]:
    return contents(INHERITED)


INHERITED: list[Sample] = []
"""Samples that forked processes find, their file open."""


def test_forked_processes_and_threads_share_one_open_file(data_root, tmp_path, monkeypatch):
    samples = list_samples(pack(data_root, tmp_path / "data.zip", compression=DEFLATED), "train")
    expected = [path.read_bytes() for path in sorted((data_root / "train/image").iterdir())]
    monkeypatch.setitem(globals(), "INHERITED", samples)
    with torch.multiprocessing.get_context("fork").Pool(4) as pool:
        assert all(found == expected for found in pool.map(inherited_contents, range(16), chunksize=1))
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(contents, [samples] * 16))


def test_a_spawned_process_opens_the_file_itself(data_root, tmp_path):
    samples = list_samples(pack(data_root, tmp_path / "data.zip"), "train")
    with torch.multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(contents, [samples])
    assert found == [path.read_bytes() for path in sorted((data_root / "train/image").iterdir())]


def test_the_loaders_give_the_same_batches_whatever_the_workers(data_root, tmp_path):
    root = pack(data_root, tmp_path / "data.zip")
    batches = {}
    for name, place, workers in (("folder", data_root, 0), ("zip", root, 2)):
        train = TrainDataset(list_samples(place, "train"), TABLE, PIXELS, Augmentation(crop_size=(64, 48)), seed=0)
        with train_loader(train, batch_size=2, iterations=5, seed=0, workers=workers) as loader:
            batches[name] = [batch["image"] for batch in loader]
        with eval_loader(EvalDataset(list_samples(place, "val"), TABLE, PIXELS), workers=workers) as loader:
            batches[name] += [batch["image"] for batch in loader]
    assert len(batches["zip"]) == 8
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*batches.values(), strict=True))


def test_a_zip_is_read_as_it_was_when_it_was_listed(data_root, tmp_path):
    root = pack(data_root, tmp_path / "data.zip")
    samples = list_samples(root, "train")
    expected = samples[0].image.read_bytes()
    shutil.copy(pack(data_root, tmp_path / "other.zip", top="x/"), tmp_path / "new.zip")
    os.replace(tmp_path / "new.zip", root)
    assert samples[0].image.read_bytes() == expected


def test_pickled_samples_share_one_index(data_root, tmp_path):
    samples = list_samples(pack(data_root, tmp_path / "data.zip"), "train")
    copies = pickle.loads(pickle.dumps(samples))
    assert len({id(path.archive) for sample in copies for path in (sample.image, sample.label)}) == 1
    assert copies[0].image.read_bytes() == samples[0].image.read_bytes()


def test_offsets_beyond_4_gib_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for name in ("a", "b"):
            archive.writestr(f"train/image/{name}.png", name.encode() * 100)
    monkeypatch.undo()
    assert ZipPath(Archive(tmp_path / "data.zip"), "train/image/b.png").read_bytes() == b"b" * 100


# Mistakes


def text(path: Path) -> None:
    path.write_text("not a zip")


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def encrypted(path: Path) -> None:
    """Set the flag of every member in the directory, as an encrypting tool does."""
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        content[at + 8] |= 1
        at = content.find(b"PK\x01\x02", at + 4)
    path.write_bytes(content)


def packed_by_bzip2(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train/image/z.png", b"0" * 100, zipfile.ZIP_BZIP2)


def without_members(path: Path) -> None:
    with zipfile.ZipFile(path, "w"):
        pass


def of_a_raw_download(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("leftImg8bit/train/aachen/a.png", b"")
        archive.writestr("gtFine/train/aachen/a.png", b"")


def without_a_label(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train/image/z.png", b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (text, "data.zip is not a zip file"),
        (cut_off, "data.zip is not a zip file, damaged or cut off"),
        (encrypted, r"data.zip!test/image/\S+ is encrypted: .*without a password"),
        (packed_by_bzip2, r"data.zip!train/image/z.png is neither stored nor deflated.*zip -0"),
        (without_members, "DATA_DIR .*data.zip is empty.*prepare the data"),
        (of_a_raw_download, "there are no train images: .*data.zip!train/image is not a folder.*prepare the data"),
        (without_a_label, "data.zip!train/image/z.png has no label in .*data.zip!train/label"),
    ],
)
def test_a_zip_that_cannot_be_used_is_refused_when_it_is_listed(data_root, tmp_path, damage: Callable, message: str):
    root = pack(data_root, tmp_path / "data.zip")
    damage(root)
    with pytest.raises(UserError, match=message):
        list_samples(root, "train")


@pytest.mark.parametrize("compression", [STORED, DEFLATED])
@pytest.mark.parametrize("place", ["header", "data"])
def test_a_damaged_member_is_refused_by_name_when_it_is_read(data_root, tmp_path, compression, place):
    root = pack(data_root, tmp_path / "data.zip", compression=compression)
    sample = list_samples(root, "train")[1]
    with zipfile.ZipFile(root) as archive:
        offset = archive.getinfo(sample.image.inside).header_offset
    with root.open("r+b") as file:
        file.seek(offset + (200 if place == "data" else 0))
        file.write(np.random.default_rng(0).bytes(20))
    with pytest.raises(UserError, match=f"data.zip!{sample.image.inside} is damaged"):
        EvalDataset([sample], TABLE, PIXELS)[0]
    assert list_samples(root, "train")[0].image.read_bytes()


def test_a_member_before_the_beginning_of_the_file_is_refused(data_root, tmp_path):
    root = pack(data_root, tmp_path / "data.zip")
    root.write_bytes(root.read_bytes()[5000:])
    with pytest.raises(UserError, match=r"data.zip.* (cannot be read|is not a zip)"):
        EvalDataset(list_samples(root, "test", labelled=False), TABLE, PIXELS)[0]


def test_training_on_a_zip_gives_the_losses_of_its_folder(train, runs, data_root, tmp_path):
    root = pack(data_root, tmp_path / "data.zip")
    for tag, data in (("folder", data_root), ("zip", root)):
        outcome = train(tag, data=data)
        assert outcome.status == 0, outcome.stderr
    assert runs("zip").figures == runs("folder").figures
    (tmp_path / "bad.zip").write_bytes(root.read_bytes()[:5000])
    assert "bad.zip is not a zip file" in train("bad", data=tmp_path / "bad.zip").error
