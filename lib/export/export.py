"""From a trained network to a file that other runtimes read, which has run before it is written."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lib.base.atomic import write_atomically
from lib.base.errors import UserError
from lib.base.names import printable
from lib.export.check import FOLDING_TOLERANCE, TOLERANCE, Feed, differences, relative, sizes_to_try
from lib.export.fold import fold_norms
from lib.export.formats import WRITERS
from lib.export.graph import Graph, trace
from lib.tasks.trained import Trained

FORMAT = 1
"""Of the metadata."""


@dataclass(frozen=True)
class Wishes:
    """What a file is to be.

    Attributes:
        size: height and width; None for the run's crop.
        dynamic: whether it takes any number of images of any size.
        values: "uint8" or "float32" where it takes images on their own scale, None where normalised ones.
        ids: whether it returns label ids instead of logits.
        fold: whether batch norm is folded into convolutions.
        map_bytes: the most of one image's map of affinities that are held at a time.
    """

    size: tuple[int, int] | None = None
    dynamic: bool = False
    values: str | None = None
    ids: bool = False
    fold: bool = True
    map_bytes: int = 256 << 20


@dataclass(frozen=True)
class Exported:
    """A file that has run, and what is known of it.

    Attributes:
        content: its bytes.
        size: height and width that it was made for.
        feed: makes its input.
        metadata: as it stands in the file.
        lines: what a user wants to know.
    """

    content: bytes
    size: tuple[int, int]
    feed: Feed
    metadata: dict[str, Any]
    lines: tuple[str, ...]


def make(trained: Trained, suffix: str, wishes: Wishes) -> Exported:
    """The file of ``trained`` that is wished for, compared with the checkpoint.

    Args:
        suffix: ``.onnx`` or ``.pt2``.

    Raises:
        UserError: if there can be no such file, or it differs from the checkpoint by more than ``TOLERANCE``.
    """
    pixels, table = trained.task.pixels, trained.task.table
    size = wishes.size or tuple(trained.config.data.crop_size[::-1])
    feed = Feed(pixels, wishes.values)
    network, lines = _prepared(trained.network, feed, size, wishes.fold)
    ids, name = table.id_of if wishes.ids else None, _name(trained)
    graph = Graph(network, pixels if wishes.values else None, wishes.values or "float32", ids).eval()
    program, blocks = trace(graph, pixels.bands, size, dynamic=wishes.dynamic, entries=wishes.map_bytes // 4, name=name)
    if max(blocks, default=1) > 1:
        lines.append(f"maps of affinities are made in blocks of queries: {' and '.join(map(str, blocks))}")
    output = "ids" if wishes.ids else "logits"
    metadata = _metadata(trained, wishes, size, output)
    write, load = WRITERS[suffix]
    content = write(program, output, metadata, name)
    found = differences(load(content), trained.network, feed, sizes_to_try(size, dynamic=wishes.dynamic), ids)
    meant = "pixels of other classes" if wishes.ids else "largest difference from the checkpoint, of the logits' range"
    told = f"{meant}: {', '.join(map(str, found))}"
    if not all(difference.passes for difference in found):
        raise UserError(f"{name} as {suffix} would differ by more than {TOLERANCE:.0e}, nothing is written; {told}")
    return Exported(content, size, feed, metadata, (*lines, told))


def _name(trained: Trained) -> str:
    """Of the network, for messages: what it consists of."""
    model = trained.config.model
    block = f", block {model.head.block.name}" if model.head.name == "nonlocal" else ""
    return f"the network (backbone {model.backbone.name}, head {model.head.name}{block})"


def _prepared(network: nn.Module, feed: Feed, size: tuple[int, int], fold: bool) -> tuple[nn.Module, list[str]]:
    """A copy of a network without its auxiliary head, its batch norm folded where that is exact, and lines on it."""
    bare = copy.deepcopy(network)
    bare.aux_head = None
    if not fold:
        return bare, []
    folded = copy.deepcopy(bare)
    image = feed.normalised(feed.draw(1, (min(size[0], 129), min(size[1], 129)), seed=3))
    try:
        expected = bare(image)["out"].numpy()
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--size {size[0]} {size[1]}: the network takes no image of that size ({reason})") from None
    count = fold_norms(folded, image)
    share = relative(folded(image)["out"].numpy(), expected)
    if not share <= FOLDING_TOLERANCE:
        return bare, [f"batch norm is left as it is: folded into convolutions it would change logits by {share:.1e}"]
    return folded, [f"{count} batch norms are folded into convolutions: logits change by {share:.1e} of their range"]


def _metadata(trained: Trained, wishes: Wishes, size: tuple[int, int], output: str) -> dict[str, Any]:
    """What a program that runs the file has to know. Names are the configuration's."""
    config, table, pixels = trained.config, trained.task.table, trained.task.pixels
    colours = "file's" if pixels.bands != 3 else "rgb" if wishes.values else pixels.color_order
    return {
        "format": FORMAT,
        "classes": list(table.names),
        "palette": table.palette.tolist(),
        "ids": table.id_of.tolist(),
        "recipe": config.recipe,
        "dataset": config.data.dataset,
        "iteration": trained.iteration,
        "checkpoint": printable(trained.path.name),
        "input": {
            "layout": "BHWC" if wishes.values else "BCHW",
            "values": wishes.values or "normalised float32",
            "bands": pixels.bands,
            "color_order": colours,
            "size": None if wishes.dynamic else list(size),
        },
        "output": output,
        "color_order": pixels.color_order,
        "mean": list(pixels.mean),
        "std": list(pixels.std),
    }


def write(exported: Exported, path: Path) -> None:
    """The file, whole or not at all."""
    write_atomically(path, lambda file: file.write(exported.content))
