"""Reading the prepared layout ``DATA_DIR/{train,val,test}/{image,label}`` and turning its files into samples."""

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.seg import steps
from datasets.seg.archive import ZipPath, open_root
from datasets.seg.augment import (
    REDRAWS,
    Augmentation,
    Draw,
    draw,
    redraw_position,
    resize_image,
    resize_label,
    source_rows,
    turn_image,
    turn_label,
)
from datasets.seg.bands import PICTURES, BandImage, by_bands, open_bands
from datasets.seg.classes import IGNORE, UNKNOWN, ClassTable
from datasets.seg.files import ImageFile, LabelFile
from datasets.seg.pixels import Pixels
from lib.base.errors import UserError
from lib.base.names import check_name

IMAGE_SUFFIXES = (*PICTURES, ".npy", ".tif", ".tiff")


@dataclass(frozen=True)
class Sample:
    """One image of a split: its stem, its file, and the file of its label (None where labels are not asked for)."""

    name: str
    image: Path | ZipPath
    label: Path | ZipPath | None


def list_samples(root: str | Path, split: str, labelled: bool = True) -> list[Sample]:
    """List the images of ``split`` ("train", "val" or "test"), sorted by name.

    Args:
        root: the DATA_DIR that preprocessing wrote, or a ``.zip`` of it or of its contents, which is read in place.
        labelled: pair every image with its label; without, labels are not looked for.

    Raises:
        UserError: a folder is missing or empty, a zip unusable, a file is none (a pipe, say), its name is not UTF-8,
            two images share a stem, or images and labels do not pair up.
    """
    remedy = "prepare the data with 'python -m datasets.seg.preprocess.<dataset> --src RAW --dst DATA_DIR'"
    root = open_root(Path(root))
    if not _is_folder(root):
        raise UserError(f"DATA_DIR {root} is not a folder or .zip file: {remedy}")
    if not _names(root):
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


def has_labels(root: str | Path, split: str) -> bool:
    """Whether the DATA_DIR or zip ``root`` holds labels of ``split``; raises UserError for an unusable zip."""
    return _is_folder(open_root(Path(root)) / split / "label")


def _is_folder(path: Path | ZipPath) -> bool:
    # Unlike pathlib, os.path raises nothing for names that no file can have and folders that may not be entered.
    return path.is_dir() if isinstance(path, ZipPath) else os.path.isdir(path)


def _names(folder: Path | ZipPath) -> dict[str, bool]:
    """What lies in ``folder``, sorted by name, and whether it is a regular file; raises UserError if it is closed."""
    if isinstance(folder, ZipPath):
        return {path.name: path.inside in path.archive.members for path in sorted(folder.iterdir())}
    try:
        with os.scandir(folder) as entries:
            return dict(sorted((entry.name, entry.is_file()) for entry in entries))
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error


def _files_by_stem(
    folder: Path | ZipPath, suffixes: tuple[str, ...], content: str, remedy: str
) -> dict[str, Path | ZipPath]:
    if not _is_folder(folder):
        raise UserError(f"there are no {content}: {folder} is not a folder: {remedy}")
    files: dict[str, Path | ZipPath] = {}
    for name, is_file in _names(folder).items():
        path = folder / name
        if path.suffix.lower() not in suffixes or name.startswith("."):
            continue
        if not is_file:
            raise UserError(f"{path} is not a file that can be read: remove it or put the file itself there")
        check_name(path)
        if path.stem in files:
            raise UserError(f"{files[path.stem]} and {path.name} share one name: remove one of them")
        files[path.stem] = path
    if not files:
        raise UserError(f"there are no {content}: {folder} holds no {' or '.join(suffixes)} files: {remedy}")
    return files


def open_pair(sample: Sample, bands: int = 3) -> tuple[ImageFile | BandImage, LabelFile | None]:
    """Open a sample's image of ``bands`` bands and its label (None without a label).

    Raises:
        UserError: a file is unreadable, cut off or damaged, the two differ in size, or the image has other bands.
    """
    image = open_bands(sample.image, bands)
    if sample.label is None:
        return image, None
    label = LabelFile(sample.label)
    if label.size != image.size:
        sizes = [f"{width} x {height}" for height, width in (image.size, label.size)]
        raise UserError(f"{sample.image} is {sizes[0]} but its label {sample.label} is {sizes[1]}: prepare both again")
    return image, label


def _train_ids(label: np.ndarray, table: ClassTable, path: Path | ZipPath) -> np.ndarray:
    """Look up the train ids, uint8 [H, W], of the label ids in ``label``; raises UserError for an unknown id."""
    train_ids = cv2.LUT(label, table.train_id_of)
    unknown = train_ids == UNKNOWN
    if unknown.any():
        raise UserError(f"label {label[unknown][0]} in {path} is not a {table.dataset} label id ({table.valid_ids})")
    return train_ids


def _meta(sample: Sample, size: tuple[int, int]) -> dict:
    label = None if sample.label is None else str(sample.label)
    return {"name": sample.name, "image": str(sample.image), "label": label, "size": size}


class TrainDataset(Dataset):
    """Augmented crops for training. Everything random about one derives from (seed, epoch, index).

    An item is {"image": float32 [C, h, w], "label": int64 [h, w], "meta": {...}} with (w, h) the crop size and C the
    bands that ``pixels`` has. Where the resized image is smaller than the crop, the image is 0 (the mean grey level)
    and the label ``IGNORE``.

    Args:
        samples: labelled samples.
        table: the dataset's classes.
        pixels: bands, colour order and normalisation.
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
        image, label = open_pair(sample, self.pixels.bands)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))
        chosen = draw(self.augmentation, image.size, rng)
        if self.augmentation.category_max_ratio == 1:
            return self.crop(sample, image, label, chosen)
        ids = label.decode()
        chosen = self._redraw(sample, ids, image.size, chosen, rng)
        return self.augment(sample, image.decode(needed_rows(chosen, image.size)), ids, image.size, chosen)

    def crop(self, sample: Sample, image: ImageFile | BandImage, label: LabelFile, chosen: Draw) -> dict:
        """Turn an opened ``sample`` into an item, given its random choices; decode what they need."""
        rows = needed_rows(chosen, image.size)
        return self.augment(sample, image.decode(rows), label.decode(rows), image.size, chosen)

    def augment(
        self, sample: Sample, image: np.ndarray, label: np.ndarray, size: tuple[int, int], chosen: Draw
    ) -> dict:
        """Turn a decoded ``sample`` of ``size`` (height, width), or its first rows, into an item."""
        part = by_bands(_image_part, image, size, chosen)
        if chosen.distortion:
            if part.dtype != np.uint8:
                raise UserError(
                    f"data.photometric=true distorts 8-bit colours, but {sample.image} is {part.dtype}: "
                    "set data.photometric=false"
                )
            part = chosen.distortion.apply(part)
        if chosen.flip and chosen.resize == "once":
            part = by_bands(cv2.flip, part, 1)
        train_ids = self._crop_label(sample, label, size, chosen)

        crop_width, crop_height = self.augmentation.crop_size
        height, width = train_ids.shape
        x, y = chosen.offset
        if chosen.flip and chosen.resize == "once":
            x = crop_width - width - x
        inside = (..., slice(y, y + height), slice(x, x + width))
        if (height, width) == (crop_height, crop_width):
            image_out = np.empty((self.pixels.bands, crop_height, crop_width), np.float32)
            label_out = train_ids.astype(np.int64)
        else:
            image_out = np.zeros((self.pixels.bands, crop_height, crop_width), np.float32)
            label_out = np.full((crop_height, crop_width), IGNORE, np.int64)
            label_out[inside] = train_ids
        self.pixels.normalise(part, image_out[inside], chosen.shift)
        if chosen.angle:
            outside = label_out == UNKNOWN
            image_out[:, outside], label_out[outside] = 0, IGNORE
        return {
            "image": torch.from_numpy(image_out),
            "label": torch.from_numpy(label_out),
            "meta": _meta(sample, size),
        }

    def _redraw(
        self, sample: Sample, label: np.ndarray, size: tuple[int, int], chosen: Draw, rng: np.random.Generator
    ) -> Draw:
        """``chosen``, its position drawn anew while one class prevails there, or nothing counts; the last one stays."""
        for _ in range(REDRAWS):
            if (chosen.window.width, chosen.window.height) == chosen.window.resized:
                break
            counts = np.bincount(self._crop_label(sample, label, size, chosen).ravel(), minlength=256)[:UNKNOWN]
            most, bound = counts.max(), self.augmentation.category_max_ratio * counts.sum()
            if 0 < most < bound or (0 < most == bound and chosen.resize != "mmseg"):
                break
            chosen = redraw_position(self.augmentation, chosen, rng)
        return chosen

    def _crop_label(self, sample: Sample, label: np.ndarray, size: tuple[int, int], chosen: Draw) -> np.ndarray:
        """The train ids in the chosen window, uint8 [h, w]; ``UNKNOWN`` where it turned beyond the image."""
        if not chosen.angle:
            return _train_ids(_label_part(label, size, chosen), self.table, sample.label)
        train_ids = _train_ids(label, self.table, sample.label)
        if chosen.resize != "once":
            return steps.crop_label(train_ids, chosen, size, outside=UNKNOWN)
        train_ids = turn_label(train_ids, chosen.window, size, chosen.angle, outside=UNKNOWN)
        return cv2.flip(train_ids, 1) if chosen.flip else train_ids


def needed_rows(chosen: Draw, size: tuple[int, int]) -> int:
    """How many of the first rows of an image of ``size`` (height, width) and of its label a crop needs."""
    if chosen.resize != "once":
        return steps.source_rows(chosen, size)
    return size[0] if chosen.angle else source_rows(chosen.window, size[0])


def _image_part(image: np.ndarray, size: tuple[int, int], chosen: Draw) -> np.ndarray:
    """The pixels in the chosen window, [h, w, C]; mirrored where they are to be, unless that comes last."""
    if chosen.resize != "once":
        return steps.crop_image(image, chosen, size)
    if chosen.angle:
        return turn_image(image, chosen.window, size, chosen.angle)
    return resize_image(image, chosen.window, size)


def _label_part(label: np.ndarray, size: tuple[int, int], chosen: Draw) -> np.ndarray:
    """The label ids in the chosen window, uint8 [h, w], mirrored where they are to be; nothing is turned."""
    if chosen.resize != "once":
        return steps.crop_label(label, chosen, size)
    return resize_label(label, chosen.window, size, chosen.flip)


class EvalDataset(Dataset):
    """Whole images, normalised and otherwise as they are, for validation and test.

    An item is {"image": float32 [C, H, W], "label": int64 [H, W], "meta": {...}} with C the bands that ``pixels`` has;
    there is no "label" where the sample has none.

    Args:
        samples: labelled or not.
        table: the dataset's classes.
        pixels: bands, colour order and normalisation.
    """

    def __init__(self, samples: list[Sample], table: ClassTable, pixels: Pixels) -> None:
        self.samples = samples
        self.table = table
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labelled(self) -> bool:
        """Whether the samples have labels."""
        return all(sample.label is not None for sample in self.samples)

    def __getitem__(self, index: int) -> dict:
        sample = self.samples[index]
        image, label = open_pair(sample, self.pixels.bands)
        image_out = np.empty((self.pixels.bands, *image.size), np.float32)
        self.pixels.normalise(image.decode(), image_out)
        item = {"image": torch.from_numpy(image_out), "meta": _meta(sample, image.size)}
        if label is not None:
            item["label"] = torch.from_numpy(_train_ids(label.decode(), self.table, sample.label).astype(np.int64))
        return item
