"""The confusion matrix of a segmentation, counted on the device, and what else an evaluation counts."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.base.errors import UserError
from lib.base.peers import Peers
from lib.scores.boundary import boundary_counts
from lib.scores.segmentation import Scores

WORKERS, MOST_WAITING = 2, 8
"""Threads that count what lies near contours, and images that may wait for them."""


class ConfusionMatrix:
    """Counts pixels by label class and predicted class, on ``device``.

    Attributes:
        matrix: int64 [K, K], rows are the labels' classes, columns the predicted ones. Processes that share a
            validation sum theirs in place (``all_reduce``) before ``scores``.

    Args:
        num_classes: K.
        ignore: train id of the label pixels that do not count.
        device: where ``matrix`` lies and ``update`` counts.
    """

    def __init__(self, num_classes: int, ignore: int = 255, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.ignore = ignore
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, label: Tensor) -> Tensor:
        """Count the pixels of a prediction.

        Args:
            prediction: train ids 0..K-1, any integer type and shape.
            label: train ids 0..K-1 or ``ignore``, any integer type, of the same shape. Neither is changed.

        Returns:
            int64 [K, K], the counts of this call alone.

        Raises:
            UserError: for shapes that differ or another id; nothing of this call is counted then.
        """
        if prediction.shape != label.shape:
            raise UserError(
                f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} differ in size: compare one image"
            )
        device, classes = self.matrix.device, self.num_classes
        label, prediction = label.to(device), prediction.to(device)
        ignored = label == self.ignore
        # In place and of fixed size, with a bin for the ignored pixels: picking pixels out is several times slower.
        pair = label.to(torch.int32, copy=True).masked_fill_(ignored, 0)
        self._check(pair, f"label: only 0..{classes - 1} and {self.ignore} (ignored) are")
        self._check(prediction, f"prediction: only 0..{classes - 1} are")
        pair.mul_(classes).add_(prediction).masked_fill_(ignored, classes**2)
        counts = torch.bincount(pair.flatten(), minlength=classes**2 + 1)[:-1].view_as(self.matrix)
        self.matrix += counts
        return counts

    def _check(self, ids: Tensor, where: str) -> None:
        low, high = torch.stack(ids.aminmax()).tolist()  # one wait for the device, not two
        if low < 0 or high >= self.num_classes:
            raise UserError(f"{low if low < 0 else high} is not a train id of this {where}")

    def scores(self) -> Scores:
        """Scores of all that was counted."""
        return Scores.of(self.matrix.cpu().numpy())


class Tally:
    """What an evaluation counts: the pixels of all images in one matrix, and each image's own.

    Args:
        num_classes, device: as for ``ConfusionMatrix``.
        boundary: whether pixels near contours are counted too, in threads of their own.

    Attributes:
        confusion: of this process's images; of all processes' images once they have summed theirs.
        counts_of: of each image that this process evaluated, by its name: int64 [3, K], the pixels of each class in
            label and prediction, in the prediction, in the label.
        boundary: int64 [3, K], the same of pixels near contours, of all processes once they have summed; None where
            they are not counted.
    """

    def __init__(self, num_classes: int, *, device: torch.device | str = "cpu", boundary: bool = False) -> None:
        self.confusion = ConfusionMatrix(num_classes, device=device)
        self.counts_of: dict[str, np.ndarray] = {}
        self.boundary = np.zeros((3, num_classes), np.int64) if boundary else None
        self._pool = ThreadPoolExecutor(WORKERS) if boundary else None
        self._jobs: deque[Future[np.ndarray]] = deque()

    def add(self, batch: dict[str, Any], predictions: Tensor) -> None:
        """Count train ids [B, H, W] predicted for a batch with labels; those of one without do not count."""
        if "label" not in batch:
            return
        for meta, prediction, label in zip(batch["meta"], predictions, batch["label"], strict=True):
            counts = self.confusion.update(prediction, label)
            of_classes = torch.stack([counts.diagonal(), counts.sum(dim=0), counts.sum(dim=1)])
            self.counts_of[meta["name"]] = of_classes.cpu().numpy()
            if self._pool:
                # At most a few images wait in memory.
                self._collect(MOST_WAITING - 1)
                pair = (ids.cpu().numpy().astype(np.uint8) for ids in (prediction, label))
                self._jobs.append(self._pool.submit(boundary_counts, *pair, self.confusion.num_classes))

    def _collect(self, waiting: int) -> None:
        """Add up what was counted near contours until no more than ``waiting`` images are left."""
        while len(self._jobs) > waiting:
            self.boundary += self._jobs.popleft().result()

    def sum(self, peers: Peers) -> None:
        """Add up the counts of all processes; nothing can be added after that."""
        peers.sum(self.confusion.matrix)
        if self._pool:
            self._collect(0)
            self._pool.shutdown()
            self.boundary = peers.sum(torch.from_numpy(self.boundary)).numpy()

    def scores(self) -> Scores:
        """Those scores of all that was counted that follow from the matrix alone."""
        return self.confusion.scores()
