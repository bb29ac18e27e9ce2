"""Cars, trucks, buses and trams: boxes with windows, wheels and lights.

Every function draws at ``x`` (middle) and ``z`` (near end). ``view`` is "away" (its back to the camera), "oncoming"
or "crossing" (its flank to the camera).
"""

import numpy as np

from datasets.seg.street.canvas import Canvas, Colour, box, grid, shade

SIZES = {"car": (1.85, 4.2), "truck": (2.5, 7.5), "bus": (2.55, 10.5), "train": (2.7, 24.0)}
"""Width and length in metres."""

GLASS = (70, 58, 48)
TYRE = (30, 28, 28)
RED_LIGHT, WHITE_LIGHT = (40, 30, 215), (205, 240, 250)


def footprint(kind: str, x: float, z: float, view: str) -> tuple[tuple, tuple]:
    """What a vehicle covers of the ground: ((x0, x1), (z0, z1))."""
    width, length = SIZES[kind]
    if view == "crossing":
        width, length = length, width
    return (x - width / 2, x + width / 2), (z, z + length)


def flanks(faces: dict[str, np.ndarray], view: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The faces along a vehicle and the faces at its ends."""
    along, ends = [faces["left"], faces["right"]], [faces["near"]]
    return (ends, along) if view == "crossing" else (along, ends)


def chassis(canvas: Canvas, span_x: tuple, span_z: tuple, bottom: float, top: float, view: str, label: str) -> None:
    """The dark underside, and before it the near tyres as seen from an end; the body hides their upper part."""
    canvas.solid(box(span_x, (bottom, top), span_z), (48, 45, 44), label)
    if view != "crossing":
        for left in (span_x[0] + 0.06, span_x[1] - 0.36):
            canvas.solid(box((left, left + 0.3), (0, top), (span_z[0] + 0.2, span_z[0] + 0.6)), TYRE, label)


def wheels(canvas: Canvas, span_x: tuple, span_z: tuple, radius: float, view: str, label: str, where: tuple) -> None:
    """The wheels of the flank that faces the camera, at shares ``where`` of its length."""
    if view == "crossing":
        for share in where:
            canvas.wheel(span_x[0] + share * (span_x[1] - span_x[0]), span_z[0], radius, True, label)
        return
    side = span_x[0] if span_x[0] > 0 else span_x[1]
    if span_x[0] > 0 or span_x[1] < 0:
        for share in where:
            canvas.wheel(side, span_z[0] + share * (span_z[1] - span_z[0]), radius, False, label)


def lamps(canvas: Canvas, end: np.ndarray, view: str, bottom: float, top: float) -> None:
    """Head or tail lights in both corners of an end face, and the number plate."""
    colour = WHITE_LIGHT if view == "oncoming" else RED_LIGHT
    canvas.panels(end, [(0.03, bottom, 0.2, top), (0.8, bottom, 0.97, top)], colour)
    canvas.panels(end, (0.36, bottom * 0.4, 0.64, bottom * 0.4 + 0.12), (225, 228, 228))


def car(canvas: Canvas, rng: np.random.Generator, x: float, z: float, view: str, paint: Colour) -> None:
    """A saloon, an estate or a hatchback."""
    span_x, span_z = footprint("car", x, z, view)
    height, start = rng.uniform(1.4, 1.65), rng.uniform(0.05, 0.25)
    chassis(canvas, span_x, span_z, 0.16, 0.5, view, "car")
    body = box(span_x, (0.3, 0.95), span_z, inset=(0.04, 0.04))
    canvas.solid(body, paint, "car")
    if view == "crossing":
        cabin_x, cabin_z = (span_x[0] + start * 4.2, span_x[1] - 1.15), span_z
        inset = (0.4, 0.16)
    else:
        front, back = (1.15, start * 4.2) if view == "oncoming" else (start * 4.2, 1.15)
        cabin_x, cabin_z = span_x, (span_z[0] + front, span_z[1] - back)
        inset = (0.16, 0.4)
    cabin = box(cabin_x, (0.93, height), cabin_z, inset=inset)
    canvas.solid(cabin, paint, "car")
    along, ends = flanks(cabin, view)
    for face in along:
        canvas.panels(face, [(0.06, 0.12, 0.49, 0.84), (0.53, 0.12, 0.94, 0.84)], shade(GLASS, 0.8))
    for face in ends:
        canvas.panels(face, (0.07, 0.1, 0.93, 0.86), GLASS)
        canvas.panels(face, (0.1, 0.5, 0.5, 0.84), shade(GLASS, 1.5))
    along, ends = flanks(body, view)
    for face in along:
        canvas.panels(face, [(0.5, 0.1, 0.51, 0.95), (0.04, 0.45, 0.96, 0.5)], shade(paint, 0.6))
    if view != "crossing":
        lamps(canvas, ends[0], view, bottom=0.5, top=0.82)
        canvas.panels(ends[0], (0.02, 0, 0.98, 0.18), (55, 52, 52))
    wheels(canvas, span_x, span_z, 0.33, view, "car", where=(0.2, 0.8))


def truck(canvas: Canvas, rng: np.random.Generator, x: float, z: float, view: str, paint: Colour) -> None:
    """A cab and, behind a gap, a tall cargo box."""
    span_x, span_z = footprint("truck", x, z, view)
    height = rng.uniform(3.1, 3.7)
    cargo_paint = shade((215, 215, 218), rng.uniform(0.6, 1.1)) if rng.random() < 0.5 else shade(paint[::-1], 0.9)
    chassis(canvas, span_x, span_z, 0.35, 1.0, view, "truck")
    if view == "crossing":
        cargo = box((span_x[0], span_x[1] - 2.1), (0.9, height), span_z)
        cab = box((span_x[1] - 1.8, span_x[1]), (0.5, 2.6), span_z, inset=(0.15, 0.05))
    elif view == "away":
        cargo = box(span_x, (0.9, height), (span_z[0], span_z[1] - 2.1))
        cab = box(span_x, (0.5, 2.6), (span_z[1] - 1.8, span_z[1]))
    else:
        cargo = box(span_x, (0.9, height), (span_z[0] + 2.1, span_z[1]))
        cab = box(span_x, (0.5, 2.6), (span_z[0], span_z[0] + 1.8), inset=(0.05, 0.15))
    for part, colour in (
        ((cab, paint), (cargo, cargo_paint)) if view == "away" else ((cargo, cargo_paint), (cab, paint))
    ):
        canvas.solid(part, colour, "truck")
    along, ends = flanks(cargo, view)
    for face in along:
        canvas.panels(face, grid(9, 1, (0.06, 0.94)), shade(cargo_paint, 0.8))
        canvas.panels(face, (0.25, 0.4, 0.75, 0.65), shade(paint, 0.9))
    along, fronts = flanks(cab, view)
    for face in along:
        canvas.panels(face, (0.25, 0.5, 0.85, 0.88), GLASS)
    if view == "away":
        canvas.panels(ends[0], grid(2, 1, (0.9, 0.9)), shade(cargo_paint, 0.86))
        canvas.panels(ends[0], [(0.4, 0.05, 0.42, 0.95), (0.58, 0.05, 0.6, 0.95)], (120, 120, 122))
        lamps(canvas, box(span_x, (0.35, 1.0), span_z)["near"], view, bottom=0.4, top=0.8)
    elif view == "oncoming":
        canvas.panels(fronts[0], (0.06, 0.5, 0.94, 0.9), GLASS)
        canvas.panels(fronts[0], grid(1, 4, (0.5, 0.4), (0.1, 0.12, 0.9, 0.46)), shade(paint, 0.5))
        lamps(canvas, fronts[0], view, bottom=0.08, top=0.2)
    wheels(canvas, span_x, span_z, 0.5, view, "truck", where=(0.15, 0.3, 0.86))


def bus(canvas: Canvas, rng: np.random.Generator, x: float, z: float, view: str, paint: Colour) -> None:
    """A city bus with a band of windows, doors and a lit destination."""
    span_x, span_z = footprint("bus", x, z, view)
    chassis(canvas, span_x, span_z, 0.3, 0.6, view, "bus")
    body = box(span_x, (0.35, rng.uniform(2.9, 3.3)), span_z, inset=(0.06, 0.06))
    canvas.solid(body, paint, "bus")
    along, ends = flanks(body, view)
    for face in along:
        canvas.panels(face, grid(8, 1, (0.88, 0.4), (0.02, 0.2, 0.98, 1.1)), GLASS)
        canvas.panels(face, [(0.1, 0.04, 0.18, 0.8), (0.5, 0.04, 0.6, 0.8)], shade(GLASS, 1.4))
        canvas.panels(face, (0, 0, 1, 0.1), shade(paint, 0.5))
    if view != "crossing":
        glass_bottom = 0.34 if view == "oncoming" else 0.5
        canvas.panels(ends[0], (0.06, glass_bottom, 0.94, 0.82), GLASS)
        canvas.panels(ends[0], (0.12, 0.6, 0.45, 0.8), shade(GLASS, 1.5))
        canvas.panels(ends[0], (0.2, 0.86, 0.8, 0.97), (30, 30, 34))
        canvas.panels(ends[0], grid(6, 1, (0.6, 0.4), (0.25, 0.86, 0.75, 0.97)), (40, 190, 250))
        lamps(canvas, ends[0], view, bottom=0.12, top=0.22)
    wheels(canvas, span_x, span_z, 0.5, view, "bus", where=(0.22, 0.78))


def tram(canvas: Canvas, rng: np.random.Generator, x: float, z: float, view: str, paint: Colour) -> None:
    """A tram: pale above and painted below, skirts down to the rails, a pantograph on the roof."""
    span_x, span_z = footprint("train", x, z, view)
    canvas.solid(box(span_x, (0.08, 0.4), span_z), (52, 50, 50), "train")
    body = box(span_x, (0.35, 3.4), span_z, inset=(0.2, 0.25))
    pale = shade((222, 228, 232), rng.uniform(0.8, 1.05))
    canvas.solid(body, pale, "train")
    along, ends = flanks(body, view)
    for face in along:
        canvas.panels(face, (0, 0, 1, 0.36), paint)
        canvas.panels(face, grid(14, 1, (0.9, 0.42), (0.01, 0.18, 0.99, 1.1)), GLASS)
        canvas.panels(face, grid(3, 1, (0.16, 0.72), (0, 0.04, 1, 0.9)), shade(pale, 0.7))
    if view != "crossing":
        canvas.panels(ends[0], (0, 0, 1, 0.36), paint)
        canvas.panels(ends[0], (0.08, 0.42, 0.92, 0.84), GLASS)
        canvas.panels(ends[0], (0.14, 0.62, 0.46, 0.82), shade(GLASS, 1.5))
        canvas.panels(ends[0], (0.3, 0.88, 0.7, 0.97), (40, 190, 250))
        canvas.panels(ends[0], [(0.1, 0.2, 0.24, 0.3), (0.76, 0.2, 0.9, 0.3)], WHITE_LIGHT)
        canvas.panels(ends[0], (0.42, 0.14, 0.58, 0.26), (235, 235, 235))
    middle, roof = sum(span_x) / 2, span_z[0] + 3
    arms = [(middle, 3.4, roof), (middle - 0.5, 3.9, roof), (middle, 4.4, roof)]
    canvas.stroke(arms, 0.07, (60, 60, 62), "train")
    canvas.stroke([(middle - 0.7, 4.4, roof), (middle + 0.7, 4.4, roof)], 0.08, (60, 60, 62), "train")


VEHICLES = {"car": car, "truck": truck, "bus": bus, "train": tram}
