"""Colour pictures of train ids: alone, over their image, beside image and label, and the legend to read them.

Pictures are uint8 [H, W, 3] in RGB order; train ids uint8 [H, W]; a palette is uint8 [K, 3], RGB, in train-id order.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from datasets.seg.pixels import Pixels
from lib.base.atomic import write_atomically
from lib.vis.text import put_text, text_width

WHITE = 255

SWATCH = 14
"""Pixels of a side of a legend's colours."""


def colourise(train_ids: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Each pixel in the colour of its class; black where the id has no class (ignored)."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    return cv2.LUT(cv2.merge([train_ids] * 3), colours[None])


def overlay(image: np.ndarray, train_ids: np.ndarray, palette: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """The image tinted by class, ``alpha`` x colour + (1 - alpha) x image; ignored pixels stay as they are."""
    tinted = cv2.addWeighted(colourise(train_ids, palette), alpha, image, 1 - alpha, 0)
    is_class = train_ids < len(palette)
    return tinted if is_class.all() else np.where(is_class[..., None], tinted, image)


def panel(
    image: np.ndarray, prediction: np.ndarray, label: np.ndarray | None, palette: np.ndarray, gap: int = 8
) -> np.ndarray:
    """Image, overlaid prediction and, where there is one, overlaid label side by side, ``gap`` white pixels between."""
    shown = [prediction] if label is None else [prediction, label]
    return side_by_side([image, *(overlay(image, train_ids, palette) for train_ids in shown)], gap)


def side_by_side(pictures: Sequence[np.ndarray], gap: int = 8) -> np.ndarray:
    """Pictures of one height in a row, ``gap`` white pixels between."""
    space = np.full((len(pictures[0]), gap, 3), WHITE, np.uint8)
    return np.hstack([part for picture in pictures for part in (space, picture)][1:])


def legend(
    names: Sequence[str],
    palette: np.ndarray,
    present: Iterable[int],
    width: int,
    marks: Sequence[tuple[str, np.ndarray]] = (),
) -> np.ndarray:
    """Swatches with the names of the ``present`` train ids, in rows that fit ``width`` pixels: [H, width, 3].

    ``marks`` are what the picture shows besides: words and a picture of ``SWATCH`` x ``SWATCH`` pixels.
    """
    margin, row_height = 6, SWATCH + 12
    swatches = [(names[train_id], np.full((SWATCH, SWATCH, 3), palette[train_id])) for train_id in sorted(present)]
    items = [(name, swatch, text_width(name)) for name, swatch in (*swatches, *marks)]
    corners, left, top = [], margin, 0
    for _, _, name_width in items:
        item_width = SWATCH + name_width + 3 * margin
        if left + item_width > width and left > margin:
            left, top = margin, top + row_height
        corners.append((left, top + margin))
        left += item_width
    strip = np.full((top + row_height, width, 3), WHITE, np.uint8)
    for (name, swatch, _), (x, y) in zip(items, corners, strict=True):
        # Without a frame, a white swatch would not be seen
        cv2.rectangle(strip, (x - 1, y - 1), (x + SWATCH, y + SWATCH), (128, 128, 128))
        strip[y : y + SWATCH, x : x + SWATCH] = swatch[:, : width - x]
        put_text(strip, name, (x + SWATCH + margin, y - 1))
    return strip


def denormalise(image: Tensor, mean: Sequence[float], std: Sequence[float], color_order: str) -> np.ndarray:
    """The RGB picture behind a network input.

    Args:
        image: float [C, H, W], normalised: (value - mean) / std; what is shown of other than 8-bit pictures of three
            bands, ``datasets.seg.pixels.as_picture`` says.
        mean, std: a number for each band, in the input's order.
        color_order: "bgr" or "rgb", the input's order where it has three bands.
    """
    return np.ascontiguousarray(Pixels(color_order, tuple(mean), tuple(std)).restore(image)[..., ::-1])


def write_picture(path: str | Path, picture: np.ndarray, quality: int = 90) -> None:
    """Write an RGB picture, or single-channel uint8 [H, W] such as a label, as its suffix says (.png, .jpg).

    The file appears whole or not at all. ``quality``: of JPEG, 0..100.
    """
    pixels = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    suffix = Path(path).suffix
    _, encoded = cv2.imencode(suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else [])
    write_atomically(path, lambda file: file.write(encoded.tobytes()))
