"""Grey levels of a picture, and numbers of any number of bands, as the network's input and back."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from datasets.seg.bands import as_picture
from lib.base.errors import UserError

NEAR_8_BITS = (-64, 320)
"""Values between these are shown as grey levels, saturated: they may be predicted, or resized with overshoot."""
DARK = 2.0
"""The highest value of an image of floats that may be a share, 0..1, rather than a grey level."""


@dataclass(frozen=True)
class Pixels:
    """How the values of an image become the network's input: (value - mean) / std, band by band.

    Attributes:
        color_order: "bgr" or "rgb": of three bands; others stay in the file's order.
        mean, std: one number a band, in that order, on the image's own scale: 0..255 for 8 bits.
    """

    color_order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.color_order not in ("bgr", "rgb"):
            raise UserError(f"color_order '{self.color_order}' is unknown: choose bgr or rgb")

    @property
    def bands(self) -> int:
        return len(self.mean)

    def normalise(self, image: np.ndarray, out: np.ndarray, shift: int = 0) -> None:
        """Write ``image`` ([H, W, C]; C = 3: BGR) to ``out`` (float32 [C, H, W]).

        Grey levels (uint8) are brightened by ``shift`` first, other values are not. Those that are not finite become 0,
        the mean.
        """
        if image.dtype != np.uint8:
            self._normalise_numbers(image, out)
            return
        levels = np.clip(np.arange(256.0) + shift, 0, 255)
        planes = cv2.split(image)
        if self.color_order == "rgb" and self.bands == 3:
            planes = planes[::-1]
        for plane, mean, std, target in zip(planes, self.mean, self.std, out, strict=True):
            # There are 256 possible answers: one look-up does the shift, its saturation, and the normalisation.
            cv2.LUT(plane, ((levels - mean) / std).astype(np.float32), dst=target)

    def _normalise_numbers(self, image: np.ndarray, out: np.ndarray) -> None:
        planes = [image[..., band] for band in range(image.shape[2])]
        if self.color_order == "rgb" and self.bands == 3:
            planes = planes[::-1]
        with np.errstate(all="ignore"):
            for plane, mean, std, target in zip(planes, self.mean, self.std, out, strict=True):
                np.subtract(plane, np.float32(mean), out=target)
                target /= np.float32(std)
                if image.dtype.kind == "f":
                    target[~np.isfinite(target)] = 0

    def levels(self, image: torch.Tensor) -> torch.Tensor:
        """The values behind a normalised ``image`` (float [..., C, H, W]), not rounded, its bands as they are."""
        std, mean = torch.tensor([self.std, self.mean], dtype=torch.float32, device=image.device)[..., None, None]
        return image.detach().float() * std + mean

    def are_grey_levels(self, image: torch.Tensor) -> bool:
        """Whether a normalised ``image`` has three bands of whole levels, 0..255, and may be handled as 8-bit."""
        if self.bands != 3:
            return False
        levels = self.levels(image)
        low, high = torch.aminmax(levels)
        return bool(low > -0.5 and high < 255.5 and (levels - levels.round()).abs_().max() < 0.01)

    def restore(self, image: torch.Tensor) -> np.ndarray:
        """The picture behind a normalised ``image`` (float [C, H, W]): uint8 [H, W, 3], BGR.

        Of an 8-bit image of three bands its grey levels, of another what ``as_picture`` shows.
        """
        levels = self.levels(image)
        if self.bands == 3 and self._has_levels_of_8_bits(levels):
            levels = levels.round_().clamp_(0, 255).to(torch.uint8)
            if self.color_order == "rgb":
                levels = levels.flip(0)
            return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())
        values = levels.permute(1, 2, 0).cpu().numpy()
        is_bgr = self.bands == 3 and self.color_order == "bgr"
        picture = as_picture(values)
        return picture if is_bgr else np.ascontiguousarray(picture[..., ::-1])

    def _has_levels_of_8_bits(self, levels: torch.Tensor) -> bool:
        """Whether values are to be shown as they are, 0..255: an image of shares would be black, of 16 bits white."""
        low, high = (value.item() for value in torch.aminmax(levels))
        if not (low > NEAR_8_BITS[0] and high < NEAR_8_BITS[1]):
            return False
        mean = torch.tensor(self.mean, device=levels.device)[:, None, None]
        # Padding is the mean.
        near = torch.minimum((levels - levels.round()).abs(), (levels - mean).abs()) if high <= DARK else None
        return near is None or bool(near.max() < 0.01)
