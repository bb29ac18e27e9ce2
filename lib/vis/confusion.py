"""A confusion matrix as a picture."""

import math
from collections.abc import Sequence

import numpy as np

LARGE_CELL, SMALL_CELL = 34, 16
"""Sides of a cell in pixels: with its number in it, and where there are too many classes for that."""
MOST_NUMBERED = 40
"""Classes up to which cells hold numbers."""
COLOURS, GREY = ("white", "#6baed6", "#08306b"), "#e1e1e1"
"""Of a cell with nothing of its row to one with all of it; of the grid and of rows without labels."""
LEAST_MARGIN, PAD = 90, 6


def confusion_picture(matrix: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Draw a confusion matrix, each row as shares of its sum.

    Rows are the labels' classes, columns the predicted ones. A cell is the darker the larger its share, with the square
    root of it, so that rare confusions show; up to 40 classes it also holds the share in percent. The row of a class
    that no label has is grey.

    Args:
        matrix: integer [K, K], pixels of label class (row) and predicted class (column).
        names: of the K classes.

    Returns:
        RGB uint8 [H, W, 3].
    """
    # Here, because training imports this file and does not draw
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    total = matrix.sum(axis=1, keepdims=True)
    share = np.where(total > 0, matrix / np.maximum(total, 1), np.nan)
    has_numbers = len(names) <= MOST_NUMBERED
    cell = LARGE_CELL if has_numbers else SMALL_CELL
    # At 72 dpi a point, the unit of fonts and lines, is a pixel
    canvas = FigureCanvasAgg(Figure(dpi=72))
    axes = canvas.figure.add_axes((0, 0, 1, 1))
    colours = LinearSegmentedColormap.from_list("shares", COLOURS).with_extremes(bad=GREY)
    axes.imshow(np.sqrt(share), cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0, pad=PAD, labeltop=True, labelbottom=False)
    axes.set_xticks(range(len(names)), names, fontsize=11, parse_math=False, rotation=90)
    axes.set_yticks(range(len(names)), names, fontsize=11, parse_math=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(np.arange(len(names)) - 0.5, minor=True)
    axes.grid(which="minor", color=GREY, linewidth=1)
    for row, column in np.argwhere(share >= 0.005) if has_numbers else ():
        colour = "white" if share[row, column] > 0.4 else "black"
        number = f"{100 * share[row, column]:.0f}"
        axes.text(column, row, number, color=colour, fontsize=11, ha="center", va="center_baseline")
    # The names' margin, the same on both sides, and the cells fill the picture
    widest = max(label.get_window_extent().width for label in axes.get_yticklabels())
    margin, cells = max(LEAST_MARGIN, math.ceil(widest) + 2 * PAD), cell * len(names)
    side = margin + cells
    canvas.figure.set_size_inches(side / 72, side / 72)
    axes.set_position((margin / side, 0, cells / side, cells / side))
    corner = (-PAD, cells + PAD)
    axes.annotate("predicted →\nlabel ↓", corner, xycoords="axes pixels", ha="right", fontsize=11, style="italic")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
