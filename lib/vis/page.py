"""One HTML file about runs: their curves, tables and pictures, with nothing beside it."""

import base64
import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.seg.files import read_image
from lib.base.errors import UserError
from lib.base.names import printable
from lib.vis.curves import as_file, curves_figure
from lib.vis.recorded import RecordedRun

FOLDERS = {"extremes": 6, "vis": 6}
"""Below ``val/`` of a run: where its pictures are, and how many are shown of each."""
WIDEST = 960
"""Pixels of a picture's width on the page."""
SCORES = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "mean_dice": "mean Dice",
    "mean_precision": "mean precision",
    "mean_recall": "mean recall",
    "mean_boundary_iou": "mean boundary IoU",
}
"""Of ``val/metrics.json``, in per cent."""
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1000px; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin-top: 2em } h3 { font-size: 1em; overflow-wrap: anywhere }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25em .8em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left } thead th { border-bottom: 2px solid #888 }
td.best { font-weight: 700 } figure { margin: 1em 0 } figcaption { color: #666; overflow-wrap: anywhere }
img, svg { max-width: 100%; height: auto } .note { color: #666 }
"""
HEAD = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Runs</title>
<style>{STYLE}</style></head>
<body>
"""


def page(runs: Sequence[RecordedRun]) -> str:
    """HTML with the curves (as SVG), a table of scores, one of the classes' IoU, and the pictures of ``val``.

    The best of each row is bold. Runs that ``val`` has not scored have no columns in the tables of its scores.
    """
    figure = as_file(curves_figure(runs), "svg").decode()
    parts = ["<h1>Runs</h1>", f"<figure>{figure[figure.index('<svg') :]}</figure>"]
    parts += ["<h2>Training</h2>", _training(runs)]
    scored = [run for run in runs if run.facts]
    if scored:
        parts += ["<h2>Validation</h2>", _scores(scored)]
        if classes := _classes(scored):
            parts += ["<h2>IoU of each class, per cent</h2>", classes]
    else:
        parts.append('<p class="note">None of these runs has val/metrics.json: run val for tables and pictures.</p>')
    pictures = [(run, shown) for run in runs if (shown := _pictures(run.path / "val"))]
    if pictures:
        parts.append("<h2>Pictures</h2>")
    for run, shown in pictures:
        parts += [f"<h3>{_text(run.name)}</h3>", *shown]
    return HEAD + "\n".join(parts) + "\n</body></html>\n"


def _training(runs: Sequence[RecordedRun]) -> str:
    rows = []
    for run in runs:
        last = max((curve[-1][0] for curve in (run.loss, run.lr, run.score) if curve), default=0)
        best = max(run.score, key=lambda point: point[1], default=None)
        shown = [f"{100 * best[1]:.2f} at {best[0]}" if best else "-", f"{100 * run.score[-1][1]:.2f}" if best else "-"]
        loss = f"{run.loss[-1][1]:.4f}" if run.loss else "-"
        rows.append([run.name, str(run.config.get("seed", "-")), str(last), loss, *shown])
    score = {run.score_name for run in runs}
    name = "mIoU" if score == {"miou"} else ", ".join(sorted(score))
    return _table(["run", "seed", "iterations", "last loss", f"best {name} %", f"last {name} %"], rows)


def _scores(runs: Sequence[RecordedRun]) -> str:
    rows = []
    for key, name in SCORES.items():
        values = [_number(run.facts.get(key)) for run in runs]
        if not all(map(math.isnan, values)):
            rows.append([name, *_cells(values)])
            if key == "miou" and any("miou_interval" in run.facts for run in runs):
                rows.append(["its 95 % interval", *(_interval(run.facts.get("miou_interval")) for run in runs)])
    rows.append(["images", *(str(run.facts.get("images", "-")) for run in runs)])
    return _table(["per cent", *(run.name for run in runs)], rows)


def _classes(runs: Sequence[RecordedRun]) -> str:
    """The table of the classes' IoU: rows are the classes of all runs, in the order in which they come up."""
    iou_of = []
    for run in runs:
        names, values = (run.facts.get(key) for key in ("classes", "iou"))
        fits = isinstance(names, list) and isinstance(values, list) and len(names) == len(values)
        iou_of.append({str(name): _number(value) for name, value in zip(names, values, strict=True)} if fits else {})
    rows = []
    for name in dict.fromkeys(name for ious in iou_of for name in ious):
        rows.append([name, *_cells([ious.get(name, math.nan) for ious in iou_of])])
    return rows and _table(["class", *(run.name for run in runs)], rows)


def _cells(values: Sequence[float]) -> list[tuple[str, bool]]:
    """Fractions in per cent, and which is the best, where they differ."""
    shown = ["-" if math.isnan(value) else f"{100 * value:.2f}" for value in values]
    known = {value for value in values if not math.isnan(value)}
    return [(text, len(known) > 1 and value == max(known)) for text, value in zip(shown, values, strict=True)]


def _interval(value: Any) -> str:
    if not isinstance(value, list) or len(value) != 2 or any(math.isnan(_number(end)) for end in value):
        return "-"
    return f"{100 * value[0]:.2f} to {100 * value[1]:.2f}"


def _number(value: Any) -> float:
    return float(value) if type(value) in (int, float) else math.nan


def _table(head: Sequence[str], rows: Sequence[Sequence[str | tuple[str, bool]]]) -> str:
    """A table; cells are words, or words and whether they are the best."""
    lines = ["<tr>" + "".join(f"<th>{_text(word)}</th>" for word in head) + "</tr>"]
    for row in rows:
        cells = [cell if isinstance(cell, tuple) else (cell, False) for cell in row]
        marks = [(_text(word), ' class="best"' if is_best else "") for word, is_best in cells]
        lines.append("<tr>" + "".join(f"<td{mark}>{word}</td>" for word, mark in marks) + "</tr>")
    return (
        f'<div class="wide"><table><thead>{lines[0]}</thead><tbody>' + "\n".join(lines[1:]) + "</tbody></table></div>"
    )


def _pictures(folder: Path) -> list[str]:
    """The pictures that ``val`` left in its ``folder``, made smaller; damaged ones are passed over."""
    found = []
    for place, most in FOLDERS.items():
        files = sorted((folder / place).glob("*.jpg"))
        # The worst images come after the best by name, and are what one looks for first.
        files.sort(key=lambda path: not path.name.startswith("worst"))
        for path in files[:most]:
            try:
                picture = read_image(path)
            except UserError:
                continue
            found.append(f"<figure>{_image(picture)}<figcaption>{_text(f'{place}/{path.name}')}</figcaption></figure>")
    return found


def _image(picture: np.ndarray) -> str:
    """A BGR picture as an ``<img>`` that holds its JPEG."""
    height, width = picture.shape[:2]
    if width > WIDEST:
        size = (WIDEST, max(1, round(height * WIDEST / width)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}">'


def _text(value: object) -> str:
    return html.escape(printable(value))
