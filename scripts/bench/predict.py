"""Images/s of ``main.py predict`` on a folder of 2048 x 1024 images with a small network, against the plain loop.

The plain loop does what a script of twenty lines does: Pillow reads an image, NumPy normalises it, the network runs in
float32 with contiguous feature maps on the whole image, and Pillow writes the label image and the overlay, one after
the other. This project runs as the command does. Both write the same two files for each image; "equal pixels" is how
much of the label images agrees, which rounding in bfloat16 keeps below 100 %. On a CPU that others use, ``--cpu-time``
gives the figures to read, though what overlapping gains does not show in them.
"""

import contextlib
import io
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import median_times, parser, report
from data import draw_scene
from PIL import Image

from datasets.seg.classes import load_table
from lib.engine.checkpoint import CheckpointFiles
from lib.predict.output import Output
from lib.predict.run import predict_sources
from lib.predict.sources import find_sources
from lib.recipes import to_yaml
from lib.tasks import load_config, make_task
from lib.tasks.trained import Trained, open_trained

HEIGHT, WIDTH = 1024, 2048
TARGET = 2.5
SETTINGS = (
    "tag=bench",
    "val.mode=ss",
    "model.head.name=fcn",
    "model.head.options={width: 64}",
    "model.aux.enabled=false",
    "model.backbone.output_stride=32",
)


def write_network(folder: Path, backbone: str) -> Path:
    """A checkpoint of a network with random weights."""
    config = load_config(None, [*SETTINGS, f"model.backbone.name={backbone}"])
    task = make_task(config)
    state = {"model": task.network().state_dict(), "iteration": 0, "config": to_yaml(config), **task.texts}
    CheckpointFiles(folder, keep=1).save(state, 0, is_best=True)
    return folder / "best.pth"


def write_images(folder: Path, count: int, ending: str) -> None:
    """Drawn scenes with the noise of a camera, without which they would be read faster than photographs are."""
    table = load_table("cityscapes")
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        image = draw_scene(rng, table, (HEIGHT, WIDTH))[0]
        noisy = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number}.{ending}")


@torch.no_grad()
def plain(trained: Trained, network: torch.nn.Module, images: Path, out: Path) -> None:
    """The loop of a script of twenty lines."""
    (out / "label").mkdir(parents=True)
    (out / "vis").mkdir()
    data, table = trained.config.data, trained.task.table
    mean, std = (np.array(values, np.float32) for values in (data.mean, data.std))
    for path in sorted(images.iterdir()):
        image = np.asarray(Image.open(path).convert("RGB"))
        values = image[..., ::-1] if data.color_order == "bgr" else image
        normalised = ((values.astype(np.float32) - mean) / std).transpose(2, 0, 1)
        logits = network(torch.from_numpy(np.ascontiguousarray(normalised))[None].to(trained.device))["out"]
        train_ids = logits.argmax(1)[0].cpu().numpy().astype(np.uint8)
        Image.fromarray(table.id_of[train_ids]).save(out / "label" / f"{path.stem}.png")
        shown = 0.5 * table.palette[train_ids] + 0.5 * image
        Image.fromarray(shown.astype(np.uint8)).save(out / "vis" / f"{path.stem}.jpg", quality=90)


def ours(trained: Trained, images: Path, out: Path) -> None:
    """What the command does once the network is there."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        sources = find_sources([str(images)], out)
        predict_sources(trained, sources, Output(out, trained.task.table), {}, batch=0, overwrite=True)


def agreement(one: Path, other: Path) -> float:
    """The share of pixels on which the label images in two folders agree."""
    pairs = [(np.asarray(Image.open(path)), np.asarray(Image.open(other / path.name))) for path in one.iterdir()]
    return float(np.mean([(a == b).mean() for a, b in pairs]))


def measure(folder: Path, backbone: str, ending: str, options, clock: Callable[[], float]) -> dict[str, float]:
    """Images/s of both ways, their ratio, and the share of equal pixels."""
    images = folder / f"images of {ending}"
    if not images.exists():
        write_images(images, options.images, ending)
    trained = open_trained(write_network(folder, backbone))
    network = open_trained(folder / "best.pth", ["train.channels_last=false"]).network

    def fresh(way: str) -> Path:
        shutil.rmtree(folder / way, ignore_errors=True)
        return folder / way

    candidates = {
        "plain": lambda _: plain(trained, network, images, fresh("plain")),
        "ours": lambda _: ours(trained, images, fresh("ours")),
    }
    seconds = median_times(candidates, options.repeats, clock=clock)
    found = {way: options.images / of_all for way, of_all in seconds.items()}
    equal = agreement(folder / "plain" / "label", folder / "ours" / "label")
    return found | {"ratio": found["ours"] / found["plain"], "equal": equal}


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=8, help="in the folder")
    options.add_argument("--repeats", type=int, default=3, help="runs of which the median counts, after one more")
    options.add_argument("--backbone", default="resnet18", help="a key of lib.models.BACKBONES")
    options.add_argument("--endings", nargs="+", default=["png", "jpg"], help="kinds of images")
    options.add_argument("--cpu-time", action="store_true", help="seconds of CPU time")
    arguments = options.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    figures, rows = {}, []
    with tempfile.TemporaryDirectory() as name:
        for ending in arguments.endings:
            found = figures[ending] = measure(Path(name), arguments.backbone, ending, arguments, clock)
            rates = [f"{found[way]:.2f} images/s" for way in ("plain", "ours")]
            rows.append([ending, *rates, f"{found['ratio']:.2f}", f">= {TARGET:g}", f"{found['equal']:.2%}"])
    title = f"Predicting {arguments.images} images of {WIDTH} x {HEIGHT} with FCN on {arguments.backbone}"
    report(title, ["images", "plain", "this project", "ratio", "target", "equal pixels"], rows, figures, arguments.json)


if __name__ == "__main__":
    main()
