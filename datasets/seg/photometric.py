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
    """What is done to the colours of one image; every step saturates at 0 and 255 and rounds to nearest.

    Attributes:
        brightness: grey levels added to all channels.
        contrast: factor of all channels.
        saturation: factor of HSV's saturation.
        hue: added to HSV's hue, of 180.
        contrast_is_last: whether contrast comes at the end, not right after brightness.
        as_published: bit for bit as mmsegmentation: rounded down, and through HSV once for each of saturation and hue.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: int = 0
    contrast_is_last: bool = False
    as_published: bool = False

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Distort ``image``, uint8 [H, W, 3] in BGR, to another one."""
        levels = np.arange(256, dtype=np.float32 if self.as_published else np.float64)
        brighter = self._saturated(levels + self.brightness)
        contrasted = self._saturated(levels * self.contrast)
        first, last = (brighter, contrasted) if self.contrast_is_last else (contrasted[brighter], None)
        image = cv2.LUT(image, first)
        hues = ((levels + self.hue) % 180).astype(np.uint8) if self.hue else None
        saturations = self._saturated(levels * self.saturation) if self.saturation != 1 else None
        if self.as_published:
            image = _in_hsv(_in_hsv(image, None, saturations), hues, None)
        else:
            image = _in_hsv(image, hues, saturations)
        return image if last is None else cv2.LUT(image, last)

    def _saturated(self, levels: np.ndarray) -> np.ndarray:
        return np.clip(levels if self.as_published else np.rint(levels), 0, 255).astype(np.uint8)


def draw_distortion(rng: np.random.Generator, as_published: bool = False) -> Distortion:
    """Each of the four steps happens with probability 1/2; whether contrast comes last is a matter of chance too.

    As published, hue moves by at most ``HUE`` - 1 upwards, and a step through HSV that moves it by 0 is one too: 180.
    """

    def hue() -> int:
        shift = int(rng.integers(-HUE, HUE, endpoint=not as_published))
        return shift or (180 if as_published else 0)

    def one_half(step: float, neutral: float) -> float:
        return step if rng.random() < 0.5 else neutral

    return Distortion(
        brightness=one_half(rng.uniform(-BRIGHTNESS, BRIGHTNESS), 0.0),
        contrast=one_half(rng.uniform(*CONTRAST), 1.0),
        saturation=one_half(rng.uniform(*SATURATION), 1.0),
        hue=one_half(hue(), 0),
        contrast_is_last=bool(rng.random() < 0.5),
        as_published=as_published,
    )


def _in_hsv(image: np.ndarray, hues: np.ndarray | None, saturations: np.ndarray | None) -> np.ndarray:
    """Look up the hue and the saturation of ``image``, uint8 [H, W, 3] in BGR, in tables of 256; None leaves one."""
    if hues is None and saturations is None:
        return image
    same = np.arange(256, dtype=np.uint8)
    table = np.stack([same if part is None else part for part in (hues, saturations, same)], axis=-1)[None]
    return cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), table), cv2.COLOR_HSV2BGR)
