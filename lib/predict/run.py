"""The story of a prediction: sources are read, go through the network, and are written, all at the same time."""

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets.seg.bands import open_bands
from datasets.seg.pixels import Pixels
from lib.base.errors import UserError
from lib.predict.forecast import Forecast, Prepared, prepare
from lib.predict.large import LargeImage, open_large, predict_large, refuse_large
from lib.predict.output import Output
from lib.predict.pipeline import Ahead, in_batches, threads
from lib.predict.sources import Source
from lib.predict.video import predict_video
from lib.tasks.trained import Trained


class Prediction:
    """One command's work.

    Args:
        trained: the network.
        output: where results go.
        batch: images at a time; see ``Forecast``.

    Attributes:
        count: images and frames that are predicted.
        failed: a line for each source that could not be, or not to its end.
        by_windows: names of images of which windows took the place of what was asked for.
    """

    def __init__(self, trained: Trained, output: Output, batch: int = 0) -> None:
        self.pixels: Pixels = trained.task.pixels
        self.output = output
        self.forecast = Forecast(trained, probabilities=output.probabilities, batch=batch, tell=self._tell)
        self.count = 0
        self.failed: list[str] = []
        self.by_windows: list[str] = []
        self.bar = tqdm(unit="image", disable=None, dynamic_ncols=True)

    def run(self, sources: Sequence[Source]) -> float:
        """Predict all sources, images first; returns the seconds that it took."""
        began = time.perf_counter()
        images = [source for source in sources if source.kind == "image"]
        self.bar.reset(total=len(images) if len(images) == len(sources) else None)
        try:
            self._images(images)
            for source in sources:
                if source.kind != "image":
                    self._video(source)
        finally:
            self.bar.close()
        return time.perf_counter() - began

    def facts(self) -> dict[str, Any]:
        """For the record."""
        found = {"images": self.count, "failed": self.failed, **self.forecast.facts()}
        return found | ({"by_windows": self.by_windows} if self.by_windows else {})

    def _images(self, sources: Sequence[Source]) -> None:
        reader, writer = Ahead(threads()), Ahead(threads())
        try:
            for batch in in_batches(self._read(reader.map(self._prepare, sources)), self.forecast.at_once):
                self._predict(batch, writer)
            writer.drain()
        finally:
            reader.close()
            writer.close()

    def _prepare(self, source: Source) -> Prepared | LargeImage:
        if large := open_large(source, self.pixels, self.forecast.num_classes):
            return large
        return prepare(open_bands(source.path, self.pixels.bands).decode(), self.pixels)

    def _read(self, begun: Iterator[tuple[Source, Future]]) -> Iterator[tuple[Source, Prepared]]:
        for source, future in begun:
            try:
                found = future.result()
                if isinstance(found, LargeImage):
                    self._large(source, found)
                else:
                    yield source, found
            except UserError as error:
                if "cannot write" in str(error):
                    raise
                self._fail(str(error))

    def _predict(self, batch: list[tuple[Source, Prepared]], writer: Ahead) -> None:
        try:
            found = self.forecast([prepared for _, prepared in batch])
        except UserError as error:
            for source, _ in batch:
                self._fail(f"{source.path}: {error}")
            return
        for (source, prepared), prediction in zip(batch, found, strict=True):
            if prediction.windows:
                self.by_windows.append(str(source.name))
            if self.output.coco:
                self.output.coco.add(str(source.path), prediction.train_ids)
            writer.submit(self.output.image, source, prepared.picture, prediction)
        self._advance(len(batch))

    def _large(self, source: Source, image: LargeImage) -> None:
        with closing(image):
            if predict_large(source, image, self.forecast, self.output):
                self.by_windows.append(str(source.name))
        self._advance(1)

    def _video(self, source: Source) -> None:
        before = self.count
        try:
            _, complaint = predict_video(source, self.forecast, self.pixels, self.output, self._advance)
        except UserError as error:
            # What cannot be read is the source's fault; a full disk would strike the next one too.
            if self.count > before or "cannot write" in str(error):
                raise
            complaint = str(error)
        if complaint:
            self._fail(complaint)

    def _advance(self, count: int) -> None:
        self.count += count
        self.bar.update(count)

    def _fail(self, line: str) -> None:
        self.failed.append(line)
        self._tell(f"error: {line}")

    def _tell(self, line: str) -> None:
        tqdm.write(line, file=sys.stderr)


def predict_sources(
    trained: Trained, sources: Sequence[Source], output: Output, command: dict[str, Any], *, batch: int, overwrite: bool
) -> bool:
    """Predict ``sources`` into ``output`` and tell how it went; returns whether all of them could be."""
    if wanted := ["--probabilities"] * output.probabilities + ["--polygons"] * bool(output.polygons):
        refuse_large(sources, trained.task.pixels, len(trained.task.table), " and ".join(wanted))
    output.claim(sources, command, overwrite)
    for note in trained.notes:
        print(note)
    work = Prediction(trained, output, batch)
    mode = trained.task.protocol["mode"]
    print(f"{trained.path} (iteration {trained.iteration}), {trained.device.type}, mode {mode}", flush=True)
    seconds = work.run(sources)
    facts = {"checkpoint": str(trained.path), "iter": trained.iteration, **trained.task.protocol}
    output.close(command, facts | work.facts())
    failed = f", {len(work.failed)} failed" if work.failed else ""
    rate = work.count / max(seconds, 1e-9)
    print(f"{Path(output.folder)}: {work.count} images in {seconds:.1f} s{failed}: {rate:.2f} images/s")
    return not work.failed
