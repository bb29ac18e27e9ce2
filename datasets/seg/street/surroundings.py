"""Sky, skyline and the ground in its strips: what a scene is drawn upon."""

from itertools import pairwise

import cv2
import numpy as np

from datasets.seg.street.canvas import ID, NEAREST, Canvas, Colour, grid, shade
from datasets.seg.street.scenery import LEAVES

FAR = 400.0
SLICES = np.geomspace(NEAREST, FAR, 14)
"""Metres between which the ground has one tint."""

GROUND = {"road": (92, 90, 90), "sidewalk": (150, 152, 158), "parking": (112, 110, 112), "terrain": (66, 128, 116)}
PAINT = (222, 226, 228)


def sky(canvas: Canvas, rng: np.random.Generator, zenith: Colour, clouds: float) -> None:
    """A gradient from the zenith to the haze at the horizon, under ``clouds`` (0..1)."""
    height = max(2, round(canvas.horizon) + 1)
    share = np.linspace(0, 1, height)[:, None, None] ** 1.3
    gradient = (1 - share) * np.asarray(zenith, float) + share * np.asarray(canvas.haze, float)
    gradient = np.broadcast_to(gradient, (height, canvas.width, 3))
    rough = sum(
        cv2.resize(rng.random((2 * n, 3 * n), np.float32), (canvas.width, height), interpolation=cv2.INTER_CUBIC) / n
        for n in (2, 5, 11)
    )
    cover = np.clip((rough - np.quantile(rough[::8, ::8], 1 - clouds)) * 4, 0, 0.85)[..., None]
    white = np.asarray(canvas.haze, float) * 0.4 + 150
    canvas.image[:height] = np.clip(gradient * (1 - cover) + white * cover, 0, 255)
    canvas.fill([[(0, 0), (canvas.width, 0), (canvas.width, height), (0, height)]], None, "sky")


def skyline(canvas: Canvas, rng: np.random.Generator) -> None:
    """Distant trees and houses along the horizon."""
    z = 160.0
    half = z * canvas.width / canvas.focal / 2
    for x in np.arange(-half, half, 9.0):
        top = rng.uniform(6, 22)
        corners = [(x, 0, z), (x + 9, 0, z), (x + 9, top, z), (x, top, z)]
        if rng.random() < 0.45:
            canvas.polygon(corners, rng.uniform(90, 170, 3), "building")
        else:
            canvas.oval(x + 4.5, 2, z, (rng.uniform(6, 9), top * 0.6), LEAVES[rng.integers(len(LEAVES))], "vegetation")


def strip(canvas: Canvas, x0: float, x1: float, colour: Colour, label: str | None, y: float = 0.0) -> None:
    """A strip of ground along the street from x0 to x1, fading into the haze."""
    for near, far in pairwise(SLICES):
        canvas.polygon([(x0, y, near), (x1, y, near), (x1, y, far), (x0, y, far)], colour, label)


def ground(canvas: Canvas, rng: np.random.Generator, road: float, strips: dict[int, list]) -> None:
    """The road, ``road`` metres to either side, and outside it each side's strips (label, x0, x1)."""
    width = 3 * FAR
    strip(canvas, -width, width, shade(GROUND["terrain"], rng.uniform(0.8, 1.15)), "terrain")
    tone = {label: shade(colour, rng.uniform(0.8, 1.2)) for label, colour in GROUND.items()}
    for side, parts in strips.items():
        for label, x0, x1 in parts:
            strip(canvas, side * x0, side * x1, tone[label], label)
            if label == "sidewalk":
                strip(canvas, side * x0, side * (x0 + 0.25), shade(tone[label], 1.2), label)
                for z in np.geomspace(3, 40, 18):
                    canvas.stroke([(side * x0, 0, z), (side * x1, 0, z)], 0.06, shade(tone[label], 0.85))
    strip(canvas, -road, road, tone["road"], "road")
    markings(canvas, rng, road, tone["road"])


def markings(canvas: Canvas, rng: np.random.Generator, road: float, asphalt: Colour) -> None:
    """Patched asphalt, edge lines, the dashed middle line and sometimes a zebra crossing; all of it is road."""
    for _ in range(3):
        x, z = rng.uniform(-road, road - 1.5), rng.uniform(4, 30)
        patch = [(x, 0, z), (x + 1.5, 0, z), (x + 1.5, 0, z * 1.3), (x, 0, z * 1.3)]
        canvas.polygon(patch, shade(asphalt, rng.uniform(0.8, 1.12)))
    for z in np.arange(3.0, 70.0, 6.0):
        canvas.polygon([(-0.08, 0, z), (0.08, 0, z), (0.08, 0, z + 3), (-0.08, 0, z + 3)], PAINT)
    if rng.random() < 0.6:
        for side in (-1, 1):
            strip(canvas, side * (road - 0.35), side * (road - 0.2), PAINT, None)
    if rng.random() < 0.4:
        z = rng.uniform(6, 14)
        floor = np.array([(-road, 0, z), (road, 0, z), (road, 0, z + 3), (-road, 0, z + 3)])
        canvas.panels(floor, grid(round(2 * road), 1, (0.5, 1)), PAINT)


def rails(canvas: Canvas, x: float) -> None:
    """Tram rails let into the road."""
    for rail in (x - 0.75, x + 0.75):
        strip(canvas, rail - 0.07, rail + 0.07, (62, 60, 60), None)
        strip(canvas, rail - 0.02, rail + 0.02, (176, 174, 172), None)


def shadows(canvas: Canvas, footprints: list[tuple], depth: float, shaded_side: tuple | None) -> None:
    """Darken the ground under things, and under the houses' shade on one side.

    Args:
        footprints: ((x0, x1), (z0, z1)) of what stands on the ground.
        depth: how dark shadows are, 0..1.
        shaded_side: (x0, x1) of the strip in the houses' shade, or None.
    """
    dark, light = 255 * (1 - depth), np.full((canvas.height, canvas.width), 255, np.uint8)
    if shaded_side is not None:
        x0, x1 = shaded_side
        corners = canvas.project([(x0, 0, NEAREST), (x1, 0, NEAREST), (x1, 0, FAR), (x0, 0, FAR)])
        cv2.fillPoly(light, [np.round(corners).astype(np.int32)], 0.5 * (255 + dark))
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    for (x0, x1), (z0, z1) in footprints:
        x = (x0 + x1) / 2 + 0.62 * (x1 - x0) * np.cos(angle) + 0.3
        z = (z0 + z1) / 2 + 0.6 * (z1 - z0) * np.sin(angle)
        corners = canvas.project(np.stack([x, 0 * x, z], axis=1))
        cv2.fillPoly(light, [np.round(corners).astype(np.int32)], dark)
    top = max(0, int(canvas.horizon))
    light = cv2.blur(light, (9, 9))[top:]
    canvas.image[top:] = cv2.multiply(canvas.image[top:], cv2.merge([light] * 3), scale=1 / 255)


def bonnet(canvas: Canvas, paint: Colour) -> None:
    """The bonnet of the camera's own car at the lower edge."""
    centre, axes = (
        (canvas.width // 2, round(canvas.height * 1.05)),
        (round(canvas.width * 0.42), round(canvas.height * 0.12)),
    )
    for shrink, light in ((1.0, 0.6), (0.94, 0.8)):
        axes = tuple(max(1, round(axis * shrink)) for axis in axes)
        cv2.ellipse(canvas.image, centre, axes, 0, 180, 360, tuple(shade(paint, light)), -1)
        if shrink == 1.0:
            cv2.ellipse(canvas.label, centre, axes, 0, 180, 360, ID["ego vehicle"], -1)
