"""A sheet that compares predictions with labels."""

from pathlib import Path

import numpy as np

from datasets.seg.bands import read_picture
from datasets.seg.classes import named_table
from datasets.seg.dataset import list_samples
from datasets.seg.files import read_label
from lib.base.errors import UserError
from lib.vis.overlay import legend, panel


def comparison_sheet(split: Path, predictions: Path, dataset: str, count: int) -> np.ndarray:
    """RGB uint8 [H, W, 3]: the first ``count`` images of ``split`` (.../val) that have a PNG in ``predictions``.

    Each row shows an image, its prediction and its label; below, the colours of the classes of ``dataset``, as for
    ``named_table``.

    Raises:
        UserError: no image has a prediction.
    """
    table = named_table(dataset)
    rows, present = [], set()
    for sample in list_samples(split.parent, split.name):
        path = predictions / f"{sample.name}.png"
        if len(rows) == count or not path.exists():
            continue
        prediction, label = (table.train_id_of[read_label(file)] for file in (path, sample.label))
        rows.append(panel(read_picture(sample.image), prediction, label, table.palette))
        present |= {*np.unique(prediction).tolist(), *np.unique(label).tolist()} & set(range(len(table)))
    if not rows:
        raise UserError(f"{predictions} holds no prediction <name>.png for an image of {split}")
    gap = np.full((8, rows[0].shape[1], 3), 255, np.uint8)
    return np.vstack(
        [part for row in rows for part in (row, gap)] + [legend(table.names, table.palette, present, gap.shape[1])]
    )
