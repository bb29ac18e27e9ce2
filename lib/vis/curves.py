"""Curves of runs: loss, learning rate and score over the iterations."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lib.vis.recorded import Curve, RecordedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

COLOURS = ("#0072B2", "#D55E00", "#56B4E9", "#E69F00", "#009E73", "#000000", "#CC79A7")
"""Okabe and Ito's, which the colour-blind can tell apart (their yellow left out, too pale for a line on white), in an
order in which neighbours differ most."""
STYLES = ("-", "--", ":", "-.")
"""Of lines; with seven colours no pair comes again before 28 runs."""
MOST_POINTS = 300
"""Of a curve; longer ones are drawn as means of consecutive points."""
LONGEST_NAME = 70
"""Characters of a name in the legend; of longer ones the beginning is left out."""
SCORES = {"miou": "mIoU [%]"}


@dataclass(frozen=True)
class Band:
    """The runs of one recipe, which differ in their seeds; or one run.

    Attributes:
        iterations: int [n].
        mean, low, high: float [n], over the runs; all three the same of one run.
    """

    iterations: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def grouped(runs: Sequence[RecordedRun]) -> list[list[RecordedRun]]:
    """The runs, those of one recipe together, in the order in which they are given."""
    groups: dict[str, list[RecordedRun]] = {}
    for run in runs:
        groups.setdefault(run.recipe, []).append(run)
    return list(groups.values())


def group_name(group: Sequence[RecordedRun]) -> str:
    """A run's name; of several seeds the first one's and the number of the others."""
    name = group[0].name
    name = name if len(name) <= LONGEST_NAME else f"...{name[3 - LONGEST_NAME :]}"
    if len(group) == 1:
        return name
    return f"{name} and {len(group) - 1} more seed{'s' if len(group) > 2 else ''}: mean, lowest to highest"


def band(curves: Sequence[Curve], most: int = MOST_POINTS) -> Band:
    """Mean, lowest and highest of curves at the iterations that all have; long ones in blocks of consecutive points."""
    value_at = [dict(curve) for curve in curves]
    common = sorted(set.intersection(*map(set, value_at)))
    iterations, values = np.array(common, float), np.array([[at[i] for i in common] for at in value_at])
    if len(common) > most:
        blocks = np.array_split(np.arange(len(common)), most)
        iterations = np.array([iterations[block].mean() for block in blocks])
        values = np.array([[row[block].mean() for block in blocks] for row in values])
    return Band(iterations, values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def curves_figure(runs: Sequence[RecordedRun]) -> "Figure":
    """Draw loss, learning rate and score of ``runs`` below one another; seeds of one recipe as mean and band."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    groups = grouped(runs)
    names = {run.score_name for run in runs}
    score = SCORES.get(*names, next(iter(names))) if len(names) == 1 else "score"
    panels = [("loss", "loss"), ("learning rate", "lr"), (score, "score")]
    legend_height = 0.21 * len(groups) + 0.15
    height = 3 * 2.4 + legend_height + 0.5
    figure = Figure(figsize=(8.5, height), dpi=110)
    axes = figure.subplots(3, 1, sharex=True)
    top = 1 - (legend_height + 0.1) / height
    figure.subplots_adjust(left=0.1, right=0.98, top=top, bottom=0.5 / height, hspace=0.12)
    handles = {}
    for axis, (label, which) in zip(axes, panels, strict=True):
        for place, group in enumerate(groups):
            line = _draw(axis, place, group, which, percent=which == "score" and score.endswith("[%]"))
            handles |= {place: line} if line else {}
        axis.set_ylabel(label, parse_math=False)
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        if not axis.lines:
            words = "not validated while training" if which == "score" else "not recorded"
            axis.text(0.5, 0.5, words, ha="center", transform=axis.transAxes, color="#666666")
    axes[-1].set_xlabel("iteration")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    lines = [handles[place] for place in sorted(handles)]
    where = {"loc": "upper left", "bbox_to_anchor": (0.08, 1)}
    # matplotlib leaves out of legends what begins with an underscore.
    names = [f" {group_name(groups[place])}" for place in sorted(handles)]
    legend = figure.legend(lines, names, frameon=False, handlelength=3.5, **where)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _draw(axis: "Axes", place: int, group: Sequence[RecordedRun], which: str, percent: bool) -> "Line2D | None":
    """Draw one curve of a group; returns its line, None where it has none."""
    curves = [getattr(run, which) for run in group if getattr(run, which)]
    if not curves:
        return None
    drawn = band(curves)
    if not len(drawn.iterations):
        # Seeds with no iteration in common: nothing can be averaged, the first one stands for them.
        drawn = band(curves[:1])
    factor = 100 if percent else 1
    colour, style = COLOURS[place % len(COLOURS)], STYLES[place % len(STYLES)]
    marker = "o" if which == "score" or len(drawn.iterations) == 1 else None
    look = {"color": colour, "linestyle": style, "marker": marker, "markersize": 4}
    (line,) = axis.plot(drawn.iterations, factor * drawn.mean, **look)
    if len(curves) > 1:
        low, high = factor * drawn.low, factor * drawn.high
        axis.fill_between(drawn.iterations, low, high, color=colour, alpha=0.2, linewidth=0)
    return line


def as_file(figure: "Figure", kind: str) -> bytes:
    """The figure as ``png`` or ``svg``, the same bytes for the same figure."""
    from matplotlib import rc_context

    target = io.BytesIO()
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "curves"}):
        warnings.simplefilter("ignore", UserWarning)  # letters that the font has not
        figure.savefig(target, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return target.getvalue()
