"""From a drawing to something like a photograph: texture, light, blur and noise."""

import cv2
import numpy as np

from datasets.seg.street.canvas import ID

GRAIN = {
    "road": (5, 3, 4),
    "sidewalk": (5, 4, 4),
    "parking": (6, 4, 5),
    "building": (3, 3, 5),
    "wall": (5, 6, 8),
    "vegetation": (12, 14, 12),
    "terrain": (11, 8, 10),
    "person": (3, 5, 3),
    "rider": (3, 5, 3),
}
"""Standard deviation, in grey levels, of fine, middling and coarse texture."""

GRAIN_SIZES = (1 / 256, 1 / 85, 1 / 20)
"""Size of the texture's grain as a share of the picture's height."""


def texture(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
    """A grain of the roughness that each class has, float32 [H, W]."""
    height, width = label.shape
    total = np.zeros((height, width), np.float32)
    for octave, share in enumerate(GRAIN_SIZES):
        strength = np.zeros(256, np.float32)
        for name, levels in GRAIN.items():
            strength[ID[name]] = levels[octave]
        cell = max(1, round(share * height))
        noise = rng.standard_normal((height // cell + 2, width // cell + 2), np.float32)
        if cell > 1:
            noise = cv2.resize(noise, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
        total += strength[label] * noise[:height, :width]
    return total


def photograph(
    rng: np.random.Generator, image: np.ndarray, label: np.ndarray, exposure: float, warmth: float
) -> np.ndarray:
    """A photograph of a drawing.

    Args:
        image: BGR uint8 [H, W, 3].
        label: label ids uint8 [H, W], which say where the picture is how rough.
        exposure: factor of the brightness.
        warmth: from -1 (blue light) to 1 (orange light).

    Returns BGR uint8 [H, W, 3].
    """
    height, width = label.shape
    photo = image.astype(np.float32)
    photo += texture(rng, label)[..., None]
    cast = np.array([1 - 0.16 * warmth, 1, 1 + 0.16 * warmth]) * rng.uniform(0.96, 1.04, 3)
    across = np.linspace(-1, 1, width) * rng.uniform(-0.1, 0.1)
    down = np.linspace(-1, 1, height) * rng.uniform(-0.1, 0.05)
    light = exposure * (1 + across[None, :] + down[:, None])
    photo *= (light[..., None] * cast).astype(np.float32)
    if rng.random() < 0.5:
        photo = cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.3, 0.8) * max(height / 256, 0.3))
    photo += rng.standard_normal(photo.shape, np.float32) * np.float32(rng.uniform(1.5, 5))
    return np.clip(photo, 0, 255).astype(np.uint8)
