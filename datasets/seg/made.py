"""A DATA_DIR of random images, to measure with where there is no other: they look like nothing, and nothing is learnt.

Patches of a few classes, each of its colour with some noise, so that files are about as large as those of photographs.
"""

from pathlib import Path

import cv2
import numpy as np

from datasets.seg.classes import ClassTable

PATCH = 64
"""Pixels of a side of a patch."""


def write_random(root: Path, table: ClassTable, size: tuple[int, int], counts: dict[str, int], seed: int = 0) -> None:
    """Write ``<split>/image/<n>.jpg`` and ``<split>/label/<n>.png``.

    Args:
        root: the DATA_DIR.
        table: whose ids the labels have.
        size: (width, height) in pixels.
        counts: images of each split.
        seed: of the random numbers.
    """
    rng, (width, height) = np.random.default_rng(seed), size
    for split, count in counts.items():
        for kind in ("image", "label"):
            (root / split / kind).mkdir(parents=True)
        for index in range(count):
            patches = rng.integers(0, len(table), (height // PATCH + 1, width // PATCH + 1), np.uint8)
            train_ids = patches.repeat(PATCH, axis=0).repeat(PATCH, axis=1)[:height, :width]
            noise = rng.normal(0, 25, (height // 2 + 1, width // 2 + 1, 3)).astype(np.float32)
            levels = table.palette[train_ids] + cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
            image = levels.clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(root / split / "image" / f"{index}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
            cv2.imwrite(str(root / split / "label" / f"{index}.png"), table.id_of[train_ids])
