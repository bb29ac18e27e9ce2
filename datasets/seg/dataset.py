"""Reading the prepared layout ``DATA_DIR/{train,val,test}/{image,label}`` and turning its files into samples."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from datasets.seg.augment import Augmentation, Draw, draw, resize_image, resize_label
from datasets.seg.classes import IGNORE, UNKNOWN, ClassTable
from lib.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Sample:
    """One image of a split: its stem, its file, and the file of its label (None where labels are not asked for)."""

    name: str
    image: Path
    label: Path | None


@dataclass(frozen=True)
class Pixels:
    """How grey levels become the network's input: (level - mean) / std, channels in ``color_order``.

    Attributes:
        color_order: "bgr" or "rgb".
        mean, std: one number a channel, in that order, on the 0..255 scale.
    """

    color_order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.color_order not in ("bgr", "rgb"):
            raise UserError(f"color_order '{self.color_order}' is unknown: choose bgr or rgb")

    def normalise(self, image: np.ndarray, out: np.ndarray, shift: int = 0) -> None:
        """Write ``image`` (uint8 [H, W, 3], BGR), brightened by ``shift``, to ``out`` (float32 [3, H, W])."""
        levels = np.clip(np.arange(256.0) + shift, 0, 255)
        planes = cv2.split(image)
        if self.color_order == "rgb":
            planes = planes[::-1]
        for plane, mean, std, target in zip(planes, self.mean, self.std, out, strict=True):
            # There are 256 possible answers: one look-up does the shift, its saturation, and the normalisation.
            cv2.LUT(plane, ((levels - mean) / std).astype(np.float32), dst=target)


def list_samples(root: str | Path, split: str, labelled: bool = True) -> list[Sample]:
    """List the images of ``split`` ("train", "val" or "test"), sorted by name.

    Args:
        root: the DATA_DIR that preprocessing wrote.
        labelled: pair every image with its label; without, labels are not looked for.

    Raises:
        UserError: a folder is missing or empty, two images share a stem, or images and labels do not pair up.
    """
    remedy = "prepare the data with 'python -m datasets.seg.preprocess.<dataset> --src RAW --dst DATA_DIR'"
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"DATA_DIR {root} is not a folder: {remedy}")
    if not any(root.iterdir()):
        raise UserError(f"DATA_DIR {root} is empty: {remedy}")
    images = _files_by_stem(root / split / "image", IMAGE_SUFFIXES, f"{split} images", remedy)
    if not labelled:
        return [Sample(name, images[name], None) for name in sorted(images)]
    labels = _files_by_stem(root / split / "label", (".png",), f"{split} labels", remedy)
    for ours, others, missing in ((images, labels, "label"), (labels, images, "image")):
        alone = sorted(ours.keys() - others.keys())
        if alone:
            count = f" (nor have {len(alone) - 1} others)" if len(alone) > 1 else ""
            raise UserError(f"{ours[alone[0]]} has no {missing} in {root / split / missing}{count}: {remedy}")
    return [Sample(name, images[name], labels[name]) for name in sorted(images)]


def _files_by_stem(folder: Path, suffixes: tuple[str, ...], content: str, remedy: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"there are no {content}: {folder} is not a folder: {remedy}")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in files:
            raise UserError(f"{files[path.stem]} and {path.name} share one name: remove one of them")
        files[path.stem] = path
    if not files:
        raise UserError(f"there are no {content}: {folder} holds no {' or '.join(suffixes)} files: {remedy}")
    return files


def read_image(path: Path) -> np.ndarray:
    """Decode an image file to uint8 [H, W, 3], BGR; raises UserError if it is unreadable or cut off."""
    # Labels know nothing of a camera's orientation tag, so the pixels are taken as they are stored.
    return _decode(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def read_label(path: Path) -> np.ndarray:
    """Decode a label file to its ids, uint8 [H, W]; raises UserError if it is unreadable, cut off, or in colour."""
    label = _decode(path, cv2.IMREAD_UNCHANGED)
    if label.ndim != 2 or label.dtype != np.uint8:
        raise UserError(f"{path} is not a label: a label is an 8-bit PNG with one channel that holds label ids")
    return label


def _decode(path: Path, flags: int) -> np.ndarray:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    # Some OpenCV releases fill what is missing of a truncated file with grey and report no error.
    if _is_cut_off(content):
        raise UserError(f"{path} is truncated: copy or prepare it again")
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UserError(f"{path} is not a readable PNG or JPEG image: copy or prepare it again")
    return pixels


def _is_cut_off(content: bytes) -> bool:
    """Whether a PNG lacks its last chunk, or a JPEG an end-of-image marker after its last scan."""
    if content.startswith(b"\x89PNG"):
        return content.rfind(b"IEND\xae\x42\x60\x82") < 0
    if content.startswith(b"\xff\xd8"):
        # A thumbnail inside the header ends with a marker of its own, hence "after the last scan".
        return content.rfind(b"\xff\xd9") <= content.rfind(b"\xff\xda")
    return not content


def read_pair(sample: Sample) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode a sample's image (uint8 [H, W, 3], BGR) and label ids (uint8 [H, W]; None without a label).

    Raises:
        UserError: a file is unreadable or cut off, or the two differ in size.
    """
    if sample.label is None:
        return read_image(sample.image), None
    if get_worker_info() is None:
        image, label = read_image(sample.image), read_label(sample.label)
    else:
        # Decoding is most of a sample's time and holds no Python lock: a worker decodes the label beside the image.
        # The main process does not, because a fork would freeze OpenCV's locks as it finds them.
        decoding = _second_thread(os.getpid()).submit(read_label, sample.label)
        image, label = read_image(sample.image), decoding.result()
    if label.shape != image.shape[:2]:
        sizes = [f"{width} x {height}" for height, width in (image.shape[:2], label.shape)]
        raise UserError(f"{sample.image} is {sizes[0]} but its label {sample.label} is {sizes[1]}: prepare both again")
    return image, label


@cache
def _second_thread(_process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1)


def _train_ids(label: np.ndarray, table: ClassTable, path: Path) -> np.ndarray:
    """Look up the train ids, uint8 [H, W], of the label ids in ``label``; raises UserError for an unknown id."""
    train_ids = cv2.LUT(label, table.train_id_of)
    unknown = train_ids == UNKNOWN
    if unknown.any():
        raise UserError(f"label {label[unknown][0]} in {path} is not a {table.dataset} label id ({table.valid_ids})")
    return train_ids


def _meta(sample: Sample, image: np.ndarray) -> dict:
    label = None if sample.label is None else str(sample.label)
    return {"name": sample.name, "image": str(sample.image), "label": label, "size": image.shape[:2]}


class TrainDataset(Dataset):
    """Augmented crops for training. Everything random about one derives from (seed, epoch, index).

    An item is {"image": float32 [3, h, w], "label": int64 [h, w], "meta": {...}} with (w, h) the crop size. Where the
    resized image is smaller than the crop, the image is 0 (the mean grey level) and the label ``IGNORE``.

    Args:
        samples: labelled samples.
        table: the dataset's classes.
        pixels: colour order and normalisation.
        augmentation: what is random.
        seed: 0 or more.
    """

    def __init__(
        self, samples: list[Sample], table: ClassTable, pixels: Pixels, augmentation: Augmentation, seed: int
    ) -> None:
        self.samples = samples
        self.table = table
        self.pixels = pixels
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        """Read, check and augment sample ``index`` as ``epoch`` shows it, for ``key`` = (epoch, index)."""
        sample = self.samples[key[1]]
        image, label = read_pair(sample)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))
        return self.augment(sample, image, label, draw(self.augmentation, image.shape[:2], rng))

    def augment(self, sample: Sample, image: np.ndarray, label: np.ndarray, chosen: Draw) -> dict:
        """Turn a decoded ``sample`` into an item, given its random choices."""
        part = resize_image(image, chosen.window)
        if chosen.flip:
            part = cv2.flip(part, 1)
        train_ids = _train_ids(resize_label(label, chosen.window, chosen.flip), self.table, sample.label)

        crop_width, crop_height = self.augmentation.crop_size
        height, width = train_ids.shape
        x, y = chosen.offset
        if chosen.flip:
            x = crop_width - width - x
        inside = (..., slice(y, y + height), slice(x, x + width))
        if (height, width) == (crop_height, crop_width):
            image_out = np.empty((3, crop_height, crop_width), np.float32)
            label_out = train_ids.astype(np.int64)
        else:
            image_out = np.zeros((3, crop_height, crop_width), np.float32)
            label_out = np.full((crop_height, crop_width), IGNORE, np.int64)
            label_out[inside] = train_ids
        self.pixels.normalise(part, image_out[inside], chosen.shift)
        return {
            "image": torch.from_numpy(image_out),
            "label": torch.from_numpy(label_out),
            "meta": _meta(sample, image),
        }


class EvalDataset(Dataset):
    """Whole images, normalised and otherwise as they are, for validation and test.

    An item is {"image": float32 [3, H, W], "label": int64 [H, W], "meta": {...}}; there is no "label" where the sample
    has none.

    Args:
        samples: labelled or not.
        table: the dataset's classes.
        pixels: colour order and normalisation.
    """

    def __init__(self, samples: list[Sample], table: ClassTable, pixels: Pixels) -> None:
        self.samples = samples
        self.table = table
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        sample = self.samples[index]
        image, label = read_pair(sample)
        image_out = np.empty((3, *image.shape[:2]), np.float32)
        self.pixels.normalise(image, image_out)
        item = {"image": torch.from_numpy(image_out), "meta": _meta(sample, image)}
        if label is not None:
            item["label"] = torch.from_numpy(_train_ids(label, self.table, sample.label).astype(np.int64))
        return item
