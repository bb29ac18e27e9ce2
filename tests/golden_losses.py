"""Replays the fixtures of mmsegmentation's losses, family ``mmseg/loss``, for ``tests/replay_golden.py``."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from lib.base.peers import ALONE
from lib.losses import SegmentationLoss
from lib.losses.mining import hard_pixels
from lib.losses.pixels import pixel_terms
from lib.models.segmentor import Segmentor

GRADIENT = 10.0


class Recorded(nn.Module):
    """Gives the same logits for every image."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, image: Tensor) -> Tensor:
        return self.logits


def replay_mmseg_loss(
    case: dict, arrays: dict[str, Tensor], directory: Path
) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """Loss of logits that a segmentor brought to the labels' size, its gradient, and the pixels that OHEM picked.

    A loss without sampler is both that of the main and that of the auxiliary output. Gradients are compared in units of
    the largest one, which is small where the pixels are many.
    """
    label, sampler = arrays["target"].long(), case["sampler"]
    options = {
        "weight": case["class_weight"],
        "ignore": case["ignore_index"],
        "mean": "labelled" if case["avg_non_ignore"] else "all",
    }
    if sampler:
        options |= {"ohem_threshold": sampler["thresh"], "ohem_min_kept": sampler["min_kept"]}
    loss_of = SegmentationLoss("ohem" if sampler else "cross_entropy", aux_weight=case["loss_weight"], **options)
    image = torch.zeros(len(label), 3, *label.shape[-2:])
    unit = arrays["grad"].abs().max().clamp(min=1e-12)

    logits = arrays["logits"].requires_grad_()
    network = Segmentor(Recorded(logits), nn.Identity(), nn.Identity(), align_corners=case["align_corners"])
    outputs = network(image)
    loss = case["loss_weight"] * loss_of({"out": outputs["out"]}, label)["loss"]
    yield "loss", loss.detach(), arrays["loss"], 1
    yield "grad", torch.autograd.grad(loss, logits)[0] / unit, arrays["grad"] / unit, GRADIENT
    if sampler:
        terms = pixel_terms(outputs["out"].detach(), label, loss_of.weight, case["ignore_index"])
        picked = hard_pixels(*terms, sampler["thresh"], sampler["min_kept"], ALONE)
        yield "picked", picked.float(), arrays["picked"].float(), 1
        return
    losses = loss_of(
        {name: value.detach() if name == "out" else value for name, value in network(image).items()}, label
    )
    yield "loss as auxiliary", losses["loss"].detach() - losses["out"], arrays["loss"], 1
    yield "grad as auxiliary", torch.autograd.grad(losses["loss"], logits)[0] / unit, arrays["grad"] / unit, GRADIENT
