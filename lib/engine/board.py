"""TensorBoard events of a run, in tensorboardX's file format."""

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import image as image_summary

from lib.base.errors import UserError


class Board:
    """The events that one start of a run writes; they are on the disk when a method returns.

    tensorboardX's ``SummaryWriter`` is not used: it writes from a thread that a full disk ends, whereupon the run
    would wait for it for ever.

    Args:
        folder: of the run.
        first_iteration: events of earlier starts from this one on are superseded.
    """

    def __init__(self, folder: Path, first_iteration: int):
        self.path = folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self.records = RecordWriter(str(self.path))
        self._write(0, file_version="brain.Event:2")
        self._write(first_iteration, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, values: dict[str, float], iteration: int) -> None:
        """Add a point to the curve of each name."""
        entries = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(iteration, summary=Summary(value=entries))

    def picture(self, name: str, image: np.ndarray, iteration: int) -> None:
        """Show an RGB uint8 image [H, W, 3]."""
        self._write(iteration, summary=image_summary(name, image, dataformats="HWC"))

    def _write(self, iteration: int, **content: Any) -> None:
        try:
            self.records.write(Event(wall_time=time.time(), step=iteration, **content).SerializeToString())
            self.records.flush()
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; free some space, then resume") from error

    def close(self) -> None:
        # What is still to be written after `_write` is the record that failed, and it was reported.
        with suppress(OSError):
            self.records.close()
