"""Raw downloads in miniature, and the preprocessing commands as a user runs them."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco
from scipy.io import savemat

ROOT = Path(__file__).parents[1]
FRAME = "aachen_000000_000019"
CONTEXT = """
    2 aeroplane, 9 bag, 18 bed, 19 bedclothes, 22 bench, 23 bicycle, 25 bird, 31 boat, 33 book, 34 bottle, 44
    building, 45 bus, 46 cabinet, 59 car, 65 cat, 68 ceiling, 72 chair, 80 cloth, 85 computer, 98 cow, 104 cup,
    105 curtain, 113 dog, 115 door, 144 fence, 158 floor, 159 flower, 162 food, 187 grass, 189 ground, 207 horse,
    220 keyboard, 232 light, 258 motorbike, 259 mountain, 260 mouse, 284 person, 295 plate, 296 platform, 308
    pottedplant, 324 road, 326 rock, 347 sheep, 349 shelves, 354 sidewalk, 355 sign, 360 sky, 366 snow, 368 sofa,
    397 table, 415 track, 416 train, 420 tree, 424 truck, 427 tvmonitor, 440 wall, 445 water, 454 window, 458 wood
"""
CONTEXT_CATEGORIES = [(int(entry.split()[0]), entry.split()[1]) for entry in CONTEXT.split(",")]
"""Number and name of labels 1..59 among the 459 categories of PASCAL Context, as published."""
CONTEXT_SIZE = (16, 12)


def start(dataset: str, src: Path, dst: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", f"datasets.seg.preprocess.{dataset}", "--src", src, "--dst", dst, *options]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # background jobs inherit it ignored
    )


def preprocess(dataset: str, src: Path, dst: Path, *options: str) -> tuple[int, str, list[str]]:
    """Exit status, standard output, and the lines of standard error."""
    process = start(dataset, src, dst, *options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err.splitlines()


def write_pair(image: Path, label: Path | None, size: tuple[int, int] = (12, 8), top_id: int = 11) -> None:
    """A random image and a label with ids 0..top_id, ``size`` (width, height)."""
    rng = np.random.default_rng(len(str(image)))
    for path, pixels in (
        (image, rng.integers(0, 256, (size[1], size[0], 3), np.uint8)),
        (label, np.resize(np.arange(top_id + 1, dtype=np.uint8), (size[1], size[0]))),
    ):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)


def make_cityscapes(raw: Path) -> Path:
    """Three training frames in two cities, one val frame, one test frame with the blank label as published."""
    for split, frame in (
        ("train", FRAME),
        ("train", "aachen_000001_000019"),
        ("train", "bochum_000000_000313"),
        ("val", "frankfurt_000000_000294"),
        ("test", "berlin_000000_000019"),
    ):
        city = frame.split("_")[0]
        label = raw / "gtFine" / split / city / f"{frame}_gtFine_labelIds.png"
        write_pair(raw / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png", label, top_id=33)
        label.with_name(f"{frame}_gtFine_color.png").write_bytes(b"never read")
    return raw


def make_camvid(raw: Path, count: int = 3) -> Path:
    for split in ("train", "val", "test"):
        for index in range(count):
            suffix = ("png", "jpg")[index % 2]
            write_pair(
                raw / split / f"{split}_{index:04d}.{suffix}", raw / f"{split}annot" / f"{split}_{index:04d}.png"
            )
    return raw


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and modification time of every file under ``folder``, hidden ones included."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def random_label(seed: int, ids: list[int], size: tuple[int, int] = (12, 8)) -> np.ndarray:
    """Label ids, uint8 [H, W], in patches; every one of ``ids`` occurs."""
    width, height = size
    label = np.random.default_rng(seed).choice(ids, (height, width)).astype(np.uint8)
    label.flat[: len(ids)] = ids
    return label


def write_lists(folder: Path, **names: list[str]) -> None:
    """One list of names a split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, listed in names.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in listed))


def make_voc(raw: Path) -> dict[str, np.ndarray]:
    """VOC 2012 with three training images, one val image and one test image; returns the labels by name."""
    write_lists(raw / "ImageSets" / "Segmentation", train=["a", "b", "c"], val=["v"], test=["t"])
    palette = np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes()
    (raw / "SegmentationClass").mkdir()
    labels = {}
    for seed, name in enumerate(("a", "b", "c", "v", "t")):
        write_pair(raw / "JPEGImages" / f"{name}.jpg", None)
        if name != "t":
            labels[name] = random_label(seed, [*range(21), 255])
            image = Image.fromarray(labels[name], "P")
            image.putpalette(palette)
            image.save(raw / "SegmentationClass" / f"{name}.png")
    return labels


def write_sbd(path: Path, label: np.ndarray) -> None:
    """A file of SBD: a structure that holds boundaries, the segmentation and the list of its categories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.empty((20, 1), object)
    boundaries[:] = [[np.zeros(label.shape, np.uint8)]] * 20
    present = np.unique(label[label > 0])[:, None]
    structure = {"Boundaries": boundaries, "Segmentation": label, "CategoriesPresent": present}
    savemat(path, {"GTcls": structure}, do_compression=True)


def make_sbd(raw: Path) -> dict[str, np.ndarray]:
    """SBD with VOC's ``a`` and ``v`` among its images; returns the labels by name."""
    write_lists(raw / "dataset", train=["a", "s"], val=["v", "only_sbd"])
    labels = {name: random_label(seed, list(range(21))) for seed, name in enumerate(("a", "s", "v", "only_sbd"), 10)}
    for name, label in labels.items():
        write_sbd(raw / "dataset" / "cls" / f"{name}.mat", label)
        write_pair(raw / "dataset" / "img" / f"{name}.jpg", None)
    return labels


def segment(image_id: int, category: int, mask: np.ndarray) -> dict:
    """An annotation of PASCAL in Detail, its mask encoded by COCO's own library."""
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    segmentation = {"size": list(mask.shape), "counts": encoded["counts"].decode()}
    return {"image_id": image_id, "category_id": category, "segmentation": segmentation}


def context_labels() -> dict[str, np.ndarray]:
    """Labels of two training images and one val image, by name."""
    names = ("2008_000002", "2008_000003", "2008_000004")
    return {name: random_label(seed, list(range(60)), CONTEXT_SIZE) for seed, name in enumerate(names)}


def make_context_json(raw: Path) -> dict[str, np.ndarray]:
    """PASCAL Context as PASCAL in Detail publishes it, one test image there and one not; returns the labels by name."""
    labels = context_labels()
    images, annotations = [], []
    for image_id, name in enumerate([*labels, "2008_000005", "2008_000006"], start=2008000002):
        phase = {"2008_000004": "val", "2008_000005": "test", "2008_000006": "test"}.get(name, "train")
        width, height = CONTEXT_SIZE
        image = {"image_id": image_id, "file_name": f"{name}.jpg", "width": width, "height": height, "phase": phase}
        images.append(image)
        if name != "2008_000006":
            write_pair(raw / "JPEGImages" / f"{name}.jpg", None, size=CONTEXT_SIZE)
        for label, (category, _) in enumerate(CONTEXT_CATEGORIES if name in labels else (), start=1):
            annotations.append(segment(image_id, category, labels[name] == label))
    (raw / "trainval_merged.json").write_text(json.dumps({"images": images, "annos_segmentation": annotations}))
    return labels


def make_context_mat(raw: Path) -> dict[str, np.ndarray]:
    """PASCAL Context as its authors publish it; returns the labels by name."""
    labels = context_labels()
    write_lists(raw / "ImageSets" / "Main", train=[*labels][:2], val=[*labels][2:])
    names = {number: f"category {number}" for number in range(1, 460)} | dict(CONTEXT_CATEGORIES)
    (raw / "labels.txt").write_text("".join(f"{number}: {name}\n" for number, name in names.items()))
    (raw / "trainval").mkdir()
    others = sorted(names.keys() - dict(CONTEXT_CATEGORIES).keys())
    for name, label in labels.items():
        write_pair(raw / "JPEGImages" / f"{name}.jpg", None, size=CONTEXT_SIZE)
        categories = np.random.default_rng(0).choice(others, label.shape).astype(np.uint16)
        for value, (category, _) in enumerate(CONTEXT_CATEGORIES, start=1):
            categories[label == value] = category
        savemat(raw / "trainval" / f"{name}.mat", {"LabelMap": categories}, do_compression=True)
    return labels


def change_json(raw: Path, change: Callable[[dict], None]) -> None:
    """Change what ``make_context_json`` wrote."""
    path = raw / "trainval_merged.json"
    detail = json.loads(path.read_text())
    change(detail)
    path.write_text(json.dumps(detail))
