"""A whole street scene: who stands where, in which light."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from datasets.seg.street import people, scenery, surroundings, vehicles
from datasets.seg.street.canvas import Canvas, Colour, shade
from datasets.seg.street.photo import photograph
from lib.base.errors import UserError

SMALLEST = (64, 48)

PAINTS = (
    (48, 44, 168), (150, 82, 44), (60, 150, 205), (88, 122, 62), (40, 40, 42), (222, 222, 220), (140, 138, 136),
    (52, 70, 112), (150, 190, 215), (128, 112, 172), (178, 158, 120), (92, 132, 196), (176, 190, 196), (84, 74, 70),
)  # fmt: skip
"""BGR colours of vehicles, clothes, boards, houses, walls and fences alike, so that no colour gives a class away."""


@dataclass(frozen=True)
class Mood:
    """Weather and time of day: sky colours, cloud cover, exposure, warmth of the light, shadows and lit windows."""

    zenith: Colour
    haze: Colour
    clouds: float
    exposure: float
    warmth: float
    shadow: float
    lit: float


MOODS = (
    Mood(zenith=(205, 140, 70), haze=(236, 222, 205), clouds=0.3, exposure=1.05, warmth=0.1, shadow=0.5, lit=0.0),
    Mood(zenith=(190, 180, 172), haze=(214, 212, 210), clouds=0.7, exposure=0.95, warmth=-0.2, shadow=0.3, lit=0.05),
    Mood(zenith=(170, 130, 110), haze=(160, 200, 240), clouds=0.4, exposure=1.0, warmth=0.5, shadow=0.5, lit=0.1),
    Mood(zenith=(110, 70, 60), haze=(140, 130, 180), clouds=0.4, exposure=0.72, warmth=-0.2, shadow=0.3, lit=0.5),
)


class Prop(NamedTuple):
    """Something that stands on the ground: its footprint, which also orders the drawing, and how to draw it."""

    x: tuple[float, float]
    z: tuple[float, float]
    draw: Callable[[], None]


class Street:
    """The plan of one scene and the props on it, drawn far to near by ``draw``."""

    def __init__(self, canvas: Canvas, rng: np.random.Generator, mood: Mood):
        self.canvas, self.rng, self.mood = canvas, rng, mood
        self.road = rng.uniform(4.0, 6.0)
        self.strips: dict[int, list[tuple[str, float, float]]] = {-1: [], 1: []}
        self.kerb, self.sidewalk_end, self.front = {}, {}, {}
        for side in self.strips:
            self.lay_out(side)
        self.props: list[Prop] = []
        self.tram_x = -self.road / 2 if rng.random() < 0.4 else None

    def lay_out(self, side: int) -> None:
        """Choose the strips between the road and the house fronts of one side."""
        rng, x, strips = self.rng, self.road, self.strips[side]
        for label, chance, width in (
            ("parking", 0.35, 2.3),
            ("terrain", 0.35, 1.6),
            ("sidewalk", 1.0, rng.uniform(2.2, 3.8)),
            ("terrain", 0.5, rng.uniform(1.0, 4.0)),
        ):
            if rng.random() < chance:
                strips.append((label, x, x + width))
                x += width
        sidewalk = next(strip for strip in strips if strip[0] == "sidewalk")
        self.kerb[side], self.sidewalk_end[side], self.front[side] = sidewalk[1], sidewalk[2], x

    def paint(self) -> np.ndarray:
        """A colour from the common palette, never twice quite the same."""
        jitter = self.rng.uniform(0.85, 1.15, 3)
        return shade(shade(PAINTS[self.rng.integers(len(PAINTS))], self.rng.uniform(0.75, 1.15)), jitter)

    def add(self, x: float, z: float, size: float, draw: Callable, *args, **options) -> None:
        """Stand a prop ``size`` metres wide at (x, z); ``draw`` is called with the canvas and ``args``."""
        job = partial(draw, self.canvas, *args, **options)
        self.props.append(Prop((x - size / 2, x + size / 2), (z, z + size / 2), job))

    def add_vehicle(self, kind: str, x: float, z: float, view: str) -> None:
        job = partial(vehicles.VEHICLES[kind], self.canvas, self.rng, x, z, view, self.paint())
        self.props.append(Prop(*vehicles.footprint(kind, x, z, view), job))

    def add_rider(self, x: float, z: float, away: bool) -> None:
        mount = self.rng.choice(("bicycle", "motorcycle"))
        clothes = (self.paint(), self.paint(), self.paint())
        self.add(x, z, 0.8 if away else 1.8, people.rider, self.rng, x, z, mount, away, clothes)

    def add_traffic(self) -> None:
        """Fill both lanes and the parking strips; now and then something crosses in front."""
        rng = self.rng
        kinds, weights = ("car", "truck", "bus", "rider"), (0.4, 0.2, 0.2, 0.2)
        for side, view in ((1, "away"), (-1, "oncoming")):
            z = rng.uniform(8.5, 17)
            if side < 0 and self.tram_x is not None:
                start = rng.uniform(9, 22)
                self.add_vehicle("train", self.tram_x, start, view)
                z = start + 30
            while z < 75:
                kind = rng.choice(kinds, p=weights)
                x = side * self.road / 2 + rng.uniform(-0.4, 0.4)
                if kind == "rider":
                    self.add_rider(x, z, away=True)
                else:
                    self.add_vehicle(kind, x, z, view)
                z += (2 if kind == "rider" else vehicles.SIZES[kind][1]) + rng.uniform(4, 14)
            if self.strips[side][0][0] == "parking":
                for z in np.arange(rng.uniform(5, 10), 60, 5.6):
                    if rng.random() < 0.7:
                        kind = rng.choice(("car", "car", "car", "truck")) if z > 20 else "car"
                        self.add_vehicle(kind, side * (self.road + 1.15), z, view)
            if rng.random() < 0.7:
                self.add_rider(side * (self.road - 0.7), rng.uniform(5, 14), away=rng.random() < 0.6)
        if rng.random() < 0.35:
            self.add_vehicle(
                rng.choice(("car", "truck", "bus", "train")), rng.uniform(-5, 5), rng.uniform(14, 28), "crossing"
            )

    def add_roadside(self, side: int) -> None:
        """Lamps, signs, lights, trees, parked two-wheelers and bins between the road and the houses."""
        rng, edge = self.rng, self.kerb[side] + 0.4
        for z in np.arange(rng.uniform(7, 16), 70, rng.uniform(12, 18)):
            self.add(side * edge, z, 0.4, scenery.lamp_post, side, edge, z)
        for z in rng.uniform(6, 22, rng.integers(1, 3)):
            self.add(side * edge, z, 0.4, scenery.traffic_light, rng, side, edge, z)
        for z in rng.uniform(5.5, 20, rng.integers(1, 4)):
            self.add(side * edge, z, 0.4, scenery.traffic_sign, rng, side, edge, z, self.paint())
        beyond = self.sidewalk_end[side]
        if rng.random() < 0.6:
            row = beyond + 0.4 if self.front[side] > beyond else edge
            for z in np.arange(rng.uniform(9, 16), 70, rng.uniform(7, 12)):
                self.add(side * row, z, 1.6, scenery.tree, rng, side * row, z)
        for z in rng.uniform(5, 16, rng.integers(0, 3)):
            x, mount = side * (beyond - 0.6), rng.choice((people.bicycle, people.bicycle, people.motorcycle))
            self.add(x, z, 1.7, mount, x, z, int(rng.choice((-1, 1))), self.paint())
        if rng.random() < 0.5:
            z = rng.uniform(6, 20)
            self.add(side * (beyond - 0.5), z, 0.8, scenery.bin_or_bench, rng, side, beyond - 0.7, z, self.paint())

    def add_people(self) -> None:
        """Pedestrians on both sidewalks, and sometimes on the road."""
        rng = self.rng
        for side in self.strips:
            for z in rng.uniform(5, 30, rng.integers(2, 6)):
                x = side * rng.uniform(self.kerb[side] + 0.6, self.sidewalk_end[side] - 0.3)
                self.add(x, z, 0.6, people.person, rng, x, z, self.paint(), self.paint())
        if rng.random() < 0.4:
            for _ in range(rng.integers(1, 4)):
                x, z = rng.uniform(-self.road, self.road), rng.uniform(6, 16)
                self.add(x, z, 0.6, people.person, rng, x, z, self.paint(), self.paint())

    def draw_fronts(self, side: int) -> None:
        """Houses, walls, fences and parks along one side, far to near."""
        canvas, rng, x = self.canvas, self.rng, self.front[side]
        ends = np.cumsum(np.append(rng.uniform(-6, 4), rng.uniform(10, 20, 6)))
        for z in reversed(list(pairwise(ends))):
            kind = rng.choice(("house", "wall", "fence", "park"), p=(0.46, 0.2, 0.2, 0.14))
            if kind == "house":
                scenery.building(canvas, rng, side, x, z, self.paint(), self.mood.lit)
                continue
            if kind != "park" and rng.random() < 0.5:
                scenery.building(canvas, rng, side, x + 7, (z[0] + 1, z[1] - 1), self.paint(), self.mood.lit)
            for at in sorted(rng.uniform(max(z[0], 4), max(z[1], 5), 4), reverse=True):
                scenery.tree(canvas, rng, side * (x + rng.uniform(2.5, 5)), at)
            if kind == "wall":
                scenery.wall(canvas, rng, side, x, z, self.paint())
            elif kind == "fence":
                scenery.fence(canvas, rng, side, x, z, self.paint())
            elif rng.random() < 0.5:
                scenery.hedge(canvas, rng, side, x, (max(z[0], 2), max(z[1], 3)))

    def draw(self) -> None:
        """Paint everything, back to front."""
        canvas, rng, mood = self.canvas, self.rng, self.mood
        surroundings.sky(canvas, rng, mood.zenith, mood.clouds)
        surroundings.skyline(canvas, rng)
        surroundings.ground(canvas, rng, self.road, self.strips)
        if self.tram_x is not None:
            surroundings.rails(canvas, self.tram_x)
        self.add_traffic()
        for side in self.strips:
            self.add_roadside(side)
        self.add_people()
        side = int(rng.choice((-1, 1)))
        shaded = (side * rng.uniform(0, self.road), side * self.front[side]) if rng.random() < 0.5 else None
        surroundings.shadows(canvas, [(prop.x, prop.z) for prop in self.props], mood.shadow, shaded)
        for side in self.strips:
            self.draw_fronts(side)
        for prop in sorted(self.props, key=lambda prop: -prop.z[0]):
            prop.draw()
        if rng.random() < 0.3:
            surroundings.bonnet(canvas, self.paint())


def draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw one street scene.

    Args:
        rng: where every choice comes from: the same state draws the same scene.
        size: (width, height) in pixels, at least 64 x 48.

    Returns the image, BGR uint8 [H, W, 3], and its Cityscapes label ids, uint8 [H, W]. Raises UserError for a size
    too small.
    """
    if size[0] < SMALLEST[0] or size[1] < SMALLEST[1]:
        raise UserError(f"a scene of {size[0]} x {size[1]} is too small: {SMALLEST[0]} x {SMALLEST[1]} is the least")
    mood = MOODS[rng.choice(len(MOODS), p=(0.4, 0.25, 0.2, 0.15))]
    canvas = Canvas(
        size,
        horizon=rng.uniform(0.38, 0.46),
        camera_height=rng.uniform(1.9, 2.4),
        focal=rng.uniform(1.25, 1.5),
        haze=np.asarray(mood.haze) * rng.uniform(0.93, 1.03, 3),
        visibility=rng.uniform(90, 220),
    )
    Street(canvas, rng, mood).draw()
    image, label = canvas.finished()
    exposure, warmth = mood.exposure * rng.uniform(0.85, 1.12), mood.warmth + rng.uniform(-0.2, 0.2)
    return photograph(rng, image, label, exposure, warmth), label
