"""look at images and labels: sheets and one HTML page

Of DATA_DIR or of a recipe's data; with --augmented what the network will see, with --class where a class occurs, with
--worst what a run gets wrong.
"""

import argparse
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.seg.classes import AUTO, FILE, datasets
from lib.base.errors import UserError
from lib.commands._options import AtLeastOne, add_configuration, split_words

if TYPE_CHECKING:
    from lib.tasks.segmentation import Segmentation
    from lib.vis.views import View

COUNT = 24
SPLITS = ("train", "val", "test")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "main.py browse DATA_DIR|--config FILE|--worst RUN [key=value ...] --out DIR [...]"
    add_configuration(parser, required=False, words="DATA_DIR", meaning="a prepared dataset, unless --config")
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="where sheet_001.jpg, ... and index.html go")
    add("--split", choices=SPLITS, help="of the data (default: train, with --worst val)")
    add("--dataset", metavar="NAME", help=f"DATA_DIR's classes (default: its {FILE}): one of {', '.join(datasets())}")
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument(
        "--count",
        action=AtLeastOne,
        default=COUNT,
        metavar="N",
        help="images, evenly spread; of --augmented and --worst the first",
    )
    how_many.add_argument("--all", action="store_true", help="all images")
    add("--augmented", action="store_true", help="the crops of training, in its order, as the network sees them")
    add("--epoch", type=int, default=0, metavar="E", help="of --augmented, 0 or more")
    add("--class", dest="of_class", metavar="NAME", help="images with this class, those with the most of it first")
    add("--worst", type=Path, metavar="RUN", help="the images whose mIoU (with --class: IoU) is lowest in this run")
    add("--width", type=int, default=480, metavar="PIXELS", help="of a picture on a sheet; 0: as large as it is")
    add("--format", choices=("jpg", "png"), default="jpg", help="of the sheets")


def run(options: argparse.Namespace) -> None:
    if options.epoch < 0 or not 0 <= options.width <= 16_384:
        raise UserError("--epoch has to be 0 or more, and --width from 0 to 16384")
    if options.augmented and (options.of_class or options.worst or not options.config):
        raise UserError(
            "--augmented shows how a recipe trains: it needs --config FILE, and neither --class nor --worst"
        )
    from lib.vis.browse import write_view

    task = _task(options)
    root = Path(task.config.data.root).resolve()
    if root in (options.out.resolve(), *options.out.resolve().parents):
        raise UserError(f"--out {options.out} lies in the data at {root}, where sheets would be images: choose another")
    view = _view(task, options)
    *sheets, page = write_view(view, options.out, width=options.width, suffix=f".{options.format}")
    print(f"{view.title}\n{len(sheets)} {'sheets' if len(sheets) > 1 else 'sheet'} and {page}")


def _task(options: argparse.Namespace) -> "Segmentation":
    """Whose data is shown: the recipe's, the run's, or that of a bare DATA_DIR."""
    from lib.tasks import load_config, make_task

    words, overrides = split_words(options.overrides)
    if len(words) > 1 or (words and options.config):
        raise UserError(f"{words[-1]} is one word too many: name the data once, as DATA_DIR or as data.root=DATA_DIR")
    if options.dataset and not words:
        raise UserError(f"--dataset goes with a bare DATA_DIR: use data.dataset={options.dataset}")
    config = options.config
    if options.worst and not config:
        from lib.vis.views import folder_of_split

        config = folder_of_split(options.worst, options.split or "val").parent / "config.yaml"
    if words:
        overrides = [
            *overrides,
            f"data.root={words[0]}",
            *([f"data.dataset={options.dataset}"] if options.dataset else []),
        ]
    if not config:
        if not words:
            raise UserError("name what to look at: a DATA_DIR, --config FILE, or --worst RUN")
        if overrides[0] in options.overrides:
            raise UserError(f"{overrides[0]} changes a recipe: name it with --config FILE, or leave it out")
        if not options.dataset:
            if Path(words[0]).is_dir() and not Path(words[0], FILE).exists():
                raise UserError(
                    f"{words[0]} has no {FILE}: name its classes with --dataset, one of {', '.join(datasets())}"
                )
            overrides.append(f"data.dataset={AUTO}")
    task = make_task(load_config(config, overrides))
    if task.name != "seg":
        raise UserError(f"browse shows images with labels of every pixel, not those of task={task.name}")
    return task


def _view(task: "Segmentation", options: argparse.Namespace) -> "View":
    from lib.vis import views

    count = None if options.all else options.count
    if options.augmented:
        from lib.engine.loader import TrainStream

        data, epoch = task.train_data(), options.epoch
        first, end = epoch * len(data), (epoch + 1) * len(data)
        # One at a time: how many make an iteration does not change the order.
        order = TrainStream(len(data), batch_size=1, start_iteration=first, iterations=end, seed=task.config.seed)
        return views.crops(data, list(chain.from_iterable(order)), task.config.train.batch_size, count)
    split = options.split or ("val" if options.worst else "train")
    data = task.eval_data(split)
    if options.worst:
        return views.mistakes(data, views.folder_of_split(options.worst, split), options.of_class, count)
    if options.of_class:
        return views.images_with(data, split, options.of_class, count)
    return views.images(data, split, count)
