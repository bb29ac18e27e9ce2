"""Time of one training sample of a recipe in one worker, against a straightforward pipeline.

Both read the same made-up images with the same decoder (datasets/seg/files.py) and make the same random choices; their
results are compared before they are timed; all of it in one worker process of a DataLoader. The baseline decodes all
rows of the image and of the label and resizes all of them; this project does what the crop shows and, of a PNG, the
rows above it. Where a recipe's images are resized as published, the same with data.resize=once is measured too.
On a busy machine the rows of CPU time are the ones to read.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from common import median_times, parser, report
from torch.utils.data import DataLoader

from datasets.seg.augment import Augmentation, Draw, draw
from datasets.seg.classes import IGNORE, UNKNOWN, ClassTable, load_table
from datasets.seg.dataset import Pixels, Sample, TrainDataset, list_samples, needed_rows, open_pair
from datasets.seg.files import read_image, read_label
from lib.engine.loader import start_worker

PIXELS = Pixels("bgr", mean=(102.9801, 115.9465, 122.7717), std=(1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Recipe:
    """What is measured: classes, (height, width) of the images by turns, their format, what is random."""

    dataset: str
    sizes: tuple[tuple[int, int], ...]
    suffix: str
    augmentation: Augmentation

    def size(self, i: int) -> tuple[int, int]:
        return self.sizes[i % len(self.sizes)]


RECIPES = {
    "cityscapes": Recipe(
        dataset="cityscapes", sizes=((1024, 2048),), suffix=".png", augmentation=Augmentation(crop_size=(769, 769))
    ),
    "ade20k": Recipe(
        dataset="ade20k",
        sizes=((512, 683), (683, 512), (512, 768)),
        suffix=".jpg",
        augmentation=Augmentation(crop_size=(520, 520), short_side=520, resize="twice"),
    ),
    "mmseg_cityscapes": Recipe(
        dataset="cityscapes",
        sizes=((1024, 2048),),
        suffix=".png",
        augmentation=Augmentation(crop_size=(1024, 512), aspect=(1.0, 1.0), brightness=0, resize="mmseg"),
    ),
}


def draw_scene(rng: np.random.Generator, table: ClassTable, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image (smooth noise, shapes, sensor noise) and its label.

    As a PNG of 2048 x 1024 the image has about the size of a Cityscapes image, 2.3 MB, and so a decode that takes as
    long.
    """
    height, width = size
    image = np.full((height, width, 3), 110, np.float32)
    for cell in (256, 64, 16):
        noise = rng.normal(0, 8 + cell**0.5, (height // cell, width // cell, 3)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    tint = np.zeros_like(image)
    label = np.zeros((height, width), np.uint8)
    for _ in range(120):
        centre = rng.integers((0, 0), (width, height))
        shape = cv2.convexHull((centre + rng.normal(0, rng.uniform(10, 150), (7, 2))).astype(np.int32))
        cv2.fillPoly(tint, [shape], rng.normal(0, 40, 3).tolist())
        cv2.fillPoly(label, [shape], int(rng.choice(table.id_of)))
    image += tint + rng.normal(0, 0.7, (height, width, 1)).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8), label


def write_dataset(root: Path, count: int, table: ClassTable, recipe: Recipe) -> list[Sample]:
    """Write ``count`` scenes in the prepared layout."""
    for folder in ("image", "label"):
        (root / "train" / folder).mkdir(parents=True)
    for i in range(count):
        image, label = draw_scene(np.random.default_rng(i), table, recipe.size(i))
        cv2.imwrite(str(root / "train" / "image" / f"{i:04}{recipe.suffix}"), image)
        cv2.imwrite(str(root / "train" / "label" / f"{i:04}.png"), label)
    return list_samples(root, "train")


def train_ids_of(label: np.ndarray, table: ClassTable) -> np.ndarray:
    """Train ids as published code looks them up: a comparison for each class, or on ADE20K, arithmetic."""
    if table.dataset == "ade20k":
        return label - np.uint8(1)
    train_ids = np.full(label.shape, UNKNOWN, np.uint8)
    for label_id in np.flatnonzero(table.train_id_of != UNKNOWN).tolist():
        train_ids[label == label_id] = table.train_id_of[label_id]
    if (train_ids == UNKNOWN).any():
        raise SystemExit("a label id is unknown")
    return train_ids


def straightforward(
    image: np.ndarray, label: np.ndarray, chosen: Draw, crop_size: tuple[int, int], table: ClassTable
) -> dict:
    """The baseline: every step on everything it is given, one after the other."""
    train_ids = train_ids_of(label, table)
    if chosen.flip and chosen.resize == "twice":
        image, train_ids = cv2.flip(image, 1), cv2.flip(train_ids, 1)

    window = chosen.window
    for resized in (*chosen.between, window.resized):
        image = cv2.resize(image, resized, interpolation=cv2.INTER_LINEAR)
        train_ids = cv2.resize(train_ids, resized, interpolation=cv2.INTER_NEAREST)

    rows, columns = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
    image, train_ids = image[rows, columns], train_ids[rows, columns]
    if chosen.flip and chosen.resize == "mmseg":
        image, train_ids = image[:, ::-1], train_ids[:, ::-1]
    image = np.clip(image.astype(np.float32) + chosen.shift, 0, 255)

    x, y = chosen.offset
    right, bottom = crop_size[0] - window.width - x, crop_size[1] - window.height - y
    image = cv2.copyMakeBorder(image, y, bottom, x, right, cv2.BORDER_CONSTANT, value=PIXELS.mean)
    train_ids = cv2.copyMakeBorder(train_ids, y, bottom, x, right, cv2.BORDER_CONSTANT, value=IGNORE)
    if chosen.flip and chosen.resize == "once":
        image, train_ids = image[:, ::-1], train_ids[:, ::-1]

    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXELS.mean, PIXELS.std))
    return {"image": (tensor - mean) / std, "label": torch.from_numpy(train_ids.astype(np.int64))}


def check_equal(ours: dict, baseline: dict, resize: str) -> None:
    """Stop unless labels agree exactly and images to a grey level, or as published, so that equal work is compared."""
    error = float((ours["image"] - baseline["image"]).abs().max())
    if error > (1.01 if resize == "once" else 1e-4) or not torch.equal(ours["label"], baseline["label"]):
        raise SystemExit(f"the two pipelines disagree (by {error} grey levels): their times cannot be compared")


def decode_all(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Decode all rows of the image and of the label."""
    return read_image(sample.image), read_label(sample.label)


class Pipelines:
    """The baseline, this project, and this project with one resize where that is not the recipe's, made to do alike.

    Each is called with the number of a turn, of which there are ``turns``: one image and one set of choices.
    """

    def __init__(self, recipe: Recipe, samples: list[Sample], table: ClassTable, turns: int) -> None:
        self.samples, self.table, self.crop_size = samples, table, recipe.augmentation.crop_size
        self.ways = {"ours": recipe.augmentation}
        if recipe.augmentation.resize != "once":
            self.ways["once"] = replace(recipe.augmentation, resize="once")
        self.datasets = {way: TrainDataset(samples, table, PIXELS, self.ways[way], seed=0) for way in self.ways}
        sizes = [recipe.size(turn % len(samples)) for turn in range(turns)]
        self.choices = {
            way: [draw(self.ways[way], size, np.random.default_rng(turn)) for turn, size in enumerate(sizes)]
            for way in self.ways
        }
        self.sizes = sizes
        self.decoded = [decode_all(sample) for sample in samples]

    def sample(self, turn: int) -> Sample:
        return self.samples[turn % len(self.samples)]

    def baseline(self, turn: int, pair: tuple[np.ndarray, np.ndarray] | None = None, way: str = "ours") -> dict:
        pair = pair or decode_all(self.sample(turn))
        return straightforward(*pair, self.choices[way][turn], self.crop_size, self.table)

    def decode(self, turn: int, way: str) -> tuple[np.ndarray, np.ndarray]:
        image, label = open_pair(self.sample(turn))
        rows = needed_rows(self.choices[way][turn], self.sizes[turn])
        return image.decode(rows), label.decode(rows)

    def augment(self, turn: int, way: str) -> dict:
        pair = self.decoded[turn % len(self.samples)]
        return self.datasets[way].augment(self.sample(turn), *pair, self.sizes[turn], self.choices[way][turn])

    def crop(self, turn: int, way: str) -> dict:
        return self.datasets[way].crop(self.sample(turn), *open_pair(self.sample(turn)), self.choices[way][turn])

    def check(self, turn: int) -> None:
        for way in self.ways:
            expected = self.baseline(turn, self.decoded[turn % len(self.samples)], way)
            check_equal(self.crop(turn, way), expected, self.ways[way].resize)

    def parts(self) -> dict[str, dict[str, Callable[[int], object]]]:
        """What is timed: {part of the work: {pipeline: its call}}."""
        parts = {
            "decode": {"baseline": lambda turn: decode_all(self.sample(turn))},
            "all but the decode": {
                "baseline": lambda turn: self.baseline(turn, self.decoded[turn % len(self.samples)]),
            },
            "whole sample": {"baseline": self.baseline},
        }
        for calls, call in zip(parts.values(), (self.decode, self.augment, self.crop), strict=True):
            calls |= {way: lambda turn, call=call, way=way: call(turn, way) for way in self.ways}
        return parts


def measure(recipe: Recipe, samples: list[Sample], table: ClassTable, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of the parts of a sample and of the whole: {part: {"baseline": ..., "ours": ...}}."""
    pipelines = Pipelines(recipe, samples, table, turns=repeats + 1)
    for turn in range(repeats):
        pipelines.check(turn)
    clocks = {"": time.perf_counter, ", CPU time": time.process_time}
    return {
        part + of: median_times(calls, repeats, warm_up=1, clock=clock)
        for of, clock in clocks.items()
        for part, calls in pipelines.parts().items()
    }


def tell(name: str, recipe: Recipe, seconds: dict[str, dict[str, float]], megabytes: float, file: Path | None) -> None:
    """Print and keep the figures."""
    decode, whole = seconds["decode, CPU time"], seconds["whole sample, CPU time"]
    shares = {way: decode[way] / whole[way] for way in whole}
    compared = {"ratio": ("baseline", "ours")}
    if "once" in whole:
        compared["ratio_once"] = ("ours", "once")
    ratios = {
        title: {part: of[slow] / of[fast] for part, of in seconds.items()} for title, (slow, fast) in compared.items()
    }
    titles = {"baseline": "straightforward", "ours": "this project", "once": "data.resize=once"}
    rows = [
        [part, *(f"{1000 * of[way]:.2f}" for way in of), *(f"{ratio[part]:.2f}" for ratio in ratios.values())]
        for part, of in seconds.items()
    ]
    rows.append(["decode's share of CPU time", *(f"{share:.0%}" for share in shares.values()), *[""] * len(ratios)])
    sizes = " or ".join(f"{width} x {height}" for height, width in recipe.sizes)
    crop = " x ".join(map(str, recipe.augmentation.crop_size))
    report(
        f"One sample of {name}, {sizes} {recipe.suffix[1:].upper()} of {megabytes:.2f} MB, crop {crop}, "
        f"data.resize={recipe.augmentation.resize}, one worker, median milliseconds",
        [
            "",
            *(titles[way] for way in whole),
            *(f"{titles[slow]} / {titles[fast]}" for slow, fast in compared.values()),
        ],
        rows,
        {"recipe": name, "seconds": seconds, "decode_share": shares, "image_megabytes": megabytes} | ratios,
        file,
    )


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--recipe", choices=RECIPES, default="cityscapes", help="whose samples")
    options.add_argument("--images", type=int, default=4, help="number of images to make")
    options.add_argument("--samples", type=int, default=60, help="number of samples to time")
    arguments = options.parse_args()
    recipe = RECIPES[arguments.recipe]
    table = load_table(recipe.dataset)
    with tempfile.TemporaryDirectory() as folder:
        samples = write_dataset(Path(folder), arguments.images, table, recipe)
        megabytes = float(np.mean([sample.image.stat().st_size for sample in samples])) / 1e6
        worker = DataLoader(
            [arguments.samples],
            batch_size=None,
            num_workers=1,
            worker_init_fn=start_worker,
            collate_fn=lambda repeats: measure(recipe, samples, table, repeats),
        )
        (seconds,) = worker
    tell(arguments.recipe, recipe, seconds, megabytes, arguments.json)


if __name__ == "__main__":
    main()
