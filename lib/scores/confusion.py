"""The confusion matrix of a segmentation, counted on the device."""

from typing import Any

import torch
from torch import Tensor

from lib.base.errors import UserError
from lib.base.peers import Peers
from lib.scores.segmentation import Scores


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
    """What an evaluation counts: the pixels of all images in one matrix, and each image's own mIoU.

    Args:
        num_classes, device: as for ``ConfusionMatrix``.

    Attributes:
        confusion: of this process's images; of all processes' images once they have summed theirs.
        image_miou: of each image that this process evaluated, by its name.
    """

    def __init__(self, num_classes: int, *, device: torch.device | str = "cpu") -> None:
        self.confusion = ConfusionMatrix(num_classes, device=device)
        self.image_miou: dict[str, float] = {}

    def add(self, batch: dict[str, Any], predictions: Tensor) -> None:
        """Count train ids [B, H, W] predicted for a batch with labels; those of one without do not count."""
        if "label" not in batch:
            return
        for meta, prediction, label in zip(batch["meta"], predictions, batch["label"], strict=True):
            counts = self.confusion.update(prediction, label)
            self.image_miou[meta["name"]] = Scores.of(counts.cpu().numpy()).miou

    def sum(self, peers: Peers) -> None:
        """Add up the counts of all processes."""
        peers.sum(self.confusion.matrix)

    def scores(self) -> Scores:
        """Scores of all that was counted."""
        return self.confusion.scores()
