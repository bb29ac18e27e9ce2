"""Time of one training sample at the Cityscapes recipe in one worker, against a straightforward pipeline.

Both read the same made-up 2048 x 1024 PNGs with the same decoder and make the same random choices; their results are
compared before they are timed.
"""

import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from common import median_times, parser, report

from datasets.seg.augment import Augmentation, Draw, draw
from datasets.seg.classes import IGNORE, ClassTable, load_table
from datasets.seg.dataset import Pixels, Sample, TrainDataset, list_samples, read_pair

WIDTH, HEIGHT = 2048, 1024
PIXELS = Pixels("bgr", mean=(102.9801, 115.9465, 122.7717), std=(1.0, 1.0, 1.0))


def draw_scene(rng: np.random.Generator, table: ClassTable) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image (noise on several scales, shapes, sensor noise) and its label; as PNG as large as a photograph."""
    image = np.full((HEIGHT, WIDTH, 3), 110, np.float32)
    for cell in (256, 64, 16, 4):
        noise = rng.normal(0, 6 + cell**0.5, (HEIGHT // cell, WIDTH // cell, 3)).astype(np.float32)
        image += cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    for _ in range(120):
        centre = rng.integers((0, 0), (WIDTH, HEIGHT))
        corners = (centre + rng.normal(0, rng.uniform(10, 150), (7, 2))).astype(np.int32)
        hull = cv2.convexHull(corners)
        colour = rng.normal(0, 40, 3)
        covered = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.fillPoly(covered, [hull], 1)
        image[covered > 0] += colour
        cv2.fillPoly(label, [hull], int(rng.choice(table.id_of)))
    image += rng.normal(0, 1.2, image.shape)
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
    train_ids = np.full(label.shape, IGNORE, np.uint8)
    for train_id, label_id in enumerate(table.id_of):
        train_ids[label == label_id] = train_id

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


def measure(samples: list[Sample], table: ClassTable, repeats: int) -> dict[str, float]:
    """Median seconds a sample: the decode, everything else, and the whole, of both pipelines."""
    augmentation = Augmentation(crop_size=(769, 769))
    dataset = TrainDataset(samples, table, PIXELS, augmentation, seed=0)
    choices = [draw(augmentation, (HEIGHT, WIDTH), np.random.default_rng(i)) for i in range(repeats)]
    decoded = [read_pair(sample) for sample in samples]

    def ours(turn: int, pair: tuple[np.ndarray, np.ndarray]) -> dict:
        return dataset.augment(samples[turn % len(samples)], *pair, choices[turn % repeats])

    def baseline(turn: int, pair: tuple[np.ndarray, np.ndarray]) -> dict:
        return straightforward(*pair, choices[turn % repeats], augmentation.crop_size[0], table)

    def in_memory(turn: int) -> tuple[np.ndarray, np.ndarray]:
        return decoded[turn % len(samples)]

    def from_disk(turn: int) -> tuple[np.ndarray, np.ndarray]:
        return read_pair(samples[turn % len(samples)])

    for turn in range(repeats):
        check_equal(ours(turn, in_memory(turn)), baseline(turn, in_memory(turn)))
    return median_times(
        {
            "decode": from_disk,
            "rest_ours": lambda turn: ours(turn, in_memory(turn)),
            "rest_baseline": lambda turn: baseline(turn, in_memory(turn)),
            "whole_ours": lambda turn: ours(turn, from_disk(turn)),
            "whole_baseline": lambda turn: baseline(turn, from_disk(turn)),
        },
        repeats,
    )


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=4, help="number of images to make")
    options.add_argument("--samples", type=int, default=60, help="number of samples to time")
    arguments = options.parse_args()
    # One worker is one thread.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    table = load_table("cityscapes")
    with tempfile.TemporaryDirectory() as folder:
        samples = write_dataset(Path(folder), arguments.images, table)
        megabytes = float(np.mean([sample.image.stat().st_size for sample in samples])) / 1e6
        figures = measure(samples, table, arguments.samples)

    rows = []
    for part, title in (("rest", "all but the decode"), ("whole", "whole sample")):
        figures[f"{part}_ratio"] = figures[f"{part}_baseline"] / figures[f"{part}_ours"]
        times = [f"{1000 * figures[f'{part}_{pipeline}']:.1f}" for pipeline in ("baseline", "ours")]
        rows.append([title, *times, f"{figures[f'{part}_ratio']:.2f}"])
    decode = f"{1000 * figures['decode']:.1f}"
    shares = [figures["decode"] / figures[f"whole_{pipeline}"] for pipeline in ("baseline", "ours")]
    figures |= {"decode_share_baseline": shares[0], "decode_share_ours": shares[1], "png_megabytes": megabytes}
    rows.insert(0, ["decode", decode, decode, "1.00"])
    rows.append(["decode's share", *(f"{share:.0%}" for share in shares), ""])
    report(
        f"One sample, {WIDTH} x {HEIGHT} PNG of {megabytes:.1f} MB, crop 769 x 769, one thread, median milliseconds",
        ["", "straightforward", "this project", "ratio"],
        rows,
        figures,
        arguments.json,
    )


if __name__ == "__main__":
    main()
