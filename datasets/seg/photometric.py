"""Random distortion of colours, with the choices and ranges of mmsegmentation's photometric distortion."""

from dataclasses import dataclass

import cv2
import numpy as np

BRIGHTNESS = 32.0
"""Largest shift of all channels, in grey levels."""
CONTRAST = (0.5, 1.5)
SATURATION = (0.5, 1.5)
HUE = 18
"""Largest shift on OpenCV's circle of 180 hues: 36 degrees."""


@dataclass(frozen=True)
class Distortion:
    """What is done to the colours of one image; every step saturates at 0 and 255 and rounds.

    Attributes:
        brightness: grey levels added to all channels.
        contrast: factor of all channels.
        saturation: factor of HSV's saturation.
        hue: added to HSV's hue, of 180.
        contrast_is_last: whether contrast comes at the end, not right after brightness.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: int = 0
    contrast_is_last: bool = False

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Distort ``image``, uint8 [H, W, 3] in BGR, to another one."""
        levels = np.arange(256.0)
        brighter = _saturate(levels + self.brightness)
        contrasted = _saturate(levels * self.contrast)
        first, last = (brighter, contrasted) if self.contrast_is_last else (contrasted[brighter], None)
        image = cv2.LUT(image, first)
        if self.saturation != 1 or self.hue:
            hues = ((levels + self.hue) % 180).astype(np.uint8)
            table = np.stack([hues, _saturate(levels * self.saturation), _saturate(levels)], axis=-1)[None]
            image = cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), table), cv2.COLOR_HSV2BGR)
        return image if last is None else cv2.LUT(image, last)


def draw_distortion(rng: np.random.Generator) -> Distortion:
    """Each of the four steps happens with probability 1/2; whether contrast comes last is a matter of chance too."""

    def one_half(step: float, neutral: float) -> float:
        return step if rng.random() < 0.5 else neutral

    return Distortion(
        brightness=one_half(rng.uniform(-BRIGHTNESS, BRIGHTNESS), 0.0),
        contrast=one_half(rng.uniform(*CONTRAST), 1.0),
        saturation=one_half(rng.uniform(*SATURATION), 1.0),
        hue=one_half(int(rng.integers(-HUE, HUE, endpoint=True)), 0),
        contrast_is_last=bool(rng.random() < 0.5),
    )


def _saturate(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
