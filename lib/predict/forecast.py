"""From images in memory to the classes of their pixels, exactly as ``val`` finds them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.seg.pixels import Pixels
from lib.engine.distribute import use_bfloat16
from lib.engine.evaluate import memory_format
from lib.frugal import Frugal
from lib.inference import predict, softmax_
from lib.tasks.trained import Trained

MOST_AT_ONCE = 64
"""Images that go through the network together at most, however small they are."""


@dataclass(frozen=True)
class Prepared:
    """One image, read and normalised.

    Attributes:
        image: float32 [C, H, W], the network's input.
        picture: uint8 [H, W, 3], BGR, to draw on.
    """

    image: np.ndarray
    picture: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.picture.shape[:2]


def prepare(values: np.ndarray, pixels: Pixels) -> Prepared:
    """Normalise an image [H, W, C] (C = 3: BGR)."""
    image = np.empty((values.shape[2], *values.shape[:2]), np.float32)
    pixels.normalise(values, image)
    shown = values.dtype == np.uint8 and values.shape[2] == 3
    return Prepared(image, values if shown else pixels.restore(torch.from_numpy(image)))


@dataclass(frozen=True)
class Prediction:
    """What the network says of one image.

    Attributes:
        train_ids: uint8 [H, W].
        probabilities: float16 [K, H, W], or None where they were not asked for.
        windows: whether windows took the place of what was asked for, for want of memory.
    """

    train_ids: np.ndarray
    probabilities: np.ndarray | None
    windows: bool


class Forecast:
    """The predictions of a trained network.

    Args:
        trained: whose configuration says how.
        probabilities: whether these are wanted too: the softmax of the logits that decide (of their sum where several
            scales are summed), or, with ``val.combine=softmax``, the mean of the scales' probabilities.
        batch: images of one size at a time; 0: as many pixels as ``val.batch_size`` windows have, on a CPU one image,
            which is fastest there and gives ``val``'s results to the last bit.
        tell: takes a line on what did not fit into memory.
    """

    def __init__(
        self, trained: Trained, *, probabilities: bool = False, batch: int = 0, tell: Callable[[str], None] = print
    ) -> None:
        config, task = trained.config, trained.task
        self.network, self.device, self.batch = trained.network, trained.device, batch
        self.predictor, self.num_classes = task.predictor, len(task.table)
        self.bfloat16 = use_bfloat16(config.train.amp, self.device)
        self.layout = memory_format(config.train)
        self.frugal = Frugal(self.predictor, self.num_classes, bfloat16=self.bfloat16, tell=tell)
        self.finish = self._with_probabilities if probabilities else predict
        self.are_probabilities = self.predictor.combine == "softmax"

    def at_once(self, size: tuple[int, int]) -> int:
        """How many images of ``size`` (height, width) are to be given at a time."""
        if self.batch or self.device.type == "cpu":
            return self.batch or 1
        window = self.predictor.window
        return max(1, min(MOST_AT_ONCE, self.predictor.batch_size * window[0] * window[1] // (size[0] * size[1])))

    @torch.inference_mode()
    def __call__(self, prepared: Sequence[Prepared]) -> list[Prediction]:
        """Predict images of one size; raises UserError where not even windows fit into memory."""
        images = torch.from_numpy(np.stack([one.image for one in prepared]))
        if self.device.type == "cuda":
            images = images.pin_memory()
        images = images.to(self.device, non_blocking=True, memory_format=self.layout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            found = self.frugal(self.network, images, self.finish).cpu()
        windows = prepared[0].size in self.frugal.reduced
        return [self._prediction(one, windows) for one in found]

    def _prediction(self, found: Tensor, windows: bool) -> Prediction:
        if found.ndim == 2:
            return Prediction(found.numpy(), None, windows)
        return Prediction(found[-1].to(torch.uint8).numpy(), found[:-1].to(torch.float16).numpy(), windows)

    def _with_probabilities(self, logits: Tensor) -> Tensor:
        """float32 [B, K + 1, H, W]: probabilities, and below them the train ids that the logits themselves decide."""
        train_ids = predict(logits)[:, None].float()
        return torch.cat([logits if self.are_probabilities else softmax_(logits), train_ids], 1)

    def facts(self) -> dict[str, Any]:
        """What did not fit into memory, for the record."""
        return self.frugal.facts()
