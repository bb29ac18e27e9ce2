"""A trained block looking at images: its attention, and which pixels the positions of its map are."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.seg.classes import IGNORE
from lib.base.errors import UserError
from lib.engine.distribute import use_bfloat16
from lib.engine.evaluate import memory_format
from lib.models.attending import attending_blocks, inputs_of
from lib.models.blocks.terms import AttentionTerms
from lib.resizing import Size
from lib.tasks.trained import Trained


@dataclass(frozen=True)
class Grid:
    """Where the positions of a map are in an image, which is resized and padded before the network sees it.

    Attributes:
        image: (height, width) of the image itself.
        resized: its size as the network is shown it.
        padded: the same with padding at the right and the bottom.
        align_corners: whether the outer positions are the outer pixels, as ``model.align_corners`` takes it; otherwise
            each position has an equal part of the padded image, and is its centre.
    """

    image: Size
    resized: Size
    padded: Size
    align_corners: bool = False

    def centres(self, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """Where the rows and the columns of a map of ``size`` are, in pixels of the image; pixel 0 is at 0.5."""
        rows, columns = (
            (np.arange(count) * step + start) * whole / resized
            for count, (step, start), whole, resized in zip(
                size, self._steps(size), self.image, self.resized, strict=True
            )
        )
        return rows, columns

    def _steps(self, size: Size) -> list[tuple[float, float]]:
        """Down and across, in pixels of the padded image: from one position to the next, and where the first one is."""
        if not self.align_corners:
            return [(side / count, 0.5 * side / count) for side, count in zip(self.padded, size, strict=True)]
        return [
            ((side - 1) / (count - 1), 0.5) if count > 1 else (float(side), 0.5 * side)
            for side, count in zip(self.padded, size, strict=True)
        ]

    def position(self, x: int, y: int, size: Size) -> int:
        """The position nearest to the centre of a pixel, counted along the rows of a map of ``size``."""
        rows, columns = self.centres(size)
        return int(np.abs(rows - y - 0.5).argmin()) * size[1] + int(np.abs(columns - x - 0.5).argmin())

    def label(self, label: np.ndarray, size: Size) -> Tensor:
        """The label [H, W] of the pixel in which each position lies: int64 ``size``, ``IGNORE`` in the padding."""
        found = np.full(size, IGNORE, np.int64)
        rows, columns = (np.floor(centres).astype(int) for centres in self.centres(size))
        height, width = self.image
        found[np.ix_(rows < height, columns < width)] = label[np.ix_(rows[rows < height], columns[columns < width])]
        return torch.from_numpy(found)

    def spread(self, weights: np.ndarray) -> np.ndarray:
        """A map float32 [h, w] at the image's own size, bilinearly between positions."""
        whole = torch.from_numpy(weights)[None, None]
        whole = F.interpolate(whole, self.padded, mode="bilinear", align_corners=self.align_corners)[0, 0].numpy()
        shown = whole[: self.resized[0], : self.resized[1]]
        return shown if self.resized == self.image else cv2.resize(shown, self.image[::-1])

    def pixels(self, size: Size) -> tuple[float, float]:
        """Down and across, in pixels of the image: how much of it all positions of a map of ``size`` stand for."""
        height, width = (
            count * step * whole / resized
            for count, (step, _), whole, resized in zip(size, self._steps(size), self.image, self.resized, strict=True)
        )
        return height, width


@dataclass(frozen=True)
class Seen:
    """One image as a block attends to it.

    Attributes:
        attention: its terms.
        inputs: what the block was given.
        grid: which pixels its positions are.
    """

    attention: AttentionTerms
    inputs: tuple[Tensor, ...]
    grid: Grid


class View:
    """One block of a trained network. Images are seen whole, resized and in the precision as in validation; the
    block itself computes in float32.

    Args:
        trained: the network.
        block: the block's name in it; by default the last one that attends.

    Raises:
        UserError: the network has no such block.
    """

    def __init__(self, trained: Trained, block: str = "") -> None:
        blocks = attending_blocks(trained.network)
        if not blocks:
            raise UserError(
                f"the network of {trained.path} has no block with an attention to show (model.head.name is "
                f"{trained.config.model.head.name}): name one with a non-local block or a relative of it"
            )
        if block and block not in blocks:
            raise UserError(f"--block {block}: {trained.path} has {', '.join(blocks)}")
        self.trained, self.name = trained, block or list(blocks)[-1]
        self.block: nn.Module = blocks[self.name]

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Seen:
        """Look at one normalised image, [C, H, W]."""
        trained = self.trained
        image = image[None].to(trained.device, memory_format=memory_format(trained.config.train))
        shown, resized = trained.task.predictor.shown(image)
        bfloat16 = use_bfloat16(trained.config.train.amp, trained.device)
        with torch.autocast(trained.device.type, torch.bfloat16, enabled=bfloat16):
            given = tuple(features.float() for features in inputs_of(trained.network, self.block, shown))
        aligned = trained.config.model.align_corners
        grid = Grid(tuple(image.shape[-2:]), resized, tuple(shown.shape[-2:]), aligned)
        return Seen(self.block.attention(*given), given, grid)

    @cached_property
    def untrained(self) -> nn.Module:
        """The same block with the weights that the run's seed begins with."""
        network = self.trained.task.network().eval().requires_grad_(False)
        block = network.get_submodule(self.name)
        return block.to(self.trained.device)

    @property
    def facts(self) -> dict[str, Any]:
        """Which block of which network."""
        return {"checkpoint": str(self.trained.path), "iter": self.trained.iteration, "block": self.name}
