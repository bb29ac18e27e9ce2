"""Convolutions in 8 bits by ONNX Runtime, calibrated on training images, and what that costs on ``val``."""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from lib.base.errors import UserError
from lib.engine.loader import eval_loader
from lib.export.check import Feed
from lib.export.export import Exported
from lib.export.formats import INPUT, Run, run_onnx
from lib.inference import predict
from lib.tasks.trained import Trained


class FileNetwork(nn.Module):
    """An exported file in a network's place: normalised images [B, C, H, W] to {"out": logits [B, K, H, W]}.

    Args:
        run: the file.
        feed: makes its input.
        size: the only (height, width) that it takes; smaller images are padded with the mean. None: any.
    """

    def __init__(self, run: Run, feed: Feed, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.run, self.feed, self.size = run, feed, size

    def forward(self, image: Tensor, with_aux: bool | None = None) -> dict[str, Tensor]:
        return {"out": torch.cat([self._one(each) for each in image.split(1)])}

    def _one(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if self.size is not None:
            image = F.pad(image, (0, self.size[1] - width, 0, self.size[0] - height))
        logits = self.run(self.feed.from_normalised(image.contiguous()))
        return torch.from_numpy(logits[..., :height, :width])


def require_data(trained: Trained, count: int) -> None:
    """Raise UserError unless there are training images to calibrate on and validation images with labels."""
    trained.task.eval_data("train")
    trained.task.eval_data("val")
    if count < 1:
        raise UserError(f"--calibration {count}: int8 needs at least 1 training image")


def quantise(exported: Exported, trained: Trained, count: int) -> bytes:
    """The model with convolutions in int8: weights channel by channel, activations by ranges seen on training images.

    Args:
        exported: as float32 ONNX.
        count: training images, evenly spread, of each of which the middle is shown.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = _calibration(exported, trained, count)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {INPUT: image}

    level = logging.root.manager.disable
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(exported.content)
        # It advises preparations that were made: batch norm is folded, shapes are known.
        logging.disable(logging.WARNING)
        try:
            quantize_static(
                source,
                target,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            logging.disable(level)
        return target.read_bytes()


def _calibration(exported: Exported, trained: Trained, count: int) -> Iterator[np.ndarray]:
    data = trained.task.eval_data("train")
    height, width = exported.size
    for index in np.unique(np.linspace(0, len(data) - 1, count).astype(int)):
        image = data[int(index)]["image"][None]
        top, left = max(0, (image.shape[2] - height) // 2), max(0, (image.shape[3] - width) // 2)
        middle = image[..., top : top + height, left : left + width]
        padded = F.pad(middle, (0, width - middle.shape[3], 0, height - middle.shape[2]))
        yield exported.feed.from_normalised(padded.contiguous())


@torch.inference_mode()
def scores(content: bytes, exported: Exported, trained: Trained, what: str) -> dict[str, Any]:
    """The scores on ``val`` of an ONNX file.

    A file for one size is shown windows of that size, whatever mode the configuration has; scales stay.
    """
    size, config, task = exported.metadata["input"]["size"], trained.config, trained.task
    if size:
        val = config.val
        val.mode = val.mode if val.mode.endswith("crop") else f"{val.mode}crop"
        # A window is no larger than an image: what is missing of the one size is padded.
        val.window, val.windows, val.batch_size = size[::-1], "mmseg", 1
    network = FileNetwork(run_onnx(content), exported.feed, size)
    data, tally = task.eval_data("val"), task.tally(torch.device("cpu"))
    loader = eval_loader(data, workers=config.data.workers)
    for batch in tqdm(loader, unit="image", total=len(data), desc=what, disable=None):
        tally.add(batch, predict(task.predictor(network, batch["image"])))
    return task.describe(tally.scores()).row
