"""One's own data in miniature: the same images and labels in every form that people have them in."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco

import main

SIZE = (24, 32)
"""Height and width."""
COLOURS = np.array([[0, 0, 0], [128, 64, 128], [70, 70, 70], [220, 20, 60]], np.uint8)
"""Of ids 0..3, in RGB; not in the order of the ids when they are sorted."""
NAMES = ("background", "road", "building", "person")


def label(seed: int, top: int = 3) -> np.ndarray:
    """A label, uint8 [24, 32]: rectangles of ids 1..top on 0."""
    rng = np.random.default_rng(seed)
    ids = np.zeros(SIZE, np.uint8)
    for number in range(1, top + 1):
        y, x = rng.integers(1, 12, 2)
        ids[y : y + rng.integers(4, 10), x : x + rng.integers(6, 16)] = number
    return ids


def image(seed: int) -> np.ndarray:
    """A photo, uint8 [24, 32, 3]."""
    return np.random.default_rng(1000 + seed).integers(0, 256, (*SIZE, 3), np.uint8)


def put(path: Path, pixels: np.ndarray) -> None:
    """Write an image; colours are RGB, whatever the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)


def put_palette(path: Path, ids: np.ndarray, colours: np.ndarray = COLOURS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(ids).convert("P")
    picture.putpalette(colours.ravel().tolist())
    picture.putdata(ids.ravel().tolist())
    picture.save(path)


def make(root: Path, form: str = "ids", count: int = 5, labels: list[np.ndarray] | None = None) -> tuple[Path, Path]:
    """Images and labels of ``form`` below ``root``; returns what --images and --labels are given."""
    labels = [label(seed) for seed in range(count)] if labels is None else labels
    for at, ids in enumerate(labels):
        put(root / "images" / f"photo_{at}.png", image(at)[: ids.shape[0], : ids.shape[1]])
    folder = root / "labels"
    if form.startswith("coco"):
        write_coco(root / "labels.json", labels, form)
        return root / "images", root / "labels.json"
    for at, ids in enumerate(labels):
        name = f"photo_{at}"
        if form == "ids":
            put(folder / f"{name}.png", ids)
        elif form == "colours":
            put(folder / f"{name}_mask.png", COLOURS[ids])
        elif form == "palette":
            put_palette(folder / f"{name}.png", ids)
        elif form == "grey in rgb":
            put(folder / f"{name}_gt.bmp", np.repeat(ids[..., None], 3, 2))
        elif form == "16 bit":
            put(folder / f"{name}.png", ids.astype(np.uint16) * 1000)
        elif form == "tiff":
            put(folder / f"{name}.tif", ids.astype(np.uint16))
        elif form == "npy":
            put(folder / f"{name}.npy", ids.astype(np.int64))
        elif form == "folders":
            for number in range(1, len(NAMES)):
                put(folder / NAMES[number] / f"{name}.png", (ids == number) * np.uint8(255))
        else:
            raise AssertionError(form)
    return root / "images", folder


def write_coco(path: Path, labels: list[np.ndarray], form: str) -> None:
    """COCO's JSON with polygons as OpenCV traces them, or with runs, compressed or not."""
    content = {"images": [], "annotations": [], "categories": []}
    top = max(len(NAMES), *(int(ids.max()) + 1 for ids in labels))
    for number in range(1, top):
        name = NAMES[number] if number < len(NAMES) else f"class_{number}"
        content["categories"].append({"id": number, "name": name, "isthing": number % 2})
    for at, ids in enumerate(labels):
        height, width = ids.shape
        content["images"].append({"id": at, "file_name": f"photo_{at}.png", "height": height, "width": width})
        for number in np.unique(ids[ids > 0]).tolist():
            mask = (ids == number).astype(np.uint8)
            common = {"image_id": at, "category_id": number, "id": len(content["annotations"])}
            content["annotations"].append(common | {"segmentation": segmentation(mask, form), "area": int(mask.sum())})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def segmentation(mask: np.ndarray, form: str) -> object:
    if form == "coco polygons":
        # Centres of the outermost pixels; the corner of the first pixel is (0, 0).
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        polygons = [(contour[:, 0] + 0.5).ravel().tolist() for contour in contours]
        return [polygon * (1 if len(polygon) >= 6 else 3) for polygon in polygons]
    runs = coco.encode(np.asfortranarray(mask))
    if form == "coco runs":
        return {"size": list(mask.shape), "counts": runs["counts"].decode()}
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    lengths = np.diff(np.concatenate([[0], edges, [len(flat)]]))
    return {"size": list(mask.shape), "counts": lengths.tolist()}


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder, but for those whose text has paths or pictures of the source."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.name not in ("report.html", "sources.csv")
    }


def prepared(folder: Path) -> dict[str, np.ndarray]:
    """The prepared labels by stem, of all splits."""
    return {path.stem: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in folder.glob("*/label/*.png")}


class NewDataset:
    """``main.py new-dataset`` in this process."""

    def __init__(self, monkeypatch, capfd) -> None:
        self.monkeypatch, self.capfd = monkeypatch, capfd

    def __call__(self, images: Path | None, labels: Path | None, dst: Path, *words: object) -> tuple[int, str, str]:
        folders = ["--images", images] * (images is not None) + ["--labels", labels] * (labels is not None)
        words = ["main.py", "new-dataset", *folders, "--dst", dst, "--workers", "1", *words]
        self.monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        self.capfd.readouterr()
        try:
            status = main.main()
        except SystemExit as end:
            status = end.code
        return status, *self.capfd.readouterr()

    def error(self, *words: object) -> str:
        """The one line of a mistake."""
        status, _, err = self(*words)
        lines = err.splitlines()
        assert status == 2 and len(lines) == 1 and lines[0].startswith("error: "), (status, err)
        return lines[0]
