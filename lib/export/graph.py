"""What is exported: a network from its image, raw or normalised, to logits or label ids, in standard operators."""

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from datasets.seg.pixels import Pixels
from lib.base.errors import UserError
from lib.base.memory import shortage
from lib.models.standard import plan_blocks, standard_operators

VALUES = ("uint8", "float32")
"""Types of the values that a graph with preprocessing takes."""


class Graph(nn.Module):
    """A segmentor as a function of one tensor.

    Args:
        network: takes normalised images float32 [B, C, H, W] and returns {"out": logits [B, K, H, W]}.
        pixels: with it the graph takes images [B, H, W, C] on their own scale, three bands as RGB, others in the file's
            order, and normalises them itself; what is not finite becomes the mean.
        values: of which type, "uint8" or "float32".
        ids: with it the graph returns uint8 [B, H, W], entry k of ``ids`` where class k has the largest logit.
    """

    def __init__(
        self,
        network: nn.Module,
        pixels: Pixels | None = None,
        values: str = "uint8",
        ids: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.values = network, values
        self.normalises, self.classifies = pixels is not None, ids is not None
        if self.normalises:
            self.reverses = pixels.bands == 3 and pixels.color_order == "bgr"
            for name in ("mean", "std"):
                self.register_buffer(name, torch.tensor(getattr(pixels, name))[:, None, None])
        if self.classifies:
            self.register_buffer("ids", torch.tensor(np.array(ids)).to(torch.uint8))

    def forward(self, image: Tensor) -> Tensor:
        if self.normalises:
            image = self._normalise(image)
        logits = self.network(image)["out"]
        return self.ids[logits.argmax(1)] if self.classifies else logits

    def _normalise(self, image: Tensor) -> Tensor:
        image = image.permute(0, 3, 1, 2).float()
        if self.reverses:
            image = image.flip(1)
        image = (image - self.mean) / self.std
        # Infinities less themselves are no number.
        return image if self.values == "uint8" else torch.where((image - image) == 0, image, 0.0)

    def example(self, batch: int, bands: int, size: tuple[int, int]) -> Tensor:
        """An input for images of ``size``, (height, width)."""
        if self.normalises:
            return torch.zeros(batch, *size, bands, dtype=getattr(torch, self.values))
        return torch.zeros(batch, bands, *size)


@torch.no_grad()
def trace(
    graph: Graph, bands: int, size: tuple[int, int], *, dynamic: bool, entries: int, name: str
) -> tuple[torch.export.ExportedProgram, list[int]]:
    """The graph as a program of standard operators.

    Args:
        size: height and width that it takes; with ``dynamic`` those for which blocks of queries are planned.
        dynamic: whether it takes any number of images of any size instead of one image of ``size``.
        entries: the most of one image's map of affinities that are held at a time.
        name: of the network, for messages.

    Returns:
        The program, and in how many blocks of queries each of its maps is made.

    Raises:
        UserError: if the network cannot take that size, or has what cannot be exported.
    """
    shape = graph.example(1, bands, size)
    try:
        with plan_blocks(entries) as counts:
            copy.deepcopy(graph).to("meta")(shape.to("meta"))
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--size {size[0]} {size[1]}: the network takes no image of that size ({reason})") from None
    dynamic_shapes = None
    if dynamic:
        # Two images of unequal sides, so that no two dimensions are taken for the same or for 1.
        height, width = size if size[0] != size[1] else (size[0], size[1] + 8)
        shape = graph.example(2, bands, (height, width))
        dims = (0, 1, 2) if graph.normalises else (0, 2, 3)
        dynamic_shapes = ({dim: torch.export.Dim.DYNAMIC for dim in dims},)
    try:
        with quietly(), standard_operators(counts):
            return torch.export.export(graph, (shape,), dynamic_shapes=dynamic_shapes, strict=False), counts
    except Exception as error:
        if shortage(error):
            raise
        raise UserError(f"{name} cannot be exported: {_where(error)}") from error


def _where(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"


@contextmanager
def quietly() -> Iterator[None]:
    """Without the many notes of exporters, which are not for users."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
