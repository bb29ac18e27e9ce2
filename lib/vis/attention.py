"""Sheets of attention maps: the image with the query marked, each term over it with its scale; tables as pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np

from lib.vis.overlay import WHITE
from lib.vis.text import fitted, put_text

GAP, BAR, LINE = 8, 16, 20
"""Pixels: between panels, of a colour bar's height, and of a line of words."""
SEQUENTIAL, DIVERGING = "viridis", "PuOr"
"""matplotlib's: both can be read by the colour-blind; the latter where weights may be negative, white at 0."""
SHARE = 0.7
"""Of the map's colours in what is shown; the rest is the image in grey."""


@dataclass(frozen=True)
class Map:
    """One term of one query, ready to be drawn.

    Attributes:
        name: of the term.
        weights: float32 [H, W], at the image's size.
        low, high: the scale's ends; weights beyond ``high`` are drawn as it.
        even: the weight that each position of a uniform map would have.
        notes: lines below, besides the scale.
    """

    name: str
    weights: np.ndarray
    low: float
    high: float
    even: float
    notes: tuple[str, ...] = ()

    @property
    def signed(self) -> bool:
        return self.low < 0


def scale_of(weights: np.ndarray, clip: float | None) -> tuple[float, float]:
    """The ends of a map's scale: its lowest and highest weight, the latter at most the ``clip``-th percentile.

    Where weights are negative, the ends are as far from 0, so that the middle of the colours is 0.
    """
    if weights.min() < 0:
        far = np.abs(weights)
        high = float(far.max() if clip is None else np.percentile(far, clip))
        return -high, high
    return float(weights.min()), float(weights.max() if clip is None else np.percentile(weights, clip))


def query_sheet(
    picture: np.ndarray, maps: Sequence[Map], query: tuple[int, int], title: str, region: np.ndarray | None = None
) -> np.ndarray:
    """One query: the picture and all maps side by side at the picture's size, a line above, scales below.

    Args:
        picture: RGB uint8 [H, W, 3].
        maps: of the query, at this size.
        query: (x, y) in pixels.
        region: bool [H, W], where the label has the query's class; outlined.

    Returns:
        RGB uint8.
    """
    panels = [_framed(_marked(picture, query, region), ["image, the query marked"])]
    for one in maps:
        shown = _marked(coloured(one, picture), query, region)
        panels.append(_framed(shown, [one.name, _scale_words(one), *one.notes], _bar(one, picture.shape[1])))
    height = max(len(panel) for panel in panels)
    panels = [
        cv2.copyMakeBorder(panel, 0, height - len(panel), 0, 0, cv2.BORDER_CONSTANT, value=(WHITE,) * 3)
        for panel in panels
    ]
    space = np.full((height, GAP, 3), WHITE, np.uint8)
    row = np.hstack([part for panel in panels for part in (panel, space)][:-1])
    head = np.full((LINE + GAP // 2, row.shape[1], 3), WHITE, np.uint8)
    put_text(head, fitted(title, row.shape[1] - GAP), (GAP // 2, 2))
    return np.vstack([head, row])


def stacked(sheets: Sequence[np.ndarray]) -> np.ndarray:
    """Sheets of one width below each other."""
    space = np.full((GAP, sheets[0].shape[1], 3), WHITE, np.uint8)
    return np.vstack([part for sheet in sheets for part in (sheet, space)][:-1])


def coloured(one: Map, picture: np.ndarray) -> np.ndarray:
    """A map's colours over the picture in grey."""
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    span = max(one.high - one.low, 1e-30)
    levels = np.clip((one.weights - one.low) * (255 / span), 0, 255).astype(np.uint8)
    colours = cv2.LUT(cv2.merge([levels] * 3), _colours(one.signed)[None])
    return cv2.addWeighted(colours, SHARE, grey, 1 - SHARE, 0)


@cache
def _colours(signed: bool) -> np.ndarray:
    """uint8 [256, 3], RGB."""
    from matplotlib import colormaps

    return (colormaps[DIVERGING if signed else SEQUENTIAL](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def _bar(one: Map, width: int) -> np.ndarray:
    """The scale's colours as they look over a middle grey: uint8 [BAR, width, 3]."""
    colours = _colours(one.signed)[np.linspace(0, 255, width).round().astype(int)].astype(float)
    return np.repeat((SHARE * colours + (1 - SHARE) * 128).round().astype(np.uint8)[None], BAR, axis=0)


def _scale_words(one: Map) -> str:
    ends = f"scale {one.low:.3g} to {one.high:.3g}"
    if not one.signed:
        ends += f"  ({one.low / one.even:.2g} to {one.high / one.even:.2g} x uniform)"
    return ends


def _framed(panel: np.ndarray, lines: Sequence[str], bar: np.ndarray | None = None) -> np.ndarray:
    """A panel with its name above; below it the bar and the further lines."""
    width = panel.shape[1]
    head, *below = [line for line in lines if line]
    parts = [_words([head], width), panel]
    if bar is not None:
        parts += [np.full((4, width, 3), WHITE, np.uint8), bar, _words(below, width)]
    return np.vstack(parts)


def _words(lines: Sequence[str], width: int) -> np.ndarray:
    strip = np.full((LINE * len(lines), width, 3), WHITE, np.uint8)
    for index, line in enumerate(lines):
        put_text(strip, fitted(line, width), (0, LINE * index + 2))
    return strip


def _marked(picture: np.ndarray, query: tuple[int, int], region: np.ndarray | None) -> np.ndarray:
    """A copy with a cross in a ring at the query, and the region's outline, black and white so that both are seen."""
    shown, unit = picture.copy(), max(1, round(max(picture.shape[:2]) / 500))
    if region is not None:
        outlines, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        for tone, thick in (((0, 0, 0), 3 * unit), ((WHITE,) * 3, unit)):
            cv2.drawContours(shown, outlines, -1, tone, thick)
    x, y = query
    for tone, thick in (((0, 0, 0), 4 * unit), ((255, 60, 60), 2 * unit)):
        cv2.circle(shown, (x, y), 7 * unit, tone, thick, cv2.LINE_AA)
        cv2.line(shown, (x - 3 * unit, y), (x + 3 * unit, y), tone, thick // 2)
        cv2.line(shown, (x, y - 3 * unit), (x, y + 3 * unit), tone, thick // 2)
    return shown


def statistics_picture(rows: Sequence[Mapping[str, Any]], title: str) -> np.ndarray:
    """Consistency, boundary and precision of every image as dots, their means as lines; uniform and untrained beside.

    Args:
        rows: one an image, of what ``lib.attention.table`` writes: figures by map.

    Returns:
        RGB uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    maps = [name for name in rows[0] if isinstance(rows[0][name], dict)]
    figures = ("within_category", "boundary", "precision")
    canvas = FigureCanvasAgg(Figure(figsize=(4.2 * len(figures), 4.2), dpi=100, layout="constrained"))
    canvas.figure.suptitle(title, fontsize=10)
    for axes, figure in zip(canvas.figure.subplots(1, len(figures)), figures, strict=True):
        shown = [name for name in maps if any(row[name].get(figure) is not None for row in rows)]
        for place, name in enumerate(shown):
            values = [100 * row[name][figure] for row in rows if row[name].get(figure) is not None]
            spread = place + np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else [place]
            axes.scatter(spread, values, s=10, color="#0072B2" if name in ("pairwise", "unary") else "#888888")
            axes.hlines(np.mean(values), place - 0.3, place + 0.3, color="black")
            axes.annotate(f"{np.mean(values):.1f}", (place + 0.31, np.mean(values)), fontsize=8, va="center")
        axes.set_xticks(range(len(shown)), [name.replace(" ", "\n", 1) for name in shown], fontsize=8)
        axes.set_xlim(-0.5, len(shown) - 0.2)
        highest = max((100 * row[name][figure] for row in rows for name in shown if row[name].get(figure)), default=1)
        axes.set_ylim(0, 1.08 * highest)
        axes.set_title(f"{figure.replace('_', ' ')} [%]", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
