"""The model card: what a published network is, in Markdown."""

import re
import shlex
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lib.base.names import printable
from lib.tasks.trained import Trained
from lib.weights import published

if TYPE_CHECKING:
    from lib.config import Config

FRONT = """\
---
pipeline_tag: image-segmentation
tags: [semantic-segmentation, dnl]
---
"""


def card(trained: Trained, config: "Config", scores: dict[str, Any] | None, *, has_picture: bool) -> str:
    """The text.

    Args:
        trained: the network, with the configuration as it was.
        config: as it is published.
        scores: what ``val`` found, if it is published.
        has_picture: whether ``predictions.jpg`` lies beside.
    """
    head, table = config.model.head, trained.task.table
    network = f"{head.name} ({head.block.name})" if head.name == "nonlocal" else head.name
    dataset = f"{len(table)} classes" if config.data.dataset == "auto" else config.data.dataset
    parameters = sum(parameter.numel() for parameter in trained.network.parameters())
    width, height = config.data.crop_size
    averaged = ", averaged over the iterations" if config.train.ema else ""
    facts = {
        "network": f"{network} on {config.model.backbone.name}, {parameters / 1e6:.1f} million parameters{averaged}",
        "images": f"{config.data.bands} bands, {config.data.color_order.upper()}"
        if config.data.bands == 3
        else f"{config.data.bands} bands",
        "classes": f"{len(table)}, in {published.CLASSES}",
        "trained": f"{trained.iteration} iterations of {config.train.batch_size} crops of {width} x {height} pixels",
        "began with": _source(trained.config.pretrained),
        "seed": str(config.seed),
    }
    parts = [
        FRONT + f"# {_text(config.recipe)} on {_text(dataset)}",
        "A network for semantic segmentation.",
        "| | |\n| --- | --- |\n" + "\n".join(f"| {name} | {_text(value)} |" for name, value in facts.items()),
        _training(trained.config),
        _scores(scores),
        f"## What it sees\n\n![images, predictions and labels]({published.PICTURE})\n\nImage, prediction and label."
        if has_picture
        else "",
        _use(scores is not None),
        _licence(trained.config, has_picture),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _training(config: "Config") -> str:
    start = f" pretrained={shlex.quote(_source(config.pretrained)).replace('`', '')}" if config.pretrained else ""
    command = f"python main.py train --config DIR/{published.CONFIG} tag=NAME data.root=DATA_DIR{start}"
    return (
        f"## How it was trained\n\nAs `{published.CONFIG}` says; this trains it anew, where DATA_DIR has the data and "
        f"DIR is this folder:\n\n```bash\n{command}\n```"
    )


def _scores(scores: dict[str, Any] | None) -> str:
    if not scores or not scores.get("iou"):
        return ""
    of_class = zip(scores["classes"], scores["iou"], strict=True)
    rows = [f"| {_text(name)} | {_percent(iou)} |" for name, iou in of_class]
    means = [f"| **{name}** | **{_percent(scores.get(key))}** |" for key, name in MEANS.items() if key in scores]
    count = f"{scores['images']} " if isinstance(scores.get("images"), int) else ""
    return (
        f"## Scores\n\nOn the {count}validation images, mode {_text(scores.get('mode', ''))}, in percent; all of it is "
        f"in `{published.SCORES}`.\n\n| class | IoU |\n| --- | --: |\n" + "\n".join([*rows, *means])
    )


MEANS = {"miou": "mean IoU", "pixel_accuracy": "pixel accuracy"}


def _use(has_scores: bool) -> str:
    validation = (
        f"\npython main.py val --config DIR/{published.CONFIG} checkpoint=DIR tag=NAME data.root=DATA_DIR"
        if has_scores
        else ""
    )
    return f"""## How to use it

CHECKOUT is the project's folder.

```python
import torch

model = torch.hub.load("CHECKOUT", "segmentor", "DIR", source="local")
print(model.predict("image.png").ids)
```

```bash
python main.py predict DIR IMAGES --out OUT{validation}
sha256sum -c {published.SUMS}
```

Wherever the project takes a checkpoint (`checkpoint=`, `pretrained=`) it takes the folder, and verifies the checksums.
Nothing in it is pickled. Places of the machine that it was trained on are emptied in `{published.CONFIG}`: `data.root`,
`pretrained`, `tag` and `checkpoint`."""


def _licence(config: "Config", has_picture: bool) -> str:
    data = "" if config.data.dataset == "auto" else f" ({_text(config.data.dataset)})"
    start = (
        f"\nand of the weights that it began with ({_text(_source(config.pretrained))})" if config.pretrained else ""
    )
    picture = f"\n`{published.PICTURE}` shows images of the data: `publish --no-picture` leaves it out." * has_picture
    return (
        "## Licence\n\nThe project's code is under the MIT licence. What the weights may be used for depends on the "
        f"terms of the data{data}{start}:\nwhoever passes them on names their licence here.{picture}"
    )


def _source(pretrained: str) -> str:
    """What ``pretrained`` named, without the place where it lay or words to get in."""
    if not pretrained:
        return "random weights"
    if re.match(r"https?://", pretrained):
        found = urlsplit(pretrained)
        return printable(f"{found.scheme}://{found.hostname}{found.path}")
    return printable(re.split(r"[\\/]", pretrained.rstrip("\\/"))[-1])


def _text(value: object) -> str:
    """A value in a line or a cell of Markdown, as it stands."""
    return re.sub(r"([\\`*\[\]<>|#])", r"\\\1", printable(value))


def _percent(value: Any) -> str:
    return f"{100 * value:.2f}" if isinstance(value, (int, float)) and value == value else "-"
