"""Whether an exported file says what the checkpoint says."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn

from datasets.seg.pixels import Pixels
from lib.export.formats import Run

TOLERANCE = 1e-4
"""The largest difference of a logit, as a share of the range of an image's logits."""

FOLDING_TOLERANCE = 1e-5
"""The same between the network and the one with batch norm folded."""


@dataclass(frozen=True)
class Feed:
    """How the values of an image become what a graph takes.

    Attributes:
        pixels: of the network.
        values: "uint8" or "float32" where the graph normalises by itself, None where it does not.
    """

    pixels: Pixels
    values: str | None = None

    def draw(self, batch: int, size: tuple[int, int], seed: int) -> np.ndarray:
        """Images [B, H, W, C] with large and small structure, of three bands as BGR."""
        generator = np.random.default_rng(seed)
        shape = batch, -(-size[0] // 16), -(-size[1] // 16), self.pixels.bands
        coarse = [cv2.resize(image, size[::-1]) for image in generator.normal(size=shape)]
        coarse = np.stack(coarse).reshape(batch, *size, self.pixels.bands)
        image = self.pixels.mean + np.maximum(self.pixels.std, self._contrast) * coarse
        image += 0.2 * self._contrast * generator.normal(size=image.shape)
        return image.clip(0, 255).round().astype(np.uint8) if self._has_levels else image.astype(np.float32)

    @property
    def _has_levels(self) -> bool:
        return self.values == "uint8" or (self.values is None and self.pixels.bands == 3 and max(self.pixels.mean) > 2)

    @property
    def _contrast(self) -> np.ndarray:
        """Of grey levels whose deviation the configuration leaves at 1, as for Caffe's weights."""
        return np.full(self.pixels.bands, 50.0) if self._has_levels else np.array(self.pixels.std)

    def normalised(self, images: np.ndarray) -> torch.Tensor:
        """What the network takes: float32 [B, C, H, W]."""
        out = np.empty((len(images), self.pixels.bands, *images.shape[1:3]), np.float32)
        for image, target in zip(images, out, strict=True):
            self.pixels.normalise(image, target)
        return torch.from_numpy(out)

    def given(self, images: np.ndarray) -> np.ndarray:
        """What the graph takes."""
        if self.values is None:
            return self.normalised(images).numpy()
        ordered = images[..., ::-1] if self.pixels.bands == 3 else images
        return np.ascontiguousarray(ordered, dtype=self.values)

    def from_normalised(self, images: torch.Tensor) -> np.ndarray:
        """What the graph takes, of images that were normalised before: uint8 rounds."""
        if self.values is None:
            return images.numpy()
        levels = self.pixels.levels(images)
        if self.pixels.bands == 3 and self.pixels.color_order == "bgr":
            levels = levels.flip(1)
        levels = levels.permute(0, 2, 3, 1).contiguous().numpy()
        return levels.round().clip(0, 255).astype(np.uint8) if self.values == "uint8" else levels


@dataclass(frozen=True)
class Difference:
    """Between file and checkpoint on one input.

    Attributes:
        shape: of the batch of images: (batch, height, width).
        share: the largest difference of a logit, as a share of their range; of label ids the share of the pixels that
            differ although the checkpoint's best two logits do so by more than ``TOLERANCE``.
    """

    shape: tuple[int, int, int]
    share: float

    @property
    def passes(self) -> bool:
        # Not a number is no less either.
        return self.share <= TOLERANCE

    def __str__(self) -> str:
        batch, height, width = self.shape
        return f"{batch} x {height} x {width}: {self.share:.1e}"


def sizes_to_try(size: tuple[int, int], *, dynamic: bool) -> list[tuple[int, int, int]]:
    """Three batches (batch, height, width): with ``dynamic`` of three sizes, of which one is odd and one on end."""
    height, width = size
    if not dynamic:
        return [(1, height, width)] * 3
    return [(1, height, width), (2, max(33, height * 3 // 4 | 1), max(41, width // 2)), (1, width + 24, height + 7)]


@torch.no_grad()
def differences(
    run: Run, network: nn.Module, feed: Feed, batches: Sequence[tuple[int, int, int]], ids: np.ndarray | None = None
) -> list[Difference]:
    """How far an exported file is from a network, on drawn images.

    Args:
        ids: where the file returns label ids: those of the classes.
    """
    found = []
    for seed, (batch, *size) in enumerate(batches):
        images = feed.draw(batch, tuple(size), seed)
        expected = network(feed.normalised(images))["out"].numpy()
        actual = run(feed.given(images))
        if ids is None:
            share = relative(actual, expected)
        else:
            low, high = np.partition(expected, -2, axis=1)[:, -2:].swapaxes(0, 1)
            clear = high - low > TOLERANCE * np.ptp(expected)
            share = float(np.mean((actual != ids[expected.argmax(1)]) & clear))
        found.append(Difference((batch, *size), share))
    return found


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference as a share of the expected range; infinite where shapes differ."""
    if actual.shape != expected.shape:
        return float("inf")
    spread = float(np.ptp(expected)) or 1.0
    return float(np.abs(actual.astype(np.float64) - expected).max()) / spread
