"""Where a prediction is wrong, beside what it was made from.

Pictures, train ids and palettes as in ``lib.vis.overlay``.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from lib.vis.overlay import WHITE, legend, overlay, side_by_side

RED = (255, 0, 0)


def error_map(image: np.ndarray, prediction: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """The image in dark grey, its wrong pixels red, and black the pixels without a class of their own (ignored)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) // 2
    picture = np.repeat(grey[..., None], 3, axis=2)
    counted = label < num_classes
    picture[~counted] = 0
    picture[counted & (prediction != label)] = RED
    return picture


def error_sheet(
    image: np.ndarray, prediction: np.ndarray, label: np.ndarray, palette: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """Image, overlaid label, overlaid prediction and error map side by side; below, the colours of their classes."""
    row = side_by_side(
        [
            image,
            overlay(image, label, palette),
            overlay(image, prediction, palette),
            error_map(image, prediction, label, len(palette)),
        ]
    )
    present = np.union1d(prediction, label)
    present = present[present < len(palette)].tolist()
    gap = np.full((8, row.shape[1], 3), WHITE, np.uint8)
    return np.vstack([row, gap, legend(names, palette, present, row.shape[1])])
