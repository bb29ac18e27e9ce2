"""how fast this machine trains and predicts with a recipe: one row to paste

Measured on what train and val themselves use. Without data.root, on random images that are made for it.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lib.base.errors import UserError
from lib.commands._options import add_configuration

if TYPE_CHECKING:
    from lib.config import Config

MADE = {"train": 8, "val": 1}
"""Images of the data that is made."""
MADE_FACTOR, LARGEST_SIDE = 1.5, 4096
"""Of their sides and those of a crop; and the most pixels that a side has."""


def add_options(parser: argparse.ArgumentParser) -> None:
    add_configuration(parser)
    parser.add_argument("--seconds", type=float, default=8, metavar="N", help="that each of five measurements takes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")


def run(options: argparse.Namespace) -> None:
    began = time.perf_counter()
    import os

    from lib.tasks import load_config, make_task

    if not 0 < options.seconds <= 3600:
        raise UserError(f"--seconds {options.seconds:g} has to be above 0 and at most 3600")
    if options.json and not options.json.absolute().parent.is_dir():
        raise UserError(f"cannot write {options.json}: {options.json.parent} is not a folder")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("benchmark measures one process: start it with python, not with torchrun")
    with TemporaryDirectory(prefix="benchmark") as made:
        config = load_config(options.config, options.overrides)
        data = "its own data"
        if not config.data.root:
            data = _make_data(Path(made), make_task(config), config)
            config.data.root = made
        figures = measure(config, options.seconds, began)
    _tell(config, figures, data, options.json)


def measure(config: "Config", seconds: float, began: float) -> dict[str, Any]:
    """All figures, by their names in the JSON file.

    Args:
        config: of the recipe.
        seconds: of each measurement.
        began: ``time.perf_counter()`` at the program's start.
    """
    from lib.engine import benchmark
    from lib.engine.distribute import join_world
    from lib.tasks import make_task

    with join_world(config.device) as world:
        task = make_task(config)
        height, width = task.eval_data("val")[0]["image"].shape[-2:]
        training, network = benchmark.measure_training(task, config, world, seconds, began)
        peak = benchmark.matmul_flops(world.device, training.bfloat16, seconds)
        figures = {
            "device": world.device.type,
            "precision": "bfloat16" if training.bfloat16 else "float32",
            "training_images_per_s": training.images_per_s,
            "training_images_per_s_without_data": training.images_per_s_without_data,
            "peak_gib": training.peak_bytes / 2**30,
            "gflops_per_image": training.flops_per_image / 1e9,
            "tflops_per_s": training.flops_per_s / 1e12,
            "matmul_tflops_per_s": peak / 1e12,
            "share_of_matmul": training.flops_per_s / peak,
            "first_iteration_s": training.first_iteration_s,
        }
        for name, mode in {"whole": "ss", "windows": "sscrop"}.items() if hasattr(config.val, "mode") else ():
            config.val.mode = mode
            rate = benchmark.measure_inference(make_task(config), network, config, world, seconds)
            figures[f"inference_images_per_s_{name}"] = rate
        return figures | {"inference_size": [width, height]}


def _make_data(root: Path, task: Any, config: "Config") -> str:
    from datasets.seg.made import write_random

    if config.task != "seg":
        raise UserError(f"there is nothing to measure task={config.task} with: give data.root=DATA_DIR")
    size = tuple(min(LARGEST_SIDE, round(MADE_FACTOR * side)) for side in config.data.crop_size)
    write_random(root, task.table, size, MADE)
    return f"{MADE['train']} random images of {size[0]} x {size[1]} pixels (no data.root was given)"


def _tell(config: "Config", figures: dict[str, Any], data: str, file: Path | None) -> None:
    """Print the row and what it was measured on; with ``file``, write both there too."""
    import json

    from lib.base.atomic import write_atomically
    from lib.base.machine import environment

    described = environment()
    train, size = config.train, "{} x {}".format(*config.data.crop_size)
    switches = [name for name in ("channels_last", "compile") if getattr(train, name)]
    row = {
        "recipe": f"{config.data.dataset}/{config.recipe}",
        "machine": described["gpu"] if figures["device"] == "cuda" else described["machine"],
        "versions": described["versions"],
        "precision": ", ".join([figures["precision"], *switches]),
        "crop, batch": f"{size}, {train.batch_size}",
        "training images/s": f"{figures['training_images_per_s']:.3g}",
        "without data": f"{figures['training_images_per_s_without_data']:.3g}",
        "peak memory": f"{figures['peak_gib']:.2f} GiB",
        "TFLOP/s": f"{figures['tflops_per_s']:.3g}",
        "of matmul's": f"{figures['share_of_matmul']:.0%} of {figures['matmul_tflops_per_s']:.3g}",
        "val images/s, whole": f"{figures['inference_images_per_s_whole']:.3g}",
        "by windows": f"{figures['inference_images_per_s_windows']:.3g}",
        "of": "{} x {}".format(*figures["inference_size"]),
        "first iteration": f"{figures['first_iteration_s']:.1f} s",
    }
    for cells in (row, ["---"] * len(row), row.values()):
        print("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    print(f"\ndata: {data}, {config.data.workers} workers; {figures['gflops_per_image']:.4g} GFLOP an image and step")
    print("\n".join(f"{name}: {value}" for name, value in described.items()))
    if file:
        content = {"environment": described, "recipe": row["recipe"], "data": data, "figures": figures}
        write_atomically(file, lambda target: target.write(f"{json.dumps(content, indent=2)}\n".encode()))
