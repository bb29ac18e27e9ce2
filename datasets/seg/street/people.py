"""Pedestrians, riders, and the two-wheelers under them or leaning somewhere on their own.

Everything stands at ``x``, ``z`` on the ground and looks right (``facing`` 1) or left (-1); "away" views show a back.
"""

from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from datasets.seg.street.canvas import Canvas, Colour, shade

SKIN = ((120, 150, 205), (150, 180, 232), (75, 105, 165), (50, 72, 115))
HAIR = ((35, 40, 48), (40, 70, 105), (90, 150, 190), (150, 150, 152))


def place(x: float, z: float, facing: int, points: ArrayLike) -> np.ndarray:
    """Points (forward, up) of a figure in metres to world points [n, 3]."""
    forward, up = np.asarray(points, float).T
    return np.stack([x + facing * forward, up, np.full_like(up, z)], axis=1)


def head(
    canvas: Canvas, rng: np.random.Generator, x: float, y: float, z: float, label: str, helmet: Colour | None
) -> None:
    """A head with hair or a helmet."""
    canvas.oval(x, y, z, (0.13, 0.16), SKIN[rng.integers(len(SKIN))], label)
    top = HAIR[rng.integers(len(HAIR))] if helmet is None else helmet
    canvas.oval(x, y + 0.06, z, (0.14, 0.12), top, label)


def person(canvas: Canvas, rng: np.random.Generator, x: float, z: float, top: Colour, bottom: Colour) -> None:
    """A pedestrian in mid-stride."""
    tall, stride, facing = rng.uniform(0.88, 1.08), rng.uniform(0.05, 0.28), rng.choice((-1, 1))
    at = partial(place, x, z, facing)
    for step, light in ((-stride, 0.75), (stride, 1.0)):
        leg = at([(0, 0.92 * tall), (step * 0.5 + 0.03, 0.48), (step, 0.08)])
        canvas.stroke(leg, 0.17, shade(bottom, light), "person")
        canvas.stroke(at([(step - 0.04, 0.05), (step + 0.12, 0.05)]), 0.1, (40, 38, 40), "person")
    torso = [(-0.17, 0.85), (0.17, 0.85), (0.22, 1.4), (0.12, 1.5), (-0.12, 1.5), (-0.22, 1.4)]
    canvas.polygon(at([(u, v * tall) for u, v in torso]), top, "person")
    for swing in (-stride, stride):
        arm = [(0.2 * np.sign(swing), 1.4), (0.24 * np.sign(swing) + 0.3 * swing, 1.1), (0.9 * swing, 0.85)]
        canvas.stroke(at([(u, v * tall) for u, v in arm]), 0.11, shade(top, 0.8), "person")
    if rng.random() < 0.3:
        canvas.oval(x - facing * 0.26, 1.2 * tall, z, (0.14, 0.22), shade(top[::-1], 0.8), "person")
    head(canvas, rng, x, 1.66 * tall, z, "person", None)


def bicycle(canvas: Canvas, x: float, z: float, facing: int, paint: Colour, away: bool = False) -> None:
    """A bicycle; the spokes let the street show through, the label covers the whole wheel."""
    at = partial(place, x, z, facing)
    if away:
        canvas.stroke(at([(0, 0.05), (0, 0.75)]), 0.12, (35, 32, 32), "bicycle")
        canvas.stroke(at([(0, 0.6), (0, 1.0)]), 0.1, paint, "bicycle")
        canvas.stroke(at([(-0.32, 1.05), (0.32, 1.05)]), 0.07, (60, 58, 58), "bicycle")
        canvas.oval(x, 0.78, z, (0.05, 0.05), (40, 30, 215))
        return
    for hub in (-0.55, 0.55):
        canvas.oval(x + facing * hub, 0.36, z, (0.34, 0.34), (35, 32, 32), "bicycle", width=0.07)
        spokes = np.arange(4) * np.pi / 4 + 0.3
        for u, v in zip(0.3 * np.cos(spokes), 0.3 * np.sin(spokes), strict=True):
            canvas.stroke(at([(hub - u, 0.36 - v), (hub + u, 0.36 + v)]), 0.015, (120, 120, 125))
    frame = [(-0.55, 0.36), (-0.12, 0.36), (0.4, 0.8), (-0.2, 0.82), (-0.55, 0.36)]
    canvas.stroke(at(frame), 0.07, paint, "bicycle")
    canvas.stroke(at([(-0.12, 0.36), (-0.24, 0.98)]), 0.07, paint, "bicycle")
    canvas.stroke(at([(0.55, 0.36), (0.38, 1.02), (0.5, 1.08)]), 0.07, paint, "bicycle")
    canvas.stroke(at([(-0.36, 0.98), (-0.14, 0.98)]), 0.08, (30, 30, 32), "bicycle")


def motorcycle(canvas: Canvas, x: float, z: float, facing: int, paint: Colour, away: bool = False) -> None:
    """A motorcycle: fat tyres, tank, seat and exhaust."""
    at = partial(place, x, z, facing)
    if away:
        canvas.stroke(at([(0, 0.12), (0, 0.6)]), 0.24, (28, 26, 26), "motorcycle")
        canvas.polygon(at([(-0.2, 0.5), (0.2, 0.5), (0.26, 0.95), (-0.26, 0.95)]), paint, "motorcycle")
        canvas.stroke(at([(-0.48, 1.15), (-0.2, 1.0), (0.2, 1.0), (0.48, 1.15)]), 0.1, (40, 38, 38), "motorcycle")
        canvas.stroke(at([(-0.14, 0.68), (0.14, 0.68)]), 0.12, (40, 30, 215))
        canvas.stroke(at([(0.28, 0.35), (0.28, 0.5)]), 0.14, (150, 150, 152), "motorcycle")
        return
    for hub in (-0.72, 0.72):
        canvas.oval(x + facing * hub, 0.34, z, (0.34, 0.34), (28, 26, 26), "motorcycle")
        canvas.oval(x + facing * hub, 0.34, z, (0.18, 0.18), (140, 140, 145))
    engine = [(-0.5, 0.3), (0.35, 0.25), (0.6, 0.6), (-0.4, 0.62)]
    canvas.polygon(at(engine), (70, 68, 68), "motorcycle")
    tank = [
        (-1.0, 0.85),
        (-0.3, 0.68),
        (0.3, 0.6),
        (0.72, 0.75),
        (0.66, 1.05),
        (0.45, 1.1),
        (0.15, 0.98),
        (-0.2, 0.82),
        (-0.95, 0.95),
    ]
    canvas.polygon(at(tank), paint, "motorcycle")
    canvas.stroke(at([(-0.75, 0.9), (-0.15, 0.85)]), 0.12, (30, 28, 28), "motorcycle")
    canvas.stroke(at([(0.72, 0.34), (0.5, 0.95), (0.36, 1.15)]), 0.1, (90, 90, 92), "motorcycle")
    canvas.stroke(at([(-0.9, 0.32), (-0.1, 0.3)]), 0.12, (165, 165, 168), "motorcycle")
    canvas.oval(x + facing * 0.68, 0.92, z, (0.09, 0.1), (200, 240, 250))


def rider(canvas: Canvas, rng: np.random.Generator, x: float, z: float, mount: str, away: bool, clothes: tuple) -> None:
    """A rider on a "bicycle" or "motorcycle" in ``clothes`` (top, bottom, the mount's paint)."""
    top, bottom, paint = clothes
    facing = int(rng.choice((-1, 1)))
    at = partial(place, x, z, facing)
    draw = {"bicycle": bicycle, "motorcycle": motorcycle}[mount]
    seat = {"bicycle": 1.0, "motorcycle": 0.9}[mount]
    helmet = shade(paint[::-1], 1.1) if mount == "motorcycle" or rng.random() < 0.6 else None
    draw(canvas, x, z, facing, paint, away)
    if away:
        for side in (-1, 1):
            leg = [(side * 0.12, seat), (side * 0.26, seat - 0.4), (side * 0.18, 0.25)]
            canvas.stroke(at(leg), 0.16, bottom, "rider")
            arm = [(side * 0.2, seat + 0.48), (side * 0.36, seat + 0.25), (side * 0.34, seat + 0.06)]
            canvas.stroke(at(arm), 0.12, shade(top, 0.8), "rider")
        torso = [
            (-0.18, seat - 0.08),
            (0.18, seat - 0.08),
            (0.24, seat + 0.48),
            (0.1, seat + 0.58),
            (-0.1, seat + 0.58),
            (-0.24, seat + 0.48),
        ]
        canvas.polygon(at(torso), top, "rider")
        head(canvas, rng, x, seat + 0.74, z, "rider", helmet)
        return
    leg = [(-0.22, seat), (0.18, seat - 0.22), (0.02, seat - 0.62), (0.14, seat - 0.66)]
    canvas.stroke(at(leg), 0.16, bottom, "rider")
    torso = [(-0.34, seat - 0.06), (-0.08, seat - 0.08), (0.26, seat + 0.42), (0.16, seat + 0.58), (-0.04, seat + 0.54)]
    canvas.polygon(at(torso), top, "rider")
    canvas.stroke(at([(0.12, seat + 0.46), (0.28, seat + 0.18), (0.46, seat + 0.12)]), 0.11, shade(top, 0.8), "rider")
    head(canvas, rng, x + facing * 0.2, seat + 0.72, z, "rider", helmet)
