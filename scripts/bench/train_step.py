"""Time and memory of one DNL-R101 training step: bfloat16 and channels last, against float32 with the plain formula.

A step is forward, OHEM and auxiliary loss, backward and SGD, as in the Cityscapes recipe. Each variant runs in a
process of its own; memory is what it adds to the process's peak after the imports, on a GPU the allocator's peak.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from attention import plain_attend
from common import parser, report
from memory import peak_bytes

from datasets.seg.classes import load_table
from lib.losses import SegmentationLoss
from lib.models import build_segmentor
from lib.models.blocks import nonlocal_block
from lib.optim import build_optimizer

VARIANTS = ("fp32 contiguous, plain attention", "bf16 channels last, ours")
TARGET_SPEED, TARGET_MEMORY = 3.0, 0.65


def measure(
    variant: int, *, size: int, batch: int, steps: int, backbone: str, cpu_time: bool, device: str
) -> dict[str, float]:
    """Median seconds of a step after a first one, the peak in MB and the last loss."""
    before = peak_bytes(device)
    torch.manual_seed(0)
    network = build_segmentor(
        num_classes=19,
        backbone={"name": backbone},
        head={"name": "nonlocal", "block": {"name": "disentangled", "whitening": "layer"}},
        aux={},
    )
    image = torch.randn(batch, 3, size, size)
    label = torch.randint(19, (batch, size, size)).to(device)
    if variant == 0:
        nonlocal_block.attend = plain_attend
        network, image = network.to(device), image.to(device)
    else:
        network = network.to(device, memory_format=torch.channels_last)
        image = image.to(device, memory_format=torch.channels_last)
    loss_of = SegmentationLoss("ohem", weight=load_table("cityscapes").weights).to(device)
    optimizer = build_optimizer(network, lr=0.01, momentum=0.9, weight_decay=5e-4)
    clock = time.process_time if cpu_time else time.perf_counter
    seconds = []
    for _ in range(1 + steps):
        begin = clock()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=variant == 1):
            outputs = network(image)
        loss = loss_of(outputs, label)["loss"]
        del outputs
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - begin)
    return {
        "seconds": statistics.median(seconds[1:]),
        "peak_mb": (peak_bytes(device) - before) / 1e6,
        "loss": loss.item(),
    }


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--size", type=int, default=769, help="height and width of the images")
    options.add_argument("--batch", type=int, default=2, help="images of a step")
    options.add_argument("--steps", type=int, default=3, help="steps of which the median counts, after a first one")
    options.add_argument("--backbone", default="resnet101", help="a key of lib.models.BACKBONES")
    options.add_argument("--cpu-time", action="store_true", help="seconds of CPU time, for a machine that others use")
    options.add_argument("--variant", type=int, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    settings = {name: getattr(arguments, name) for name in ("size", "batch", "steps", "backbone")}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.variant is not None:
        print(json.dumps(measure(arguments.variant, cpu_time=arguments.cpu_time, device=device, **settings)))
        return
    measured = []
    for variant in range(len(VARIANTS)):
        command = [sys.executable, __file__, "--variant", str(variant)]
        command += [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        command += ["--cpu-time"] if arguments.cpu_time else []
        measured.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    baseline, ours = measured
    speed, memory = baseline["seconds"] / ours["seconds"], ours["peak_mb"] / baseline["peak_mb"]
    rows = [
        [name, f"{figures['seconds']:.2f} s", f"{figures['peak_mb']:.0f} MB", f"{figures['loss']:.3f}"]
        for name, figures in zip(VARIANTS, measured, strict=True)
    ]
    rows.append(["speed-up, share of memory", f"{speed:.2f}x", f"{memory:.0%}", ""])
    rows.append(["target", f">= {TARGET_SPEED:g}x", f"<= {TARGET_MEMORY:.0%}", ""])
    figures = {**settings, "variants": dict(zip(VARIANTS, measured, strict=True)), "speed_up": speed, "memory": memory}
    title = f"One training step, DNL on {arguments.backbone}, {arguments.batch} x {arguments.size} x {arguments.size}"
    report(title, ["variant", "step", "peak memory", "loss"], rows, figures, arguments.json)


if __name__ == "__main__":
    main()
