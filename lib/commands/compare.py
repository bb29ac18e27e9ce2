"""RUN RUN ...: what differs between runs on the same images, and whether by more than chance

A table of the classes' IoU, and a paired bootstrap over the images, from what ``val`` (or ``test``) left in the runs'
folders; each further run is compared with the first. With ``--out`` also a sheet of the images that changed most.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.commands._options import AtLeastOne

if TYPE_CHECKING:
    from lib.scores.per_image import ImageCounts
    from lib.tasks.segmentation import Segmentation
    from lib.vis.changes import Row

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run folders, two or more")
    add("--split", choices=("val", "test"), default="val", help="of which images")
    add("--out", type=Path, metavar="FILE", help=".png or .jpg: a sheet of the images that changed most")
    add("--count", action=AtLeastOne, default=6, metavar="N", help="images on the sheet, 1 or more")
    add("--json", type=Path, metavar="FILE", help="write the figures there too")


def run(options: argparse.Namespace) -> None:
    import json

    from lib.base.atomic import write_atomically
    from lib.base.errors import UserError
    from lib.base.names import printable
    from lib.base.output import require_output
    from lib.scores.comparison import Comparison, require_alike
    from lib.scores.per_image import FILE

    if not 2 <= len(options.runs) <= len(LETTERS):
        raise UserError(f"compare takes 2 to {len(LETTERS)} runs, not {len(options.runs)}: name their folders")
    if options.out:
        require_output(options.out, (".png", ".jpg"))
    if options.json:
        require_output(options.json, (".json",))
    counts = [_counts(folder, options.split) for folder in options.runs]
    files = [folder / options.split / FILE for folder in options.runs]
    for other, file in zip(counts[1:], files[1:], strict=True):
        require_alike(counts[0], other, (files[0], file))
    found = [Comparison.of(counts[0], other) for other in counts[1:]]
    print(f"{len(counts[0].names)} images of {options.split}\n")
    for letter, folder in zip(LETTERS, options.runs, strict=False):
        print(f"{letter}  {printable(folder)}")
    for letter, comparison in zip(LETTERS[1:], found, strict=False):
        print(f"\n{comparison.table('A', letter)}\n\n{comparison.verdict('A', letter)}")
    if options.json:
        facts = {
            "split": options.split,
            "runs": [str(folder) for folder in options.runs],
            "images": len(counts[0].names),
            "classes": list(counts[0].classes),
            "comparisons": [comparison.as_dict() for comparison in found],
        }
        write_atomically(options.json, lambda file: file.write(json.dumps(facts, indent=1).encode()))
    if options.out:
        _draw(options, counts)


def _counts(folder: Path, split: str) -> "ImageCounts":
    from lib.base.errors import UserError
    from lib.scores.per_image import FILE, ImageCounts

    if not folder.is_dir():
        raise UserError(f"{folder} is no run's folder: name one, runs/<task>/<dataset>/<recipe>/<tag>")
    if not (folder / split / FILE).exists():
        raise UserError(f"{folder} has no {split}/{FILE}: run {split} of it first (of images that have labels)")
    return ImageCounts.load(folder / split / FILE)


def _draw(options: argparse.Namespace, counts: list["ImageCounts"]) -> None:
    """Write the sheet, or say why there is none."""
    from lib.base.errors import UserError
    from lib.scores.comparison import most_changed
    from lib.tasks import load_config, make_task
    from lib.vis.changes import changes_sheet
    from lib.vis.overlay import write_picture

    chosen = most_changed(counts, options.count)
    if not chosen:
        print(f"\nno image changed: {options.out} is left out")
        return
    try:
        task = make_task(load_config(options.runs[0] / "config.yaml", []))
        data = task.eval_data(options.split)
    except UserError as error:
        print(f"\n{options.out} is left out, for the images are not at hand: {error}")
        return
    index_of = {sample.name: index for index, sample in enumerate(data.samples)}
    rows, present = [], set()
    for image in chosen:
        name = counts[0].names[image]
        if name not in index_of:
            raise UserError(f"image '{name}' is no longer in {task.config.data.root}: run {options.split} again")
        scores = [float(each.miou[image]) for each in counts]
        row, ids = _row(options, task, name, data[index_of[name]], scores)
        rows.append(row)
        present |= ids
    runs = zip(LETTERS, options.runs, strict=False)
    heads = ["image", "label", *(f"{letter}  {folder.parent.name}/{folder.name}"[:42] for letter, folder in runs)]
    table = task.table
    write_picture(options.out, changes_sheet(rows, heads, table.names, table.palette, sorted(present)))
    print(f"\nthe images that changed most are in {options.out}")


def _row(
    options: argparse.Namespace, task: "Segmentation", name: str, item: dict[str, Any], scores: list[float]
) -> tuple["Row", set[int]]:
    """An image, its label and every run's prediction, and the train ids in them."""
    import numpy as np

    from datasets.seg.classes import IGNORE
    from datasets.seg.files import read_label
    from lib.base.errors import UserError
    from lib.vis.changes import Row

    label = item["label"].numpy().astype(np.uint8)
    shown = [np.full_like(label, IGNORE), label]  # where all is ignored, the image stays as it is
    for folder in options.runs:
        path = folder / options.split / "label" / f"{name}.png"
        shown.append(task.table.train_id_of[read_label(path)])
        if shown[-1].shape != label.shape:
            raise UserError(f"{path} has not the size of its label: run {options.split} again")
    words = "  ".join(f"{letter} {100 * score:.2f}" for letter, score in zip(LETTERS, scores, strict=False))
    present = set(np.unique(np.concatenate([ids.ravel() for ids in shown])).tolist()) & set(range(len(task.table)))
    return Row(f"{name}: mIoU {words}", [task.picture(item["image"], ids) for ids in shown]), present
