"""What the tests of the synchronised batch norm run: cases, PyTorch's own layers as the reference, four processes."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from exts.sync_bn import SyncBatchNorm

CHANNELS = 6
SLOPE = 0.2
SPLITS = {1: (7,), 2: (5, 2), 4: (3, 0, 1, 3)}
"""The size of the group: how many of the 7 images each process has."""
TOLERANCES = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
ACTIVATIONS = {"none": nn.Identity(), "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(SLOPE)}


@dataclass(frozen=True)
class Case:
    dtype: torch.dtype
    channels_last: bool
    activation: str
    inplace: bool

    def __str__(self) -> str:
        words = (str(self.dtype)[6:], "channels_last" * self.channels_last, self.activation, "inplace" * self.inplace)
        return "-".join(filter(None, words))


CASES = [
    Case(dtype, channels_last, activation, inplace)
    for dtype in TOLERANCES
    for channels_last in (False, True)
    for activation, inplace in (
        ("none", False), ("relu", False), ("leaky_relu", False), ("none", True), ("leaky_relu", True),
    )
]  # fmt: skip
PLAIN = Case(torch.float32, channels_last=False, activation="relu", inplace=False)


def batch(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Seven images and the gradient of a loss at the layer's output, representable in ``dtype``; both in float64."""
    random = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, 7, CHANNELS, 9, 5, generator=random, dtype=torch.float64)
    return (3 * x + 2).to(dtype).double(), grad.to(dtype).double()


def fill(norm: nn.Module) -> None:
    """Scales, shifts and running statistics that are none of the initial values."""
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1.5, 1.2, norm.num_features))
        norm.bias.copy_(torch.linspace(0.5, -1, norm.num_features))
        norm.running_mean.fill_(0.5)
        norm.running_var.fill_(2)


def run(norm: nn.Module, activation: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """Output, gradients and running statistics of one training step."""
    x = x.detach().requires_grad_()
    y = activation(norm(x.mul(1)))  # a leaf cannot be overwritten
    y.backward(grad)
    found = {"y": y.detach(), "x.grad": x.grad, "weight.grad": norm.weight.grad, "bias.grad": norm.bias.grad}
    return found | {name: value.clone() for name, value in norm.named_buffers()}


def run_ours(case: Case, x: Tensor, grad: Tensor, group: Any = None) -> dict[str, Tensor]:
    """``run`` of the layer on ``x`` in the case's type and memory format."""
    norm = SyncBatchNorm(
        CHANNELS, process_group=group, activation=case.activation, inplace=case.inplace, slope=SLOPE, device=x.device
    )
    norm = norm.double() if case.dtype == torch.float64 else norm
    fill(norm)
    memory_format = torch.channels_last if case.channels_last else torch.contiguous_format
    x, grad = (tensor.to(case.dtype).contiguous(memory_format=memory_format) for tensor in (x, grad))
    found = run(norm, nn.Identity(), x, grad)
    assert found["y"].dtype == case.dtype and found["y"].is_contiguous(memory_format=memory_format)
    return found


def run_reference(case: Case) -> dict[str, Tensor]:
    """``nn.BatchNorm2d`` and the activation on the whole batch, in float64."""
    norm = nn.BatchNorm2d(CHANNELS, dtype=torch.float64)
    fill(norm)
    return run(norm, ACTIVATIONS[case.activation], *batch(case.dtype))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest error, relative to the largest expected value."""
    return ((found.cpu().double() - expected.double()).abs().max() / expected.abs().max()).item()


def work(rank: int, folder: str) -> None:
    """One of four processes: runs every case in groups of 1, 2 and 4 and leaves what it found in ``folder``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=4)
    found = {}
    groups = {size: dist.new_group(list(range(size))) for size in SPLITS}
    for size, split in SPLITS.items():
        if rank >= size:
            continue
        group = groups[size]
        for case in CASES:
            x, grad = (tensor.split(split)[rank] for tensor in batch(case.dtype))
            found[size, case] = run_ours(case, x, grad, group)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            run_ours(PLAIN, x, grad, group)
        collectives = [event.name for event in profile.events() if event.name.startswith("c10d::")]
        found[size, "collectives"] = Counter(collectives)
    nobody = torch.empty(0, CHANNELS, 9, 5)
    found["empty"] = run_ours(PLAIN, nobody, nobody)
    if rank < 2:
        found["compiled"] = _compiled_step(rank, groups[2])
    found["eval"] = SyncBatchNorm(CHANNELS).eval()(torch.ones(1, CHANNELS)) if rank == 0 else None
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def _compiled_step(rank: int, group: dist.ProcessGroup) -> list[float]:
    """Largest differences between compiled and eager outputs and gradients of input and scale."""
    network = nn.Sequential(
        nn.Conv2d(CHANNELS, CHANNELS, 3), SyncBatchNorm(CHANNELS, process_group=group, activation="relu")
    )
    nn.init.uniform_(network[0].weight, generator=torch.Generator().manual_seed(1))
    x = batch(torch.float32)[0].float().split(SPLITS[2])[rank]
    steps = []
    for run in (network, torch.compile(network, fullgraph=True, backend="aot_eager")):
        network.zero_grad()
        y = run(x)
        y.square().sum().backward()
        steps.append([y.detach(), network[0].weight.grad.clone(), network[1].weight.grad.clone()])
    return [(a - b).abs().sum().item() for a, b in zip(*steps, strict=True)]
