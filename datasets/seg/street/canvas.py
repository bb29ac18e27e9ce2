"""A pinhole camera over a flat ground, and the picture and label map that it draws at the same time.

World coordinates are metres: x to the right, y up from the ground, z forward from the camera. Colours are BGR, 0..255.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike

from datasets.seg.classes import load_table

TABLE = load_table("cityscapes")
ID = {name: int(label_id) for name, label_id in zip(TABLE.names, TABLE.id_of, strict=True)}
ID |= {"ego vehicle": 1, "static": 4, "parking": 9}  # of the ignored ids those that the scenes use

SUPERSAMPLING = 2
NEAREST = 1.2
"""Metres: what is closer is drawn as if it were here, so that long surfaces may reach behind the camera."""

FACE_LIGHT = {"near": 1.0, "left": 0.8, "right": 0.85, "top": 1.15}

Colour = Sequence[float]


def shade(colour: Colour, factor: float) -> np.ndarray:
    """``colour`` made lighter (``factor`` > 1) or darker."""
    return np.minimum(np.asarray(colour, float) * factor, 255)


def mix(first: Colour, second: Colour, share: float) -> np.ndarray:
    """The colour between two that has ``share`` (0..1) of the second."""
    return (1 - share) * np.asarray(first, float) + share * np.asarray(second, float)


def box(x: tuple, y: tuple, z: tuple, inset: tuple = (0.0, 0.0)) -> dict[str, np.ndarray]:
    """Faces of a box that spans ``x``, ``y`` and ``z``, its top smaller by ``inset`` in x and z on both sides.

    Each face is [4, 3]: bottom left, bottom right, top right and top left, seen from outside.
    """
    (x0, x1), (y0, y1), (z0, z1) = x, y, z
    (u0, u1), (w0, w1) = (x0 + inset[0], x1 - inset[0]), (z0 + inset[1], z1 - inset[1])
    faces = {
        "left": [(x0, y0, z1), (x0, y0, z0), (u0, y1, w0), (u0, y1, w1)],
        "right": [(x1, y0, z0), (x1, y0, z1), (u1, y1, w1), (u1, y1, w0)],
        "top": [(u0, y1, w0), (u1, y1, w0), (u1, y1, w1), (u0, y1, w1)],
        "near": [(x0, y0, z0), (x1, y0, z0), (u1, y1, w0), (u0, y1, w0)],
    }
    return {name: np.array(corners, float) for name, corners in faces.items()}


def grid(columns: int, rows: int, fill: tuple = (0.6, 0.6), area: tuple = (0, 0, 1, 1)) -> np.ndarray:
    """Rectangles (left, bottom, right, top) on the unit square, [rows * columns, 4].

    Args:
        fill: share of each cell's width and height that its rectangle takes.
        area: the part of the square that the cells divide.
    """
    left, bottom, right, top = area
    width, height = (right - left) / columns, (top - bottom) / rows
    u = left + width * (np.arange(columns) + (1 - fill[0]) / 2)
    v = bottom + height * (np.arange(rows) + (1 - fill[1]) / 2)
    u, v = (axis.ravel() for axis in np.meshgrid(u, v))
    return np.stack([u, v, u + width * fill[0], v + height * fill[1]], axis=1)


class Canvas:
    """The picture being drawn.

    Args:
        size: (width, height) of the finished picture in pixels.
        horizon: height of the horizon as a share of the picture's height, from the top.
        camera_height: metres above the ground.
        focal: focal length in picture heights.
        haze: colour that distant things fade to.
        visibility: metres after which 63% of a thing's colour is haze.
    """

    def __init__(
        self,
        size: tuple[int, int],
        horizon: float,
        camera_height: float,
        focal: float,
        haze: Colour,
        visibility: float,
    ):
        self.width, self.height = (side * SUPERSAMPLING for side in size)
        self.image = np.zeros((self.height, self.width, 3), np.uint8)
        self.label = np.zeros((self.height, self.width), np.uint8)
        self.horizon = horizon * self.height
        self.vanishing_point = np.array([self.width / 2, self.horizon])
        self.camera_height = camera_height
        self.focal = focal * self.height
        self.haze = tuple(map(float, haze))
        self.visibility = visibility

    def project(self, points: ArrayLike) -> np.ndarray:
        """World points [..., 3] to pixels (x, y) [..., 2]."""
        points = np.asarray(points, float)
        scale = self.focal / np.maximum(points[..., 2:], NEAREST)
        return self.vanishing_point + scale * (points[..., :2] - (0, self.camera_height)) * (1, -1)

    def pixels(self, metres: float, z: float) -> int:
        """Length of ``metres`` at distance ``z``, at least one pixel."""
        return max(1, round(self.focal / max(z, NEAREST) * metres))

    def tint(self, colour: Colour, z: float) -> tuple[float, ...]:
        """``colour`` seen through the haze at distance ``z``."""
        clear = math.exp(-max(z, 0) / self.visibility)
        return tuple(clear * float(c) + (1 - clear) * h for c, h in zip(colour, self.haze, strict=True))

    def fill(self, polygons: ArrayLike, colour: Colour | None, label: str | None) -> None:
        """Fill pixel polygons [n, corners, 2], which do not overlap, in the picture, the label map or both."""
        polygons = list(np.round(polygons).astype(np.int32, order="C"))
        if colour is not None:
            cv2.fillPoly(self.image, polygons, colour)
        if label is not None:
            cv2.fillPoly(self.label, polygons, ID[label])

    def polygon(self, points: ArrayLike, colour: Colour, label: str | None = None) -> None:
        """Fill a polygon of world points [corners, 3]."""
        points = np.asarray(points, float)
        self.fill(self.project(points)[None], self.tint(colour, points[:, 2].mean()), label)

    def is_visible(self, face: np.ndarray) -> bool:
        """Whether the camera sees the outer side of a face [4, 3]."""
        corner = face[0]
        (ax, ay, az), (bx, by, bz) = (face[1] - corner).tolist(), (face[3] - corner).tolist()
        x, y, z = corner.tolist()
        # The face's inward normal, (face[1] - corner) x (face[3] - corner), against the ray from the camera.
        normal = (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)
        return normal[0] * x + normal[1] * (y - self.camera_height) + normal[2] * z > 0

    def solid(self, faces: dict[str, np.ndarray], colour: Colour, label: str | None) -> None:
        """Draw the visible faces of ``box``, each in its own light."""
        for name, face in faces.items():
            if self.is_visible(face):
                self.polygon(face, shade(colour, FACE_LIGHT[name]), label)

    def panels(self, face: np.ndarray, rectangles: ArrayLike, colour: Colour, label: str | None = None) -> None:
        """Draw rectangles (left, bottom, right, top) [n, 4], in shares of a face, on that face if it is visible."""
        if not self.is_visible(face):
            return
        rectangles = np.atleast_2d(rectangles)
        u, v = rectangles[:, [0, 2, 2, 0]][..., None], rectangles[:, [1, 1, 3, 3]][..., None]
        bottom_left, bottom_right, top_right, top_left = face
        corners = (1 - v) * ((1 - u) * bottom_left + u * bottom_right) + v * ((1 - u) * top_left + u * top_right)
        self.fill(self.project(corners), self.tint(colour, face[:, 2].mean()), label)

    def stroke(self, points: ArrayLike, width: float, colour: Colour, label: str | None = None) -> None:
        """Draw a line ``width`` metres thick through world points."""
        points = np.asarray(points, float)
        z = points[:, 2].mean()
        line = [np.round(self.project(points)).astype(np.int32)]
        cv2.polylines(self.image, line, False, self.tint(colour, z), self.pixels(width, z))
        if label is not None:
            cv2.polylines(self.label, line, False, ID[label], self.pixels(width, z))

    def oval(
        self,
        x: float,
        y: float,
        z: float,
        radii: tuple[float, float],
        colour: Colour,
        label: str | None = None,
        width: float = 0,
    ) -> None:
        """Draw an upright ellipse with ``radii`` (across, up) in metres; with ``width`` the outline only."""
        scale = self.focal / max(z, NEAREST)
        centre = (round(self.width / 2 + scale * x), round(self.horizon + scale * (self.camera_height - y)))
        axes = tuple(self.pixels(radius, z) for radius in radii)
        thickness = self.pixels(width, z) if width else -1
        cv2.ellipse(self.image, centre, axes, 0, 0, 360, self.tint(colour, z), thickness)
        if label is not None:
            cv2.ellipse(self.label, centre, axes, 0, 0, 360, ID[label], -1)

    def wheel(self, x: float, z: float, radius: float, across: bool, label: str) -> None:
        """Draw a tyre with its hub that stands on the ground, its axle along z (``across``) or along x."""
        angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        for r, colour in ((radius, (28, 26, 26)), (0.5 * radius, (150, 150, 155))):
            along, up = r * np.cos(angle), radius + r * np.sin(angle)
            points = (x + along, up, 0 * up + z) if across else (0 * up + x, up, z + along)
            self.polygon(np.stack(points, axis=1), colour, label)

    def finished(self) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 [H, W, 3] and label uint8 [H, W] at the size asked for."""
        size = (self.width // SUPERSAMPLING, self.height // SUPERSAMPLING)
        image = cv2.resize(self.image, size, interpolation=cv2.INTER_AREA)
        return image, self.label[::SUPERSAMPLING, ::SUPERSAMPLING].copy()
