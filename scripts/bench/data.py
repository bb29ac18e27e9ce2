"""Time of one training sample at the Cityscapes recipe in one worker, against a straightforward pipeline.

Both read the same made-up 2048 x 1024 PNGs with the same decoder (datasets/seg/png.py) and make the same random
choices; their results are compared before they are timed; all of it in one worker process of a DataLoader. The baseline
decodes all rows of the image and of the label; this project decodes those that the crop shows and those above them.
On a busy machine the rows of CPU time are the ones to read.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from common import median_times, parser, report
from torch.utils.data import DataLoader

from datasets.seg.augment import Augmentation, Draw, draw, source_rows
from datasets.seg.classes import IGNORE, UNKNOWN, ClassTable, load_table
from datasets.seg.dataset import Pixels, Sample, TrainDataset, list_samples, open_pair
from datasets.seg.files import read_image, read_label
from lib.engine.loader import start_worker

WIDTH, HEIGHT = 2048, 1024
PIXELS = Pixels("bgr", mean=(102.9801, 115.9465, 122.7717), std=(1.0, 1.0, 1.0))


def draw_scene(rng: np.random.Generator, table: ClassTable) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image (smooth noise, shapes, sensor noise) and its label.

    As a PNG the image has about the size of a Cityscapes image, 2.3 MB, and so a decode that takes as long.
    """
    image = np.full((HEIGHT, WIDTH, 3), 110, np.float32)
    for cell in (256, 64, 16):
        noise = rng.normal(0, 8 + cell**0.5, (HEIGHT // cell, WIDTH // cell, 3)).astype(np.float32)
        image += cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    tint = np.zeros_like(image)
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    for _ in range(120):
        centre = rng.integers((0, 0), (WIDTH, HEIGHT))
        shape = cv2.convexHull((centre + rng.normal(0, rng.uniform(10, 150), (7, 2))).astype(np.int32))
        cv2.fillPoly(tint, [shape], rng.normal(0, 40, 3).tolist())
        cv2.fillPoly(label, [shape], int(rng.choice(table.id_of)))
    image += tint + rng.normal(0, 0.7, (HEIGHT, WIDTH, 1)).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8), label


def write_dataset(root: Path, count: int, table: ClassTable) -> list[Sample]:
    """Write ``count`` scenes in the prepared layout."""
    for folder in ("image", "label"):
        (root / "train" / folder).mkdir(parents=True)
    for i in range(count):
        image, label = draw_scene(np.random.default_rng(i), table)
        cv2.imwrite(str(root / "train" / "image" / f"{i}.png"), image)
        cv2.imwrite(str(root / "train" / "label" / f"{i}.png"), label)
    return list_samples(root, "train")


def straightforward(image: np.ndarray, label: np.ndarray, chosen: Draw, crop: int, table: ClassTable) -> dict:
    """The baseline: every step on everything it is given, one after the other."""
    train_ids = np.full(label.shape, UNKNOWN, np.uint8)
    for label_id in np.flatnonzero(table.train_id_of != UNKNOWN).tolist():
        train_ids[label == label_id] = table.train_id_of[label_id]
    if (train_ids == UNKNOWN).any():
        raise SystemExit("a label id is unknown")

    window = chosen.window
    image = cv2.resize(image, window.resized, interpolation=cv2.INTER_LINEAR)
    train_ids = cv2.resize(train_ids, window.resized, interpolation=cv2.INTER_NEAREST)

    rows, columns = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
    image, train_ids = image[rows, columns], train_ids[rows, columns]
    image = np.clip(image.astype(np.float32) + chosen.shift, 0, 255)

    x, y = chosen.offset
    right, bottom = crop - window.width - x, crop - window.height - y
    image = cv2.copyMakeBorder(image, y, bottom, x, right, cv2.BORDER_CONSTANT, value=PIXELS.mean)
    train_ids = cv2.copyMakeBorder(train_ids, y, bottom, x, right, cv2.BORDER_CONSTANT, value=IGNORE)
    if chosen.flip:
        image, train_ids = image[:, ::-1], train_ids[:, ::-1]

    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXELS.mean, PIXELS.std))
    return {"image": (tensor - mean) / std, "label": torch.from_numpy(train_ids.astype(np.int64))}


def check_equal(ours: dict, baseline: dict) -> None:
    """Stop unless labels agree exactly and images to a grey level, so that equal work is compared."""
    error = float((ours["image"] - baseline["image"]).abs().max())
    if error > 1.01 or not torch.equal(ours["label"], baseline["label"]):
        raise SystemExit(f"the two pipelines disagree (by {error} grey levels): their times cannot be compared")


def decode_all(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Decode all rows of the image and of the label."""
    return read_image(sample.image), read_label(sample.label)


def measure(samples: list[Sample], table: ClassTable, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of the parts of a sample and of the whole: {part: {"baseline": ..., "ours": ...}}."""
    augmentation = Augmentation(crop_size=(769, 769))
    dataset = TrainDataset(samples, table, PIXELS, augmentation, seed=0)
    choices = [draw(augmentation, (HEIGHT, WIDTH), np.random.default_rng(i)) for i in range(repeats)]
    decoded = [decode_all(sample) for sample in samples]

    def decode_needed(turn: int, i: int) -> tuple[np.ndarray, np.ndarray]:
        rows = source_rows(choices[turn % repeats].window, HEIGHT)
        image, label = open_pair(samples[i])
        return image.decode(rows), label.decode(rows)

    def ours(turn: int, pair: tuple[np.ndarray, np.ndarray]) -> dict:
        return dataset.augment(samples[turn % len(samples)], *pair, (HEIGHT, WIDTH), choices[turn % repeats])

    def crop(turn: int, i: int) -> dict:
        return dataset.crop(samples[i], *open_pair(samples[i]), choices[turn % repeats])

    def baseline(turn: int, pair: tuple[np.ndarray, np.ndarray]) -> dict:
        return straightforward(*pair, choices[turn % repeats], augmentation.crop_size[0], table)

    def timed(clock: Callable[[], float], **candidates: Callable[[int, Sample], object]) -> dict[str, float]:
        by_turn = {name: lambda turn, run=run: run(turn, turn % len(samples)) for name, run in candidates.items()}
        return median_times(by_turn, repeats, clock=clock)

    for turn in range(repeats):
        pair = decoded[turn % len(samples)]
        check_equal(crop(turn, turn % len(samples)), baseline(turn, pair))
    parts = {
        "decode": {"baseline": lambda _, i: decode_all(samples[i]), "ours": decode_needed},
        "all but the decode": {
            "baseline": lambda turn, i: baseline(turn, decoded[i]),
            "ours": lambda turn, i: ours(turn, decoded[i]),
        },
        "whole sample": {"baseline": lambda turn, i: baseline(turn, decode_all(samples[i])), "ours": crop},
    }
    clocks = {"": time.perf_counter, ", CPU time": time.process_time}
    return {part + of: timed(clock, **parts[part]) for of, clock in clocks.items() for part in parts}


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=4, help="number of images to make")
    options.add_argument("--samples", type=int, default=60, help="number of samples to time")
    arguments = options.parse_args()
    table = load_table("cityscapes")
    with tempfile.TemporaryDirectory() as folder:
        samples = write_dataset(Path(folder), arguments.images, table)
        megabytes = float(np.mean([sample.image.stat().st_size for sample in samples])) / 1e6
        worker = DataLoader(
            [arguments.samples],
            batch_size=None,
            num_workers=1,
            worker_init_fn=start_worker,
            collate_fn=lambda repeats: measure(samples, table, repeats),
        )
        (seconds,) = worker

    ratios = {part: of["baseline"] / of["ours"] for part, of in seconds.items()}
    decode, whole = seconds["decode, CPU time"], seconds["whole sample, CPU time"]
    shares = {name: decode[name] / whole[name] for name in whole}
    rows = [
        [part, f"{1000 * of['baseline']:.1f}", f"{1000 * of['ours']:.1f}", f"{ratios[part]:.2f}"]
        for part, of in seconds.items()
    ]
    rows.append(["decode's share of CPU time", *(f"{share:.0%}" for share in shares.values()), ""])
    report(
        f"One sample, {WIDTH} x {HEIGHT} PNG of {megabytes:.1f} MB, crop 769 x 769, one worker, median milliseconds",
        ["", "straightforward", "this project", "ratio"],
        rows,
        {"seconds": seconds, "ratio": ratios, "decode_share": shares, "png_megabytes": megabytes},
        arguments.json,
    )


if __name__ == "__main__":
    main()
