"""Inference that does not run out of memory: fewer images at a time, then windows, then a strip of windows at a time.

A GPU says that it has too little, and the next smaller way is tried. A CPU does not: the system ends the program. There
what a way needs is found out before it is taken.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lib.base import memory
from lib.base.errors import UserError
from lib.footprint import forward_bytes
from lib.inference import Predictor, predict
from lib.resizing import Size
from lib.strips import columns_at_once, sliding_blocks

SHARE = 0.8
"""Of the memory that is left, what may be used: other programs and the readers of the next images want some too."""
AMPLE = 20_000
"""Bytes for a pixel that no network of ordinary width takes: where there is so much, nothing is estimated."""
SMALLEST = 32
"""Pixels of a side below which no window is made smaller."""


@dataclass(frozen=True)
class Way:
    """How images of one size are evaluated.

    Attributes:
        count: images at a time.
        predictor: on each of these.
        strips: whether the logits of a few rows are held at a time instead of all.
        reduced: whether windows took the place of the whole image or of larger windows, which gives other results.
    """

    count: int
    predictor: Predictor
    strips: bool = False
    reduced: bool = False


class Frugal:
    """A ``Predictor`` that fits into the memory there is.

    Args:
        predictor: used as it is wherever it fits.
        num_classes: of its networks.
        bfloat16: whether they run under bfloat16 autocast.
        tell: takes a line, once for each kind of thing that did not fit.

    Attributes:
        reduced: sizes of images (height, width) of which windows took the place of what was asked for, and the window
            of each, (width, height).
    """

    def __init__(
        self, predictor: Predictor, num_classes: int, *, bfloat16: bool = False, tell: Callable[[str], None] = print
    ) -> None:
        self.predictor, self.num_classes, self.bfloat16, self.tell = predictor, num_classes, bfloat16, tell
        self.ways: dict[tuple[int, Size], Way] = {}
        self.told: set[str] = set()
        self.reduced: dict[Size, tuple[int, int]] = {}

    @torch.no_grad()
    def __call__(self, network: nn.Module, images: Tensor, finish: Callable[[Tensor], Tensor] = predict) -> Tensor:
        """What ``finish`` makes of the logits [n, K, h, W] of images [B, 3, H, W], some images or rows at a time.

        Args:
            finish: looks at each pixel by itself; the second last dimension of what it returns is rows.

        Raises:
            UserError: there is not enough memory for the smallest way.
        """
        size = tuple(images.shape[-2:])
        way = self.ways.get((len(images), size)) or Way(len(images), self.predictor)
        while True:
            if not self._fits(network, images, way):
                way = self._smaller(way, size, images.device)
                continue
            try:
                results = [self._results(network, some, way, finish) for some in images.split(way.count)]
                break
            except (MemoryError, RuntimeError) as error:
                if not memory.shortage(error):
                    raise
            # Outside the handler: the error's traceback holds what the failed attempt made.
            if images.device.type == "cuda":
                torch.cuda.empty_cache()
            way = self._smaller(way, size, images.device)
        self.ways[len(images), size] = way
        if way.reduced:
            self.reduced[size] = way.predictor.window
        return torch.cat(results)

    def way_by_strips(self, network: nn.Module, size: Size, bands: int) -> Way:
        """How an image of ``size`` is to be evaluated of which, for want of memory, only some rows are held at a time.

        Raises:
            UserError: there is not enough memory for the smallest windows either.
        """
        device = next(network.parameters()).device
        most = SHARE * _left(device)
        plain = replace(self.predictor, slides=True, scales=(1.0,), flip=False, pad_multiple=1)
        plain = replace(plain, short_side=0, long_side=0)
        # Of an image that is narrower than a window others make one window, and strips clip it.
        same = self.predictor.slides and _is_plain(self.predictor) and _is_larger(size, self.predictor)
        way = Way(1, plain, strips=True, reduced=not same)
        if way.reduced:
            self._warn(plain, size)
        while self.needed(network, way, size, bands) > most:
            way = self._smaller(way, size, device)
        if way.reduced:
            self.reduced[size] = way.predictor.window
        return way

    def facts(self) -> dict[str, object]:
        """For the record: which sizes were evaluated by windows for want of memory; nothing where none were."""
        found = [
            {"size": [width, height], "window": list(window)}
            for (height, width), window in sorted(self.reduced.items())
        ]
        return {"windows_for_want_of_memory": found} if found else {}

    def _results(self, network: nn.Module, images: Tensor, way: Way, finish: Callable[[Tensor], Tensor]) -> Tensor:
        if not way.strips:
            return finish(way.predictor(network, images))
        return torch.cat([self._by_strips(network, image[None], way.predictor, finish) for image in images])

    def _by_strips(
        self, network: nn.Module, image: Tensor, predictor: Predictor, finish: Callable[[Tensor], Tensor]
    ) -> Tensor:
        size, result = tuple(image.shape[-2:]), None
        blocks = sliding_blocks(
            network,
            lambda rows, columns: image[:, :, rows, columns],
            size,
            window=predictor.window,
            stride=predictor.stride,
            batch_size=predictor.batch_size,
            columns=self.columns(predictor, size[0], image.device),
        )
        for top, left, logits in blocks:
            found = finish(logits)
            if result is None:
                result = found.new_empty(*found.shape[:-2], *size)
            result[..., top : top + found.shape[-2], left : left + found.shape[-1]] = found
        return result

    def columns(self, predictor: Predictor, height: int, device: torch.device) -> int:
        """How many columns of an image go through windows together where not all sums can be held."""
        return columns_at_once(self.num_classes, height, predictor.window, predictor.stride, _left(device))

    def _fits(self, network: nn.Module, images: Tensor, way: Way) -> bool:
        if images.device.type != "cpu":
            return True
        most = SHARE * memory.available_bytes()
        height, width = images.shape[-2:]
        scale = max(way.predictor.scales) ** 2
        if AMPLE * max(1, scale) * way.count * height * width < most and not way.predictor.short_side:
            return True
        return self.needed(network, way, (height, width), bands=images.shape[1]) <= most

    def needed(self, network: nn.Module, way: Way, size: Size, bands: int = 3) -> int:
        """Bytes that evaluating images of ``size`` takes beside the network and the images, about."""
        predictor, (height, width) = way.predictor, size
        sides = [predictor.scaled_size(size, scale) for scale in predictor.scales]
        tall, wide = (
            -(-max(along) // predictor.pad_multiple) * predictor.pad_multiple for along in zip(*sides, strict=True)
        )
        of_a_pixel = 4 * self.num_classes
        views = 2 if predictor.flip and 2 * way.count * tall * wide <= predictor.batch_size * _area(predictor) else 1
        count, slides = way.count * views, predictor.slides and _is_larger((tall, wide), predictor)
        if slides:
            across, down = (min(side, most) for side, most in zip(predictor.window, (wide, tall), strict=True))
            forward = forward_bytes(network, (predictor.batch_size, bands, down, across), bfloat16=self.bfloat16)
        else:
            forward = forward_bytes(network, (count, bands, tall, wide), bfloat16=self.bfloat16)
        if way.strips:
            # The sums between two rows of windows, windows in work and what is made of them.
            device = next(network.parameters()).device
            held = min(predictor.window[1], tall) * min(wide, self.columns(predictor, tall, device))
            return forward + of_a_pixel * (held + 4 * predictor.batch_size * _area(predictor))
        plain = len(sides) == 1 and views == 1 and sides[0] == size
        held = slides * count * tall * wide * of_a_pixel + 4 * bands * count * tall * wide
        # The sum over the views, and what is added to it.
        summed = (0 if plain else 2) * way.count * height * width * of_a_pixel
        return forward + held + summed + 12 * way.count * height * width

    def _smaller(self, way: Way, size: Size, device: torch.device) -> Way:
        """The next way that takes less memory; raises UserError after the last."""
        predictor = way.predictor
        if way.count > 1:
            self._say(
                "images", f"{way.count} images of {size[1]} x {size[0]} at a time do not fit into memory: fewer go"
            )
            return replace(way, count=way.count // 2)
        if predictor.batch_size > 1:
            return replace(way, predictor=replace(predictor, batch_size=predictor.batch_size // 2))
        if not predictor.slides and _is_larger(size, predictor):
            smaller = replace(predictor, slides=True)
            self._warn(smaller, size)
            return replace(way, predictor=smaller, reduced=True)
        if not way.strips and predictor.slides and _is_plain(predictor) and _is_larger(size, predictor):
            return replace(way, strips=True)
        window = tuple(side // 2 for side in predictor.window)
        if min(window) < SMALLEST:
            where = "this machine" if device.type == "cpu" else "the GPU"
            raise UserError(
                f"an image of {size[1]} x {size[0]} pixels does not fit into the memory of {where}, even by windows "
                f"of {predictor.window[0]} x {predictor.window[1]}: end other programs, or cut it"
            )
        steps = predictor.stride if isinstance(predictor.stride, tuple) else (predictor.stride, predictor.stride)
        halved = tuple(max(1.0, step / 2) if step > 1 else step for step in steps)
        smaller = replace(predictor, slides=True, window=window, stride=halved)
        self._warn(smaller, size)
        return replace(way, predictor=smaller, reduced=True)

    def _warn(self, predictor: Predictor, size: Size) -> None:
        self._say(
            "windows",
            f"an image of {size[1]} x {size[0]} does not fit into memory as it is to be evaluated: windows of "
            f"{predictor.window[0]} x {predictor.window[1]} take its place, with other results",
        )

    def _say(self, kind: str, line: str) -> None:
        if kind not in self.told:
            self.told.add(kind)
            self.tell(line)


def _left(device: torch.device) -> int:
    """Bytes of memory that are left on a device."""
    return memory.available_bytes() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]


def _area(predictor: Predictor) -> int:
    return predictor.window[0] * predictor.window[1]


def _is_larger(size: Size, predictor: Predictor) -> bool:
    """Whether an image of ``size`` is larger than the window on one side and smaller on none."""
    height, width = size
    across, down = predictor.window
    return height >= down and width >= across and (height, width) != (down, across)


def _is_plain(predictor: Predictor) -> bool:
    """Whether windows over the image itself are all there is to it."""
    return predictor.scales == (1.0,) and not (predictor.flip or predictor.short_side) and predictor.pad_multiple == 1
