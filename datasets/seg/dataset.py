"""Reading the prepared layout ``DATA_DIR/{train,val,test}/{image,label}`` and turning its files into samples."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.seg.augment import Augmentation, Draw, draw, resize_image, resize_label, source_rows
from datasets.seg.classes import IGNORE, UNKNOWN, ClassTable
from datasets.seg.png import SIGNATURE, Png, PngError, imdecode
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


class ImageFile:
    """An image file, found whole, whose first rows can be decoded without the rest.

    A PNG's ``size`` comes from its header; a JPEG is decoded to learn it.

    Args:
        path: a PNG or JPEG.
        flags: of ``cv2.imdecode``.

    Attributes:
        size: (height, width) in pixels.

    Raises:
        UserError: the file is unreadable, cut off or damaged.
    """

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        self.flags = flags
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        self._png, self._pixels = None, None
        if content.startswith(SIGNATURE):
            try:
                self._png = Png.parse(content)
            except PngError as error:
                raise self._bad(error) from error
            self.size = self._png.size
        else:
            self._pixels = self._decode_other(content)
            self.size = self._pixels.shape[:2]

    def decode(self, rows: int | None = None) -> np.ndarray:
        """Decode the first ``rows`` rows (None = all), uint8 [rows, W, 3] in BGR or as ``flags`` say."""
        rows = self.size[0] if rows is None else rows
        if self._png is None:
            return self._pixels[:rows]
        try:
            return self._checked(self._png.decode(self.flags, rows))
        except PngError as error:
            raise self._bad(error) from error

    def _decode_other(self, content: bytes) -> np.ndarray:
        # Some OpenCV releases fill what is missing of a truncated file with grey and report no error. A thumbnail
        # inside a JPEG's header ends with a marker of its own, so the end is looked for after the last scan.
        cut_off = content.startswith(b"\xff\xd8") and content.rfind(b"\xff\xd9") <= content.rfind(b"\xff\xda")
        if cut_off or not content:
            raise self._bad("truncated")
        return self._checked(imdecode(content, self.flags))

    def _checked(self, pixels: np.ndarray | None) -> np.ndarray:
        if pixels is None:
            raise self._bad("not a readable PNG or JPEG image")
        return pixels

    def _bad(self, reason: object) -> UserError:
        return UserError(f"{self.path} is {reason}: copy or prepare it again")


class LabelFile(ImageFile):
    """A label file; what it decodes to are label ids, uint8 [rows, W], or else a ``UserError`` says so."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, cv2.IMREAD_UNCHANGED)

    def _checked(self, pixels: np.ndarray | None) -> np.ndarray:
        pixels = super()._checked(pixels)
        if pixels.ndim != 2 or pixels.dtype != np.uint8:
            raise UserError(
                f"{self.path} is not a label: a label is an 8-bit PNG with one channel that holds label ids"
            )
        return pixels


def open_image(path: Path) -> ImageFile:
    """Open an image that decodes to uint8 [rows, W, 3], BGR; raises UserError if it is unreadable or cut off."""
    # Labels know nothing of a camera's orientation tag, so the pixels are taken as they are stored.
    return ImageFile(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def read_image(path: Path) -> np.ndarray:
    """Decode an image file to uint8 [H, W, 3], BGR; raises UserError if it is unreadable or cut off."""
    return open_image(path).decode()


def read_label(path: Path) -> np.ndarray:
    """Decode a label file to its ids, uint8 [H, W]; raises UserError if it is unreadable, cut off, or in colour."""
    return LabelFile(path).decode()


def open_pair(sample: Sample) -> tuple[ImageFile, LabelFile | None]:
    """Open a sample's image and label (None without a label).

    Raises:
        UserError: a file is unreadable, cut off or damaged, or the two differ in size.
    """
    image = open_image(sample.image)
    if sample.label is None:
        return image, None
    label = LabelFile(sample.label)
    if label.size != image.size:
        sizes = [f"{width} x {height}" for height, width in (image.size, label.size)]
        raise UserError(f"{sample.image} is {sizes[0]} but its label {sample.label} is {sizes[1]}: prepare both again")
    return image, label


def _train_ids(label: np.ndarray, table: ClassTable, path: Path) -> np.ndarray:
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
        image, label = open_pair(sample)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))
        return self.crop(sample, image, label, draw(self.augmentation, image.size, rng))

    def crop(self, sample: Sample, image: ImageFile, label: LabelFile, chosen: Draw) -> dict:
        """Turn an opened ``sample`` into an item, given its random choices; decode what they need."""
        rows = source_rows(chosen.window, image.size[0])
        return self.augment(sample, image.decode(rows), label.decode(rows), image.size, chosen)

    def augment(
        self, sample: Sample, image: np.ndarray, label: np.ndarray, size: tuple[int, int], chosen: Draw
    ) -> dict:
        """Turn a decoded ``sample`` of ``size`` (height, width), or its first rows, into an item."""
        part = resize_image(image, chosen.window, size)
        if chosen.flip:
            part = cv2.flip(part, 1)
        train_ids = _train_ids(resize_label(label, chosen.window, size, chosen.flip), self.table, sample.label)

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
            "meta": _meta(sample, size),
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
        image, label = open_pair(sample)
        image_out = np.empty((3, *image.size), np.float32)
        self.pixels.normalise(image.decode(), image_out)
        item = {"image": torch.from_numpy(image_out), "meta": _meta(sample, image.size)}
        if label is not None:
            item["label"] = torch.from_numpy(_train_ids(label.decode(), self.table, sample.label).astype(np.int64))
        return item
