"""Regions of a label image as polygons along the edges of their pixels, for GeoJSON and COCO."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from datasets.seg.classes import ClassTable


@dataclass(frozen=True)
class Region:
    """Pixels of one class that touch each other, at edges or corners.

    Attributes:
        train_id: of the class.
        rings: the outer border, then those of its holes: int64 [n, 2], corners of pixels as (x, y), not closed. The
            pixel in column x and row y reaches from (x, y) to (x + 1, y + 1).
    """

    train_id: int
    rings: list[np.ndarray]

    @property
    def area(self) -> int:
        """Pixels: the outer ring's without the holes'."""
        outer, *holes = (abs(_twice_the_area(ring)) // 2 for ring in self.rings)
        return int(outer - sum(holes))


def regions(train_ids: np.ndarray, num_classes: int) -> Iterator[Region]:
    """The regions of an image of train ids, uint8 [H, W], class by class; the even-odd rule fills their pixels."""
    for train_id in np.unique(train_ids):
        if train_id >= num_classes:
            continue
        mask = (train_ids == train_id).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(mask)
        # Each pixel as four: OpenCV follows the centres of border pixels, and a quarter has one corner of its pixel.
        quarters = np.repeat(np.repeat(mask[top : top + height, left : left + width], 2, axis=0), 2, axis=1)
        contours, hierarchy = cv2.findContours(quarters, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        rings = [_corners(contour[:, 0]) + np.array([left, top]) for contour in contours]
        for index, (_, _, child, parent) in enumerate(hierarchy[0]):
            if parent >= 0:
                continue
            holes = []
            while child >= 0:
                holes.append(rings[child])
                child = hierarchy[0][child][0]
            yield Region(int(train_id), [rings[index], *holes])


def _corners(contour: np.ndarray) -> np.ndarray:
    """From a contour of quarters, int [n, 2], to the corners of pixels at which it turns."""
    points = ((contour + 1) // 2).astype(np.int64)
    points = points[np.any(points != np.roll(points, 1, axis=0), axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return points[np.any(np.sign(before) != np.sign(after), axis=1)]


def _twice_the_area(ring: np.ndarray) -> int:
    x, y = ring.T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def geojson(train_ids: np.ndarray, table: ClassTable) -> dict[str, Any]:
    """A FeatureCollection of all regions; its coordinates are pixels and no degrees, y down, and it says so."""
    features = [
        {
            "type": "Feature",
            "properties": {"class": table.names[region.train_id], "id": int(table.id_of[region.train_id])},
            "geometry": {"type": "Polygon", "coordinates": [[*r.tolist(), r[0].tolist()] for r in region.rings]},
        }
        for region in regions(train_ids, len(table))
    ]
    words = "pixels: x to the right, y down, (0, 0) is the upper left corner of the image"
    return {"type": "FeatureCollection", "coordinates": words, "features": features}


class CocoFile:
    """Annotations of many images in the format of COCO, whose categories have the dataset's ids.

    A region with holes, which a polygon of COCO cannot have, is a run-length encoding of its pixels.
    """

    def __init__(self, table: ClassTable) -> None:
        self.table = table
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, name: str, train_ids: np.ndarray) -> None:
        """Add the regions of one image."""
        height, width = train_ids.shape
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": name, "width": width, "height": height})
        for region in regions(train_ids, len(self.table)):
            outer = region.rings[0]
            (left, top), (right, bottom) = outer.min(0).tolist(), outer.max(0).tolist()
            polygon = [outer.ravel().tolist()]
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": number,
                    "category_id": int(self.table.id_of[region.train_id]),
                    "segmentation": polygon if len(region.rings) == 1 else _run_lengths(region, (height, width)),
                    "area": region.area,
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
            )

    def content(self) -> dict[str, Any]:
        ids = self.table.id_of.tolist()
        categories = [{"id": number, "name": name} for number, name in zip(ids, self.table.names, strict=True)]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


def _run_lengths(region: Region, size: tuple[int, int]) -> dict[str, Any]:
    """COCO's uncompressed encoding: lengths of runs of 0 and 1 by turns, column by column."""
    mask = filled(region, size)
    values = np.concatenate([[0], mask.T.ravel(), [2]])
    changes = np.flatnonzero(np.diff(values))
    return {"counts": np.diff([0, *changes]).tolist(), "size": list(size)}


def filled(region: Region, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a region, uint8 [H, W], by the even-odd rule."""
    height, width = size
    crossings = np.zeros((height, width + 1), np.uint8)
    for ring in region.rings:
        for (x, y), (to_x, to_y) in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
            if x == to_x:
                crossings[min(y, to_y) : max(y, to_y), x] ^= 1
    return np.bitwise_xor.accumulate(crossings, axis=1)[:, :width]
