"""Words in pictures, in any alphabet that the font has: OpenCV's own letters are ASCII alone."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lib.base.names import printable

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

SIZE = 13
"""Height of the letters' body in pixels."""


@cache
def _font(size: int) -> "FreeTypeFont":
    # Here, because training imports the files that draw and does not draw
    import matplotlib
    from PIL import ImageFont

    # The one font that is on every machine: it comes with matplotlib
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def text_width(text: str, size: int = SIZE) -> int:
    """Pixels that a line of ``text`` takes."""
    return int(np.ceil(_font(size).getlength(printable(text))))


def put_text(picture: np.ndarray, text: str, corner: tuple[int, int], size: int = SIZE) -> None:
    """Write a line in black into ``picture`` (RGB uint8 [H, W, 3], changed), its upper left ``corner`` at (x, y)."""
    from PIL import Image, ImageDraw

    drawn = Image.fromarray(picture)
    ImageDraw.Draw(drawn).text(corner, printable(text), fill=(0, 0, 0), font=_font(size))
    picture[:] = np.asarray(drawn)


def fitted(text: str, width: int, size: int = SIZE) -> str:
    """``text`` with its middle left out as far as it would take more than ``width`` pixels."""
    if text_width(text, size) <= width:
        return text
    kept = len(text) - 1
    while kept > 0 and text_width(_without_middle(text, kept), size) > width:
        kept -= 1
    return _without_middle(text, kept)


def _without_middle(text: str, kept: int) -> str:
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
