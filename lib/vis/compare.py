"""A sheet that compares predictions with labels.

``python -m lib.vis.compare --data DATA_DIR/val --prediction RUN/val/label --dataset cityscapes --out sheet.jpg``
"""

import argparse
from pathlib import Path

import numpy as np

from datasets.seg.classes import load_table
from datasets.seg.dataset import list_samples
from datasets.seg.files import read_image, read_label
from lib.errors import UserError
from lib.vis.overlay import legend, panel, write_picture


def comparison_sheet(split: Path, predictions: Path, dataset: str, count: int) -> np.ndarray:
    """RGB uint8 [H, W, 3]: the first ``count`` images of ``split`` (.../val) that have a PNG in ``predictions``.

    Each row shows an image, its prediction and its label; below, the colours of the classes.

    Raises:
        UserError: no image has a prediction.
    """
    table = load_table(dataset)
    rows, present = [], set()
    for sample in list_samples(split.parent, split.name):
        path = predictions / f"{sample.name}.png"
        if len(rows) == count or not path.exists():
            continue
        prediction, label = (table.train_id_of[read_label(file)] for file in (path, sample.label))
        rows.append(panel(read_image(sample.image)[..., ::-1], prediction, label, table.palette))
        present |= {*np.unique(prediction).tolist(), *np.unique(label).tolist()} & set(range(len(table)))
    if not rows:
        raise UserError(f"{predictions} holds no prediction <name>.png for an image of {split}")
    gap = np.full((8, rows[0].shape[1], 3), 255, np.uint8)
    return np.vstack(
        [part for row in rows for part in (row, gap)] + [legend(table.names, table.palette, present, gap.shape[1])]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DATA_DIR/SPLIT", help="a split of a prepared dataset"
    )
    parser.add_argument("--prediction", type=Path, required=True, metavar="DIR", help="label PNGs of a run")
    parser.add_argument("--dataset", required=True, help="whose classes and ids")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".jpg or .png to write")
    parser.add_argument("--count", type=int, default=3, help="rows")
    arguments = parser.parse_args()
    try:
        sheet = comparison_sheet(arguments.data, arguments.prediction, arguments.dataset, arguments.count)
        write_picture(arguments.out, sheet)
    except (UserError, OSError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
