"""What was trained, as a function of images: path, picture or array in, label ids out."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from datasets.seg.bands import as_picture, open_bands
from lib.base.errors import UserError
from lib.engine.distribute import use_bfloat16
from lib.tasks.trained import Trained, open_trained

if TYPE_CHECKING:
    from PIL.Image import Image

NARROWEST = 320
"""Pixels of a picture's width below which ``show`` enlarges it, so that the legend's words have room."""


def segmentor(checkpoint: str | Path, device: str = "auto", overrides: Sequence[str] = ()) -> "Segmenting":
    """What was trained, ready to be used: ``segmentor(RUN).predict("image.png").ids``.

    Args:
        checkpoint: a run folder (its best checkpoint, else the latest), a checkpoint or a published folder.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        overrides: ``key=value`` of the configuration, such as "val.mode=mscrop".

    Raises:
        UserError: there is no such thing, or it is damaged, or its parts do not fit each other.
    """
    return Segmenting(open_trained(checkpoint, [*overrides, f"device={device}"]))


class Segmenting:
    """A trained network that predicts one image at a time, by the protocol that ``val`` uses.

    Attributes:
        names: of the K classes, in the order of probabilities.
        class_ids: uint8 [K], the label id of each.
        palette: uint8 [K, 3], RGB.
        network: float [B, C, H, W], normalised, -> {"out": logits [B, K, H, W]}; in evaluation mode.
        config: the run's configuration.
    """

    def __init__(self, trained: Trained) -> None:
        self.task, self.network, self.config, self.device = (
            trained.task,
            trained.network,
            trained.config,
            trained.device,
        )
        table = trained.task.table
        self.names, self.class_ids, self.palette = table.names, table.id_of.copy(), table.palette.copy()

    def predict(self, image: "str | os.PathLike | Image | np.ndarray | Tensor") -> "Prediction":
        """The class of every pixel.

        Args:
            image: a path (of what ``val`` reads, in the same way: an orientation tag is passed over); a PIL image; an
                array [H, W, 3] or a tensor [3, H, W] in RGB, of grey levels uint8 0..255 or floats 0..1. For networks
                of images with another number of bands C than 3, or of 16 bits or floats: [H, W, C] or [C, H, W] of
                uint8, uint16 or float32, in the bands' order and on the scale of the training images.

        Raises:
            UserError: it is none of these, or it does not fit into memory.
        """
        values = _read(image, self.task.pixels.bands, max(self.task.pixels.mean))
        return Prediction(self, values, self._run(values, self.task.predict)[0].numpy())

    def _probabilities(self, values: np.ndarray) -> np.ndarray:
        are_probabilities = self.task.predictor.combine == "softmax"

        def finish(network: torch.nn.Module, images: Tensor) -> Tensor:
            return self.task.frugal(network, images, lambda x: x if are_probabilities else x.softmax(1))

        return self._run(values, finish)[0].numpy()

    @torch.inference_mode()
    def _run(self, values: np.ndarray, task: Callable[[torch.nn.Module, Tensor], Tensor]) -> Tensor:
        """What ``task`` makes of an image [H, W, C] (C = 3: BGR), on the CPU."""
        image = np.empty((1, values.shape[2], *values.shape[:2]), np.float32)
        self.task.pixels.normalise(values, image[0])
        settings = self.config.train
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        batch = torch.from_numpy(image).to(self.device, memory_format=layout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=use_bfloat16(settings.amp, self.device)):
            return task(self.network, batch).cpu()


class Prediction:
    """The classes of one image's pixels.

    Attributes:
        ids: uint8 [H, W], the dataset's label ids, as ``val`` writes them.
        train_ids: uint8 [H, W], the classes' places in ``names``.
        names, class_ids, palette: of the classes, as ``Segmenting`` has them.
    """

    def __init__(self, of: Segmenting, values: np.ndarray, train_ids: np.ndarray) -> None:
        self._of, self._values, self.train_ids = of, values, train_ids
        self.ids = of.class_ids[train_ids]
        self.names, self.class_ids, self.palette = of.names, of.class_ids, of.palette

    def __repr__(self) -> str:
        height, width = self.ids.shape
        found = ", ".join(self.names[train_id] for train_id in np.unique(self.train_ids))
        return f"Prediction of {width} x {height} pixels: {found}"

    @cached_property
    def probabilities(self) -> np.ndarray:
        """float32 [K, H, W], of sum 1: the softmax of the logits that decide; the network runs again for it."""
        return self._of._probabilities(self._values)

    def show(self) -> "Image":
        """The image tinted by class, with its legend; displayed in a notebook or where there is a screen."""
        from PIL import Image

        picture = Image.fromarray(self._tinted())
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if shell is not None and hasattr(shell, "kernel"):
            sys.modules["IPython.display"].display(picture)
        elif sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
            picture.show()
        return picture

    @property
    def picture(self) -> np.ndarray:
        """The image to look at: uint8 [H, W, 3], RGB."""
        if self._values.dtype == np.uint8 and self._values.shape[2] == 3:
            return np.ascontiguousarray(self._values[..., ::-1])
        return as_picture(self._values)

    def _tinted(self) -> np.ndarray:
        import cv2

        from lib.vis.overlay import legend, overlay

        tinted = overlay(self.picture, self.train_ids, self.palette)
        height, width = tinted.shape[:2]
        if width < NARROWEST:
            wider = -(-NARROWEST // width)
            tinted = cv2.resize(tinted, (width * wider, height * wider), interpolation=cv2.INTER_NEAREST)
        present = np.unique(self.train_ids).tolist()
        return np.vstack([tinted, legend(self.names, self.palette, present, tinted.shape[1])])


def _read(image: Any, bands: int, level: float) -> np.ndarray:
    """Values [H, W, bands], three in BGR, of what ``predict`` takes; ``level`` is the highest mean of a band."""
    if isinstance(image, (str, os.PathLike)):
        return open_bands(Path(image), bands).decode()
    if isinstance(image, Tensor):
        if image.ndim != 3:
            raise UserError(f"the image is a tensor of shape {list(image.shape)}: give [{bands}, height, width]")
        values = image.detach().cpu().permute(1, 2, 0)
        values = (values.float() if values.is_floating_point() else values).numpy()
    elif isinstance(image, np.ndarray):
        values = image[..., None] if image.ndim == 2 and bands == 1 else image
    elif type(image).__module__.startswith("PIL."):
        if image.mode.startswith(("I", "F")) and bands == 3:
            raise UserError(f"the image is of PIL's mode {image.mode}, not of 8 bits: convert it, or give its path")
        values = np.asarray(image.convert("RGB") if bands == 3 else image)
        values = values[..., None] if values.ndim == 2 else values
    else:
        raise UserError(f"the image is a {type(image).__name__}: give a path, a PIL image, an array or a tensor")
    return _checked(values, bands, level)


def _checked(values: np.ndarray, bands: int, level: float) -> np.ndarray:
    if values.ndim != 3 or values.shape[2] != bands or not values.size:
        shape = list(values.shape)
        raise UserError(f"the image has the shape {shape}: give an array [height, width, {bands}] of one image")
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
        # Shares of the whole, as torchvision has them, where the network knows grey levels.
        if level > 2 and np.nanmin(values) >= 0 and np.nanmax(values) <= 1:
            values = (np.nan_to_num(values) * 255).round().astype(np.uint8)
    elif values.dtype not in (np.uint8, np.uint16):
        raise UserError(f"the image is of {values.dtype}: give uint8, uint16 or floats")
    return np.ascontiguousarray(values[..., ::-1] if bands == 3 else values)
