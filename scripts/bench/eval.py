"""Time of evaluating 2048 x 1024 images with a network, and of scoring folders of label PNGs, against the plain way.

Network: DNL by windows of 769 x 769, at one scale and at several with flip. The plain way runs in float32 with
contiguous feature maps and the whole affinity map, one window at a time; it sums logits in NumPy, resizes those of
every scale with OpenCV on the CPU, and reads the label PNGs that it wrote again to score them. This project runs as
``val`` does. "outside the network": the same with a network that takes no time but a copy of its answer. On a CPU that
others use, ``--cpu-time`` gives the figures to read.

Folders: the plain way reads with Pillow and compares once for each class.
"""

import copy
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from attention import plain_attend
from common import median_times, parser, report
from data import draw_scene
from PIL import Image
from torch import Tensor

from datasets.seg.classes import ClassTable, load_table
from lib.engine.distribute import use_bfloat16
from lib.inference import Segmentor, predict, predictor, window_starts
from lib.models import build_segmentor
from lib.models.blocks import nonlocal_block
from lib.scores.confusion import ConfusionMatrix
from lib.scores.folders import LabelPair, find_pairs, score_pairs
from lib.vis.overlay import write_picture

HEIGHT, WIDTH = 1024, 2048
WINDOW, STRIDE = 769, 512
TARGETS = {"network": 3.0, "folders": 5.0}
WAYS = ("plain", "ours")


class Stub:
    """A network that takes no time: of each shape of input, a copy of the same random logits."""

    def __init__(self) -> None:
        self.logits: dict[torch.Size, Tensor] = {}

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        shape = image.shape[-2:]
        if shape not in self.logits:
            generator = torch.Generator().manual_seed(len(self.logits))
            self.logits[shape] = torch.randn(1, 19, *shape, generator=generator).to(image.device)
        return {"out": self.logits[shape].repeat(len(image), 1, 1, 1)}


def plain_windows(model: Segmentor, image: Tensor) -> np.ndarray:
    """Logits [H, W, K] of an image [1, 3, H, W], one window at a time."""
    height, width = image.shape[-2:]
    if height < WINDOW or width < WINDOW:
        return model(image)["out"][0].permute(1, 2, 0).cpu().numpy()
    total, count = np.zeros((height, width, 19), np.float32), np.zeros((height, width, 1), np.float32)
    for top in window_starts(height, WINDOW, STRIDE):
        for left in window_starts(width, WINDOW, STRIDE):
            rows, columns = slice(top, top + WINDOW), slice(left, left + WINDOW)
            total[rows, columns] += model(image[..., rows, columns])["out"][0].permute(1, 2, 0).cpu().numpy()
            count[rows, columns] += 1
    return total / count


def plain_evaluation(model: Segmentor, image: np.ndarray, scales: list[float], flip: bool, device: str) -> np.ndarray:
    """Train ids [H, W] of a normalised image [H, W, 3]."""
    height, width = image.shape[:2]
    total = np.zeros((height, width, 19), np.float32)
    for scale in scales:
        resized = image if scale == 1 else cv2.resize(image, (int(width * scale), int(height * scale)))
        for step in (1, -1) if flip else (1,):
            pixels = np.ascontiguousarray(resized[:, ::step].transpose(2, 0, 1))
            logits = plain_windows(model, torch.from_numpy(pixels)[None].to(device))
            if scale != 1:
                logits = cv2.resize(logits, (width, height), interpolation=cv2.INTER_CUBIC)
            total += logits[:, ::step]
    return total.argmax(axis=2).astype(np.uint8)


def plain_scores(pairs: list[LabelPair], table: ClassTable) -> list[float]:
    """IoU of each class: label images read with Pillow, one comparison for each class."""
    shared, either = np.zeros(len(table)), np.zeros(len(table))
    for pair in pairs:
        prediction, truth = (np.asarray(Image.open(path)) for path in (pair.prediction, pair.truth))
        counted = np.isin(truth, table.id_of)
        for train_id, label_id in enumerate(table.id_of):
            ours, theirs = (prediction == label_id) & counted, truth == label_id
            shared[train_id] += (ours & theirs).sum()
            either[train_id] += (ours | theirs).sum()
    return (shared / np.maximum(either, 1)).tolist()


class Scene:
    """An image and its label in ``folder``, and both ways of evaluating a network on it; each returns the train ids."""

    def __init__(self, folder: Path, device: str, batch_size: int) -> None:
        self.device, self.batch_size, self.table = device, batch_size, load_table("cityscapes")
        self.pair = LabelPair(prediction=folder / "prediction.png", truth=folder / "label.png")
        image, label = draw_scene(np.random.default_rng(0), self.table, (HEIGHT, WIDTH))
        write_picture(self.pair.truth, label)
        self.image = torch.from_numpy(image.astype(np.float32) - 110).permute(2, 0, 1)[None].contiguous()
        self.label = torch.from_numpy(self.table.train_id_of[label])

    def run(
        self, way: str, model: Segmentor, scales: list[float], flip: bool, results: dict[str, np.ndarray], _: int
    ) -> None:
        """Evaluate by ``way``, "plain" or "ours", and keep the outcome in ``results``."""
        results[way] = getattr(self, way)(model, scales, flip)

    def plain(self, model: Segmentor, scales: list[float], flip: bool) -> np.ndarray:
        """Predict the plain way, write the label image, read it again, score."""
        nonlocal_block.attend, ours = plain_attend, nonlocal_block.attend
        try:
            image = self.image[0].permute(1, 2, 0).numpy()
            train_ids = plain_evaluation(model, image, scales, flip, self.device)
        finally:
            nonlocal_block.attend = ours
        write_picture(self.pair.prediction, self.table.id_of[train_ids])
        plain_scores([self.pair], self.table)
        return train_ids

    def ours(self, model: Segmentor, scales: list[float], flip: bool) -> np.ndarray:
        """As ``val``: predict, write the label image, score what is on the device."""
        infer = predictor(
            "mscrop",
            window=(WINDOW, WINDOW),
            batch_size=self.batch_size,
            scales=scales,
            flip=flip,
            interpolation="bicubic",
        )
        image = self.image.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device, torch.bfloat16, enabled=use_bfloat16("auto", torch.device(self.device))):
            prediction = predict(infer(model, image))[0]
        confusion = ConfusionMatrix(len(self.table), device=self.device)
        confusion.update(prediction, self.label)
        train_ids = prediction.cpu().numpy()
        write_picture(self.pair.prediction, self.table.id_of[train_ids])
        confusion.scores()
        return train_ids


@torch.inference_mode()
def measure_network(
    scene: Scene, backbone: str, repeats: int, scales: list[float], clock: Callable[[], float]
) -> dict[str, dict[str, float]]:
    """Seconds an image, and the share of pixels on which both ways agree: {protocol: {"plain", "ours", "equal"}}."""
    torch.manual_seed(0)
    plain = build_segmentor(
        num_classes=19,
        backbone={"name": backbone},
        head={"name": "nonlocal", "block": {"name": "disentangled", "whitening": "layer"}},
        aux=None,
    )
    plain = plain.eval().to(scene.device)
    ours = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    measured = {}
    for what, models, count in (("", (plain, ours), repeats), (", outside the network", (Stub(), Stub()), 5)):
        for name, chosen, flip in (("one scale", [1.0], False), (f"scales {scales} with flip", scales, True)):
            results: dict[str, np.ndarray] = {}
            candidates = {
                way: partial(scene.run, way, model, chosen, flip, results)
                for way, model in zip(WAYS, models, strict=True)
            }
            seconds = median_times(candidates, count, warm_up=int(what != ""), clock=clock)
            measured[name + what] = seconds | {"equal": float((results["plain"] == results["ours"]).mean())}
    return measured


def write_folders(folder: Path, count: int, table: ClassTable) -> list[LabelPair]:
    """Write labels, and predictions with displaced borders and wrong objects."""
    for name in ("label", "prediction"):
        (folder / name).mkdir()
    for i in range(count):
        rng = np.random.default_rng(i)
        label, other = (draw_scene(rng, table, (HEIGHT, WIDTH))[1] for _ in range(2))
        rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
        for grid in (rows, columns):
            noise = rng.normal(0, 6, (HEIGHT // 32, WIDTH // 32)).astype(np.float32)
            grid += cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        moved = cv2.remap(label, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        wrong = cv2.resize(rng.random((16, 32)).astype(np.float32), (WIDTH, HEIGHT)) > 0.8
        write_picture(folder / "label" / f"{i}.png", label)
        write_picture(folder / "prediction" / f"{i}.png", np.where(wrong, other, moved).astype(np.uint8))
    return find_pairs(folder / "prediction", folder / "label", table.dataset)


def measure_folders(pairs: list[LabelPair], table: ClassTable, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds for all ``pairs``, in one thread and in one for each core."""

    def ours(workers: int) -> list[float]:
        return score_pairs(pairs, table, workers).iou

    if not np.allclose(np.nan_to_num(ours(1)), plain_scores(pairs, table), rtol=0, atol=1e-12):
        raise SystemExit("the two ways score differently: their times cannot be compared")
    measured = {}
    for name, workers in (("one thread", 1), (f"{os.cpu_count()} threads", os.cpu_count())):
        candidates = {"plain": lambda _: plain_scores(pairs, table), "ours": lambda _, n=workers: ours(n)}
        measured[f"{len(pairs)} pairs of label PNGs, {name}"] = median_times(candidates, repeats)
    return measured


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=1, help="evaluations of which the median counts; 0: no network")
    options.add_argument("--scales", type=float, nargs="+", default=[0.5, 1.0], help="of the multi-scale evaluation")
    options.add_argument("--backbone", default="resnet101", help="a key of lib.models.BACKBONES")
    options.add_argument("--batch-size", type=int, help="windows at once, of ours; default 4, on a CPU 1")
    options.add_argument("--pairs", type=int, default=20, help="label PNGs in each folder; 0: no folders")
    options.add_argument("--cpu-time", action="store_true", help="of the network: seconds of CPU time")
    arguments = options.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    table, measured, rows = load_table("cityscapes"), {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.pairs:
            measured |= measure_folders(write_folders(folder, arguments.pairs, table), table, repeats=5)
        if arguments.images:
            scene = Scene(folder, device, arguments.batch_size or (4 if device == "cuda" else 1))
            measured |= measure_network(scene, arguments.backbone, arguments.images, arguments.scales, clock)
    for what, of in measured.items():
        of["ratio"] = of["plain"] / of["ours"]
        target = TARGETS.get("folders" if "PNGs" in what else "outside" if "outside" in what else "network")
        equal = f"{of['equal']:.2%}" if "equal" in of else ""
        shown = [f"{of[way]:.2f} s" for way in WAYS]
        rows.append([what, *shown, f"{of['ratio']:.2f}", f">= {target:g}" if target else "", equal])
    title = f"Evaluation of {WIDTH} x {HEIGHT} pixels, DNL on {arguments.backbone}, windows of {WINDOW}"
    header = ["", "plain", "this project", "ratio", "target", "equal pixels"]
    report(title, header, rows, measured, arguments.json)


if __name__ == "__main__":
    main()
