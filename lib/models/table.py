"""The table of networks: what every backbone, head and block of the registries costs."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lib.models import BACKBONES, BLOCKS, HEADS, build_segmentor

HEADER = ("backbone", "head", "block", "output stride", "parameters (M)", "GMACs")


def network_rows(crop_size: tuple[int, int], num_classes: int = 19) -> Iterator[tuple[str, ...]]:
    """The rows of ``HEADER``'s table: the published head on every backbone, every other one on ResNet-101, and there
    the block within the backbone, after the second-last unit of layer3.

    Parameters and multiply-accumulates are those of inference, without the auxiliary head. Nothing is computed: the
    networks are built and run on PyTorch's meta device.

    Args:
        crop_size: width and height of the image whose multiply-accumulates are counted.
        num_classes: K.
    """
    specs = [(backbone, "nonlocal", "disentangled", {}) for backbone in BACKBONES]
    specs += [("resnet101", "nonlocal", block, {}) for block in BLOCKS if block != "disentangled"]
    specs += [("resnet101", head, "", {}) for head in HEADS if head not in ("nonlocal", "auxiliary")]
    specs += [("resnet101", "fcn", "disentangled in layer3", {"layer3": [-2]})]
    image = torch.empty(1, 3, *reversed(crop_size), device="meta")
    known: dict[tuple[str, bool], tuple[list[Tensor], int]] = {}
    for backbone, head, block, inside in specs:
        with torch.device("meta"):
            network = build_segmentor(
                num_classes=num_classes,
                backbone={"name": backbone, "blocks": inside},
                head={"name": head, "block": {"name": block}},
                aux=None,
            ).eval()
        # The counter follows gradients wherever a module is given something that has any.
        network.requires_grad_(False)
        if (backbone, bool(inside)) not in known:
            known[backbone, bool(inside)] = _run(network.backbone, image)
        features, operations = known[backbone, bool(inside)]
        _, further = _run(network.head, features)
        stride = round((image.shape[2] - 1) / (features[-1].shape[2] - 1))
        parameters = sum(parameter.numel() for parameter in network.parameters())
        figures = (f"{parameters / 1e6:.1f}", f"{(operations + further) / 1e9:.0f}")
        yield (backbone, head, block, str(stride), *figures)


def _run(module: nn.Module, argument: Tensor | list[Tensor]) -> tuple[list[Tensor], int]:
    """What ``module`` returns, and its multiply-accumulates in convolutions and matrix products."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        outputs = module(argument)
    return outputs, counter.get_total_flops() // 2


def markdown(rows: list[tuple[str, ...]]) -> str:
    """The table in Markdown."""
    lines = (HEADER, ("---", "---", "---", "--:", "--:", "--:"), *rows)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
