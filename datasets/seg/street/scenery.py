"""What stands still along a street: buildings, walls, fences, trees, poles with lights and signs, and bins.

``side`` is -1 left of the road and 1 right of it; ``x`` is a distance from the middle of the road towards that side.
"""

import numpy as np

from datasets.seg.street.canvas import Canvas, Colour, box, grid, shade

ROOFS = ((62, 76, 150), (70, 74, 84), (58, 82, 118), (96, 92, 88))
LEAVES = ((52, 118, 74), (46, 98, 62), (62, 140, 112), (58, 122, 138))
METAL = (118, 116, 114)
STONE = (168, 172, 176)
LIT_WINDOW = (150, 215, 250)


def frontage(side: int, x: float, depth: float) -> tuple[float, float]:
    """The x range of something ``depth`` metres deep whose front stands ``x`` metres beside the middle."""
    return (x, x + depth) if side > 0 else (-x - depth, -x)


def street_face(faces: dict[str, np.ndarray], side: int) -> np.ndarray:
    """The face of a ``box`` that looks at the road."""
    return faces["left" if side > 0 else "right"]


def building(
    canvas: Canvas, rng: np.random.Generator, side: int, x: float, z: tuple, paint: Colour, lit: float
) -> None:
    """A house of one to five floors with windows, a share ``lit`` of them with light, and a roof, shop or balconies."""
    floors = int(rng.integers(1, 6))
    shop = rng.random() < 0.45
    height = 2.9 * floors + 3.6
    span = frontage(side, x, depth=rng.uniform(7, 11))
    faces = box(span, (0, height), z)
    if rng.random() < 0.6:
        roof = ROOFS[rng.integers(len(ROOFS))]
        chimney_z = rng.uniform(z[0] + 1, z[1] - 1)
        chimney = box(frontage(side, x + 3, 0.9), (height, height + 3.2), (chimney_z, chimney_z + 0.9))
        canvas.solid(chimney, ROOFS[0], "building")
        canvas.solid(box(span, (height, height + 2.6), z, inset=(2.6, 0.6)), roof, "building")
    canvas.solid(faces, paint, "building")
    ground_floor = 3.4 / height
    for face, length in ((street_face(faces, side), z[1] - z[0]), (faces["near"], span[1] - span[0])):
        windows = grid(max(2, round(length / 2.4)), floors, (0.5, 0.6), (0.02, ground_floor, 0.98, 0.98))
        canvas.panels(face, windows + np.array([-0.006, -0.012, 0.006, 0.012]), shade(paint, 1.35))
        canvas.panels(face, windows, (92, 80, 70))
        glowing = rng.random(len(windows)) < lit
        if glowing.any():
            canvas.panels(face, windows[glowing], LIT_WINDOW)
        canvas.panels(face, (0, 0.975, 1, 1), shade(paint, 0.7))
        if shop:
            canvas.panels(face, grid(max(2, round(length / 4)), 1, (0.8, 0.72), (0, 0, 1, ground_floor)), (80, 72, 66))
            awning = (0.02, ground_floor * 0.78, 0.98, ground_floor * 1.02)
            canvas.panels(face, awning, shade(paint[::-1], 1.1))
            canvas.panels(face, grid(max(4, round(length)), 1, (0.5, 1), awning), (225, 228, 230))
        else:
            canvas.panels(face, (0.42, 0, 0.42 + 1.2 / length, ground_floor * 0.7), shade(paint, 0.45))
            openings = grid(max(2, round(length / 2.8)), 1, (0.4, 0.42), (0.05, 0, 0.95, ground_floor * 1.1))
            canvas.panels(face, openings[::2], (92, 80, 70))


def wall(canvas: Canvas, rng: np.random.Generator, side: int, x: float, z: tuple, paint: Colour) -> None:
    """A free-standing wall of brick courses or concrete slabs, now and then with graffiti, under a coping."""
    height = rng.uniform(1.8, 3.2)
    faces = box(frontage(side, x, 0.5), (0, height), z)
    canvas.solid(faces, paint, "wall")
    face, length = street_face(faces, side), z[1] - z[0]
    if rng.random() < 0.5:
        courses = round(height / 0.3)
        canvas.panels(face, grid(1, courses, (1, 0.14)), shade(paint, 0.72))
        bricks = grid(round(length / 0.7), courses, (0.07, 1))
        canvas.panels(face, bricks[rng.random(len(bricks)) < 0.5], shade(paint, 0.72))
    else:
        canvas.panels(face, grid(max(2, round(length / 2.5)), 1, (0.03, 1)), shade(paint, 0.65))
    if rng.random() < 0.3:
        for _ in range(4):
            u, v = rng.uniform(0.1, 0.8), rng.uniform(0.15, 0.4)
            canvas.panels(face, (u, v, u + 0.12, v + 0.4), rng.uniform(40, 230, 3))
    canvas.solid(box(frontage(side, x - 0.08, 0.66), (height, height + 0.16), z), shade(STONE, 1.05), "wall")


def fence(canvas: Canvas, rng: np.random.Generator, side: int, x: float, z: tuple, paint: Colour) -> None:
    """Bars, pickets or thin wires between posts: what is behind shows through, the label covers it all."""
    faces = box(frontage(side, x, 0.1), (0.05, rng.uniform(1.3, 2.1)), z)
    face, length = street_face(faces, side), z[1] - z[0]
    spacing, share = ((0.32, 0.3), (0.3, 0.65), (0.22, 0.18))[rng.integers(3)]
    canvas.panels(face, grid(max(4, round(length / spacing)), 1, (share, 0.96)), shade(paint, 0.9))
    canvas.panels(face, [(0, 0.12, 1, 0.2), (0, 0.82, 1, 0.9)], shade(paint, 0.75))
    canvas.panels(face, grid(max(2, round(length / 2.5)), 1, (0.06, 1)), shade(paint, 0.55))
    canvas.fill(canvas.project(face)[None], None, "fence")


def hedge(canvas: Canvas, rng: np.random.Generator, side: int, x: float, z: tuple) -> None:
    """A clipped hedge with a bumpy top."""
    height, green = rng.uniform(0.8, 1.5), LEAVES[rng.integers(len(LEAVES))]
    canvas.solid(box(frontage(side, x, 0.8), (0, height), z), green, "vegetation")
    for at in np.arange(z[1], z[0], -0.7):
        canvas.oval(
            side * (x + 0.3),
            height,
            at,
            (0.5, rng.uniform(0.15, 0.35)),
            shade(green, rng.uniform(0.9, 1.2)),
            "vegetation",
        )


def tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A round tree, or a conifer of stacked skirts, lighter towards the top."""
    green = shade(LEAVES[rng.integers(len(LEAVES))], rng.uniform(0.75, 1.15))
    trunk, size = rng.uniform(1.8, 2.8), rng.uniform(1.2, 2.1)
    canvas.stroke([(x, 0, z), (x, trunk + size, z)], 0.3, (48, 66, 88), "vegetation")
    if rng.random() < 0.25:
        for step in range(4):
            bottom, half = trunk * 0.5 + step * size * 0.75, size * (1.0 - 0.2 * step)
            skirt = [(x - half, bottom, z), (x + half, bottom, z), (x, bottom + size * 1.3, z)]
            canvas.polygon(skirt, shade(green, 0.7 + 0.12 * step), "vegetation")
        return
    for light in np.linspace(0.62, 1.25, 15 if z < 30 else 6):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.75) * size
        lift = trunk + size * 0.9 + (light - 0.9) * size
        radius = rng.uniform(0.35, 0.6) * size
        centre = (x + reach * np.cos(angle), lift + 0.5 * reach * np.sin(angle), z)
        canvas.oval(*centre, (radius, radius * 0.85), shade(green, light), "vegetation")


def lamp_post(canvas: Canvas, side: int, x: float, z: float) -> None:
    """A street lamp that leans over the road."""
    foot = side * x
    canvas.stroke(
        [(foot, 0, z), (foot, 5.6, z), (foot - side * 0.4, 6.1, z), (foot - side * 1.5, 6.2, z)], 0.18, METAL, "pole"
    )
    canvas.stroke([(foot, 0, z), (foot, 0.9, z)], 0.28, shade(METAL, 0.8), "pole")
    canvas.oval(foot - side * 1.6, 6.15, z, (0.4, 0.14), (210, 235, 245), "pole")


def signal_head(canvas: Canvas, x: float, y: float, z: float, lit: int, case: Colour) -> None:
    """The three lamps of a traffic light in their case, one lit (0 red, 1 amber, 2 green)."""
    across, up = 0.28, 0.68
    for grow, colour in ((0.06, shade(case, 0.6)), (0.0, case)):
        corners = [(x + u * (across + grow), y + v * (up + grow), z) for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        canvas.polygon(corners, colour, "traffic light")
    for index, colour in enumerate(((45, 40, 235), (40, 190, 250), (110, 220, 60))):
        lamp = colour if index == lit else shade(colour, 0.22)
        canvas.oval(x, y + 0.42 * (1 - index), z, (0.17, 0.17), lamp)


def traffic_light(canvas: Canvas, rng: np.random.Generator, side: int, x: float, z: float) -> None:
    """A signal on a post, sometimes with a second one on an arm over the road."""
    foot, lit = side * x, int(rng.integers(3))
    case = (38, 36, 36) if rng.random() < 0.6 else (30, 150, 195)
    if rng.random() < 0.45:
        reach = foot - side * rng.uniform(2.2, 3.6)
        canvas.stroke([(foot, 0, z), (foot, 5.4, z), (reach, 5.4, z)], 0.17, METAL, "pole")
        signal_head(canvas, reach, 4.9, z, lit, case)
    else:
        canvas.stroke([(foot, 0, z), (foot, 3.2, z)], 0.17, METAL, "pole")
    signal_head(canvas, foot, 2.9, z, lit, case)


def traffic_sign(canvas: Canvas, rng: np.random.Generator, side: int, x: float, z: float, paint: Colour) -> None:
    """A post with a round, triangular, diamond, octagonal or square plate, or a direction board in any colour."""
    foot, y, r = side * x, 2.5, 0.48
    red, white = (45, 40, 205), (232, 235, 236)
    canvas.stroke([(foot, 0, z), (foot, y + 0.4, z)], 0.13, METAL, "pole")

    def plate(corners: int, radius: float, turn: float, colour: Colour, label: str | None = None) -> None:
        angle = np.pi / 2 + turn + 2 * np.pi * np.arange(corners) / corners
        points = np.stack([foot + radius * np.cos(angle), y + radius * np.sin(angle), np.full(corners, z)], axis=1)
        canvas.polygon(points, colour, label)

    kind = rng.integers(6)
    if kind == 5:
        for lift in (0.0, 0.55):
            left, right = foot - 0.3 - lift, foot + 1.1
            board = [
                (left, y - 0.3 + lift, z),
                (right, y - 0.3 + lift, z),
                (right, y + 0.2 + lift, z),
                (left, y + 0.2 + lift, z),
            ]
            canvas.polygon(board, paint, "traffic sign")
            canvas.stroke([(left + 0.2, y - 0.05 + lift, z), (right - 0.3, y - 0.05 + lift, z)], 0.09, white)
        return
    corners, turn, rim, inner = (
        (18, 0, red, white),
        (3, 0, red, white),
        (4, 0, white, (40, 190, 245)),
        (8, np.pi / 8, red, red),
        (4, np.pi / 4, white, (190, 90, 40)),
    )[kind]
    plate(corners, r * (1.2 if corners == 3 else 1.05), turn, rim, "traffic sign")
    plate(corners, r * (0.75 if corners == 3 else 0.8), turn, inner)
    canvas.stroke([(foot - 0.16, y, z), (foot + 0.16, y, z)], 0.12, (40, 38, 38) if kind < 3 else white)


def bin_or_bench(canvas: Canvas, rng: np.random.Generator, side: int, x: float, z: float, paint: Colour) -> None:
    """A litter bin or a bench: things that stand about without a class of their own."""
    if rng.random() < 0.5:
        canvas.solid(box(frontage(side, x, 0.55), (0, 1.0), (z, z + 0.5), inset=(-0.05, -0.05)), paint, "static")
        canvas.solid(box(frontage(side, x - 0.05, 0.65), (1.0, 1.1), (z - 0.05, z + 0.55)), shade(paint, 0.6), "static")
        return
    for y in (0.42, 0.62, 0.8):
        canvas.stroke([(side * x - 0.8, y, z), (side * x + 0.8, y, z)], 0.12, (60, 98, 140), "static")
    for leg in (-0.65, 0.65):
        canvas.stroke([(side * x + leg, 0, z), (side * x + leg, 0.8, z)], 0.1, (60, 58, 58), "static")
