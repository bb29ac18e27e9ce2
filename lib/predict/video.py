"""Videos and cameras, frame by frame: an overlay video of the same rate, and label images where they are wanted."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import PurePath

import cv2
import numpy as np

from datasets.seg.pixels import Pixels
from lib.base.errors import UserError
from lib.base.regular import require_regular
from lib.predict.forecast import Forecast, Prediction, Prepared, prepare
from lib.predict.output import Output
from lib.predict.pipeline import Ahead, in_batches
from lib.predict.sources import Source

USUAL_RATE = 25.0
"""Frames a second, where a video or camera does not say."""
LARGEST = 1 << 40
"""Bytes of a video."""


def _be_quiet() -> None:
    """Let OpenCV and FFmpeg keep to themselves what the lines of errors here say in one."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if hasattr(cv2, "utils") and hasattr(cv2.utils, "logging"):
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class Frames:
    """The frames of a video or camera, in order; raises UserError where there is nothing to read."""

    def __init__(self, source: Source) -> None:
        self.source = source
        _be_quiet()
        if source.kind == "camera":
            self.capture = cv2.VideoCapture(int(str(source.path).partition(":")[2]))
        else:
            require_regular(source.path, "video", LARGEST)
            self.capture = cv2.VideoCapture(os.path.abspath(source.path), cv2.CAP_FFMPEG)
        if not self.capture.isOpened():
            what = "cannot be opened: is it connected?" if source.kind == "camera" else "is no video that can be read"
            raise UserError(f"{source.path} {what}")
        rate = self.capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else USUAL_RATE
        frames = self.capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.promised = int(frames) if source.kind == "video" and 0 < frames < 1e9 else 0
        self.number = 0

    def read(self, _: object = None) -> np.ndarray | None:
        """The next frame, uint8 [H, W, 3], BGR; None after the last."""
        is_there, frame = self.capture.read()
        self.number += is_there
        return frame if is_there else None

    def complaint(self) -> str | None:
        """What is wrong with a video that has been read to its end."""
        if self.number == 0:
            return f"{self.source.path} has no frame that can be read: copy it again"
        # Where a file does not count its frames, OpenCV estimates them from its duration.
        if self.number < self.promised - max(1, self.promised // 50):
            return (
                f"{self.source.path} ends after {self.number} of {self.promised} frames: copy it again; "
                "what could be read is predicted"
            )
        return None

    def close(self) -> None:
        self.capture.release()


class _OverlayVideo:
    """A video that is written beside its place and renamed when it is whole.

    Its sides are even, for the codec knows no others: a picture of odd ones has its last row or column twice.
    """

    def __init__(self, output: Output, source: Source, rate: float) -> None:
        self.path, self.temporary, self.rate = output.files(source)[0], output.temporary(source), rate
        self.writer: cv2.VideoWriter | None = None
        self.frames = 0

    def add(self, picture: np.ndarray) -> None:
        height, width = picture.shape[:2]
        if height % 2 or width % 2:
            picture = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if self.writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self.writer = cv2.VideoWriter(str(self.temporary), cv2.CAP_FFMPEG, code, self.rate, picture.shape[1::-1])
            if not self.writer.isOpened():
                raise UserError(
                    f"cannot write {self.path}: see that its folder can be written and the disk is not full"
                )
        self.writer.write(picture)
        self.frames += 1

    def finish(self) -> None:
        """Put it in its place; raises UserError where it is not whole, which OpenCV does not tell."""
        if self.writer is None:
            return
        self.writer.release()
        reader = cv2.VideoCapture(str(self.temporary), cv2.CAP_FFMPEG)
        written = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
        reader.release()
        if written != self.frames:
            raise UserError(
                f"cannot write {self.path}: {written} of {self.frames} frames are there; free some space, then repeat "
                "the command"
            )
        os.replace(self.temporary, self.path)

    def discard(self) -> None:
        if self.writer is not None:
            self.writer.release()
        with suppress(OSError):
            self.temporary.unlink()


def predict_video(
    source: Source, forecast: Forecast, pixels: Pixels, output: Output, advance: Callable[[int], object]
) -> tuple[int, str | None]:
    """Predict all frames of a video, or those of a camera until it is interrupted.

    Args:
        advance: called with numbers of frames as they are done.

    Returns:
        Their number, and what is wrong with the video, if anything.

    Raises:
        UserError: it cannot be read at all, or results cannot be written.
    """
    frames = Frames(source)
    video = _OverlayVideo(output, source, frames.rate)
    reader, writer = Ahead(1), Ahead(1)

    def write(number: int, frame: np.ndarray, prediction: Prediction) -> None:
        if output.frames:
            output.label(PurePath(source.name, f"{number:06}"), prediction.train_ids)
        video.add(output.overlay(frame, prediction.train_ids))

    def prepared() -> Iterator[tuple[int, Prepared]]:
        for number, future in reader.map(frames.read, count()):
            frame = future.result()
            if frame is None:
                return
            yield number, prepare(frame, pixels)

    try:
        for batch in in_batches(prepared(), forecast.at_once):
            for (number, one), found in zip(batch, forecast([one for _, one in batch]), strict=True):
                writer.submit(write, number, one.picture, found)
            advance(len(batch))
        writer.drain()
        video.finish()
    except KeyboardInterrupt:
        # A camera has no other end.
        if source.kind == "camera":
            writer.drain()
            video.finish()
        raise
    finally:
        reader.close()
        writer.close()
        frames.close()
        video.discard()
    return frames.number, frames.complaint()
