"""What a prediction leaves: ``label/``, ``vis/``, ``probabilities/``, ``polygons/`` and ``predictions.json``."""

import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import cv2
import numpy as np

from datasets.seg.classes import ClassTable
from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.base.regular import read_regular
from lib.predict.forecast import Prediction
from lib.predict.outlines import CocoFile, geojson
from lib.predict.sources import Source
from lib.vis.overlay import overlay

RECORD = "predictions.json"
LARGEST_RECORD = 1 << 28
"""Bytes of a record that is looked at before it is replaced."""
POLYGONS = ("coco", "geojson")


class Output:
    """The folder of one prediction; its methods may be called by several threads.

    Args:
        folder: made when there is something to write.
        table: the classes.
        probabilities: whether these are written.
        polygons: "coco", "geojson" or "".
        frames: whether the label images of a video's frames are written.
    """

    def __init__(
        self, folder: Path, table: ClassTable, *, probabilities: bool = False, polygons: str = "", frames: bool = False
    ) -> None:
        self.folder, self.table = folder, table
        self.probabilities, self.polygons, self.frames = probabilities, polygons, frames
        self.coco = CocoFile(table) if polygons == "coco" else None

    def files(self, source: Source) -> list[Path]:
        """All that is written of a source, but for the frames of a video."""
        if source.kind != "image":
            return [self._path("vis", source.name, ".mp4"), *[self._path("label", source.name, "")] * self.frames]
        found = [self._path("label", source.name, ".png"), self._path("vis", source.name, ".jpg")]
        found += [self._path("probabilities", source.name, ".npz")] * self.probabilities
        return found + [self._path("polygons", source.name, ".geojson")] * (self.polygons == "geojson")

    def claim(self, sources: Iterable[Source], command: dict[str, Any], overwrite: bool) -> None:
        """Raise UserError where something would be overwritten, unless the same ``command`` wrote it or it may be."""
        record = self.folder / RECORD
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is a file: choose another folder with --out")
        if not overwrite and not self._is_of(record, command):
            written = [record, self.folder / "polygons.json"]
            for path in (*written, *(path for source in sources for path in self.files(source))):
                if path.exists():
                    raise UserError(
                        f"{path} is there already, and of another command: choose another folder with --out, or "
                        "replace it with --overwrite"
                    )
        self._write(record, lambda file: file.write(_json({"command": command, "complete": False})))

    def _is_of(self, record: Path, command: dict[str, Any]) -> bool:
        try:
            return json.loads(read_regular(record, LARGEST_RECORD))["command"] == command
        except (UserError, ValueError, KeyError, TypeError, RecursionError):
            return False

    def image(self, source: Source, picture: np.ndarray, prediction: Prediction) -> None:
        """Write what is asked for of an image: its picture uint8 [H, W, 3], BGR, and its prediction."""
        self.label(source.name, prediction.train_ids)
        shown = self.overlay(picture, prediction.train_ids)
        self._encoded(self._path("vis", source.name, ".jpg"), shown, [cv2.IMWRITE_JPEG_QUALITY, 90])
        if prediction.probabilities is not None:
            arrays = {"probabilities": prediction.probabilities, "ids": self.table.id_of, "names": self.table.names}
            path = self._path("probabilities", source.name, ".npz")
            self._write(path, lambda file: np.savez_compressed(file, **arrays))
        if self.polygons == "geojson":
            content = _json(geojson(prediction.train_ids, self.table))
            self._write(self._path("polygons", source.name, ".geojson"), lambda file: file.write(content))

    def label(self, name: PurePath, train_ids: np.ndarray) -> None:
        """Write ``label/<name>.png`` in the dataset's ids."""
        self._encoded(self._path("label", name, ".png"), self.ids_of(train_ids), [])

    def ids_of(self, train_ids: np.ndarray) -> np.ndarray:
        """The dataset's ids, uint8 [H, W], of train ids."""
        ids = np.zeros(256, np.uint8)
        ids[: len(self.table)] = self.table.id_of
        return cv2.LUT(train_ids, ids)

    def large(self, source: Source, write: Callable[[BinaryIO], object], picture: Callable[[], np.ndarray]) -> None:
        """Write the label image, a TIFF, of an image that is larger than memory, then a small picture of it, BGR."""
        self._write(self._path("label", source.name, ".tif"), write)
        self._encoded(self._path("vis", source.name, ".jpg"), picture(), [cv2.IMWRITE_JPEG_QUALITY, 90])

    def overlay(self, picture: np.ndarray, train_ids: np.ndarray) -> np.ndarray:
        """A picture, BGR, tinted by class."""
        return overlay(picture, train_ids, np.ascontiguousarray(self.table.palette[:, ::-1]))

    def close(self, command: dict[str, Any], facts: dict[str, Any]) -> None:
        """Write what is of all images together, and the record."""
        if self.coco:
            content = _json(self.coco.content())
            self._write(self.folder / "polygons.json", lambda file: file.write(content))
        record = _json({"command": command, "complete": True, **facts})
        self._write(self.folder / RECORD, lambda file: file.write(record))

    def temporary(self, source: Source) -> Path:
        """Where a video is written until it is whole."""
        path = self._path("vis", source.name, ".mp4")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f".{secrets.token_hex(8)}.part.mp4")

    def _path(self, kind: str, name: PurePath, ending: str) -> Path:
        return self.folder / kind / name.parent / f"{name.name}{ending}"

    def _encoded(self, path: Path, pixels: np.ndarray, settings: Sequence[int]) -> None:
        _, content = cv2.imencode(path.suffix, pixels, settings)
        self._write(path, lambda file: file.write(content))

    def _write(self, path: Path, write: Callable[[BinaryIO], object]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, write)
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror}; free some space, then repeat the command"
            ) from None


def _json(content: Any) -> bytes:
    return (json.dumps(content) + "\n").encode()
