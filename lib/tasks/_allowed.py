"""What keys of segmentation may be where other keys, or files, decide."""

from datasets.seg.classes import AUTO, datasets
from lib.keys import Allowed

WINDOW_STEP = Allowed(
    lambda config: (
        "must be above 0: up to 1 in windows, above that in pixels, at most "
        f"{min(config.val.window or config.data.crop_size)}"
    ),
    lambda step, config: 0 < step <= min(config.val.window or config.data.crop_size),
)

DATASET = Allowed(
    lambda config: f"choose one of {', '.join([AUTO, *datasets()])}", lambda name, config: name in (AUTO, *datasets())
)


ONE_A_BAND = Allowed(
    lambda config: f"must have {config.data.bands} entries, one for each of data.bands",
    lambda values, config: len(values) == config.data.bands,
)

COLOURS_ALONE = Allowed(
    lambda config: f"distorts colours, of which there are 3: data.bands is {config.data.bands}, set false",
    lambda distorts, config: not distorts or config.data.bands == 3,
)
