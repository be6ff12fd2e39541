"""A room as geometry: floor, ceiling and walls with openings, and what stands in it, with a color each.

z is up, in meters; the room spans 0 to its size along every axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from geopeft_cli.data.furniture import bed, bookshelf, chair, desk, sofa, stool, table
from geopeft_cli.data.objects import bin_, bottle, lamp, mug
from geopeft_cli.data.solids import Ellipsoid, Part, Points, block, rod, turn

CLASSES: Final = (
    *("floor", "ceiling", "wall", "window", "door", "board", "table", "chair", "sofa", "bed", "bookshelf", "desk"),
    *("lamp", "clutter"),
)
"""The labels of points, in order."""

_Y_UP_TO_Z_UP = turn("x", math.pi / 2)

Maker = Callable[[np.random.Generator], list[Part]]


@dataclass(frozen=True)
class Opening:
    """A rectangle of a wall with another label: a window or a door behind the wall, a board before it.

    Attributes:
        label: of its points.
        low: along the wall and up, meters.
        high: the same.
        depth: how far it stands back from the wall; less than 0 for what hangs on it.
        color: (3,), 0 to 255.
        seen: which share of the points a scanner gets; of glass few.
    """

    label: int
    low: tuple[float, float]
    high: tuple[float, float]
    depth: float
    color: Points
    seen: float = 1.0


@dataclass(frozen=True)
class Panel:
    """A rectangle that faces into the room: ``corner`` and two edges at right angles, with its openings."""

    label: int
    corner: Points
    edges: Points
    normal: Points
    color: Points
    openings: tuple[Opening, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Parts in coordinates of their own, y up, put into the room: scaled, turned by ``rotation`` and moved.

    Attributes:
        label: of its points.
        parts: its solids.
        colors: (parts, 3), 0 to 255.
        scale: meters a unit.
        rotation: (3, 3).
        place: (3,).
    """

    label: int
    parts: list[Part]
    colors: Points
    scale: float
    rotation: Points
    place: Points

    def put(self, points: Points) -> Points:
        """Points (n, 3) of the parts, in the room."""
        placed: Points = self.scale * points @ self.rotation.T + self.place
        return placed


@dataclass(frozen=True)
class Room:
    """A room: its ``size`` (3,), surfaces, and pieces."""

    size: Points
    panels: tuple[Panel, ...]
    pieces: tuple[Piece, ...]
    taken: tuple[Points, ...]
    """Rectangles (2, 2) of the floor, low and high, where pieces stand."""


def make_room(rng: np.random.Generator, tidy: bool) -> Room:
    """Draw a room.

    Args:
        rng: of all draws.
        tidy: furniture stands parallel to the walls, and little lies about.
    """
    size = rng.uniform((3, 3, 2.3), (7, 5.5, 3.1))
    floor = _Floor(size, rng, tidy)
    floor.furnish()
    ceiling_lamps = [_ceiling_lamp(size, rng) for _ in range(rng.integers(0, 3))]
    return Room(size, _panels(size, rng), (*floor.pieces, *ceiling_lamps), tuple(floor.taken))


def _panels(size: Points, rng: np.random.Generator) -> tuple[Panel, ...]:
    x, y, z = size
    eye = np.eye(3)
    wall, low = _tone(rng, 150, 245, 0.25), np.zeros(3)
    panels = [
        Panel(CLASSES.index("floor"), low, eye[[0, 1]] * size[[0, 1], None], eye[2], _tone(rng, 60, 190, 0.8)),
        Panel(CLASSES.index("ceiling"), size * eye[2], eye[[0, 1]] * size[[0, 1], None], -eye[2], _tone(rng, 190, 250)),
    ]
    with_door = rng.integers(4)
    for index, (corner, along, normal) in enumerate(
        [((0, 0, 0), 0, eye[1]), ((0, y, 0), 0, -eye[1]), ((0, 0, 0), 1, eye[0]), ((x, 0, 0), 1, -eye[0])]
    ):
        openings = _openings(float(size[along]), float(z), index == with_door, rng)
        edges = eye[[along, 2]] * size[[along, 2], None]
        panels.append(Panel(CLASSES.index("wall"), np.array(corner, float), edges, normal, wall, openings))
    return tuple(panels)


def _openings(length: float, height: float, door: bool, rng: np.random.Generator) -> tuple[Opening, ...]:
    """A door, and to both sides of it, or on the whole wall, a window, a board or nothing."""
    u = rng.uniform
    found, free = [], [(0.2, length - 0.2)]
    if door:
        wide, at = u(0.8, 1.0), u(0.2, length - 1.3)
        color = _tone(rng, 70, 220, 0.6)
        found.append(
            Opening(CLASSES.index("door"), (at, 0.0), (at + wide, u(1.95, 2.15)), u(0.02, 0.08), color, u(0.7, 1))
        )
        free = [(0.2, at - 0.15), (at + wide + 0.15, length - 0.2)]
    for low, high in free:
        room = high - low
        kind = str(rng.choice(["window", "board", "nothing"], p=[0.45, 0.3, 0.25]))
        if room < 0.9 or kind == "nothing":
            continue
        wide = min(room, u(0.8, 2.2))
        at = low + rng.random() * (room - wide)
        if kind == "window":
            bottom, top = u(0.7, 1.1), u(1.8, min(2.25, height - 0.1))
            depth, color, seen = u(0.03, 0.09), _tone(rng, 150, 255, 0.4), u(0.15, 0.6)
        else:
            bottom, top = u(0.9, 1.2), u(1.6, 2.1)
            depth, color, seen = -u(0.01, 0.04), _tone(rng, 30, 250, 0.8), 1.0
        found.append(Opening(CLASSES.index(kind), (at, bottom), (at + wide, top), depth, color, seen))
    return tuple(found)


class _Floor:
    """The floor while it is being furnished: pieces, and the rectangles they take."""

    def __init__(self, size: Points, rng: np.random.Generator, tidy: bool) -> None:
        self.pieces: list[Piece] = []
        self.taken: list[Points] = []
        self._tops: list[float] = []
        self._size = size
        self._rng = rng
        self._tidy = tidy

    def furnish(self) -> None:
        """Large pieces along the walls, tables with chairs, and clutter."""
        rng = self._rng
        area = float(self._size[0] * self._size[1])
        for label, make, scale, share in _AT_WALLS:
            for _ in range(rng.binomial(max(1, int(area / 9)), share)):
                self._at_wall(label, make, rng.uniform(*scale))
        for _ in range(rng.integers(1, 2 + int(area / 14))):
            self._table()
        for _ in range(rng.integers(0, 3)):
            self._anywhere("chair", chair if rng.random() < 0.7 else stool, rng.uniform(0.9, 1.1))
        for _ in range(rng.integers(0, 3) if self._tidy else rng.integers(3, 9)):
            if rng.random() < 0.3:
                self._anywhere("clutter", bin_, rng.uniform(0.3, 0.5))
            else:
                self._anywhere("clutter", _parcel, rng.uniform(0.2, 0.6))

    def _at_wall(self, label: str, make: Maker, scale: float) -> None:
        parts, wall = make(self._rng), int(self._rng.integers(4))
        slant = 0.0 if self._tidy else float(self._rng.normal(0, 0.04))
        rotation = turn("z", wall * math.pi / 2 + slant) @ _Y_UP_TO_Z_UP
        low, high = _extent(parts, scale, rotation)
        # a piece faces -y before it is turned, so that its back is to the wall at the other side
        axis, far = ((1, True), (0, False), (1, False), (0, True))[wall]
        gap = self._rng.uniform(0.02, 0.08)
        for _ in range(8):
            corner = self._rng.uniform(0.03, np.maximum(self._size[:2] - (high - low)[:2] - 0.03, 0.031))
            corner[axis] = self._size[axis] - (high - low)[axis] - gap if far else gap
            if self._put(label, parts, scale, rotation, low, high, corner):
                return

    def _anywhere(self, label: str, make: Maker, scale: float) -> None:
        parts = make(self._rng)
        rotation = turn("z", self._angle()) @ _Y_UP_TO_Z_UP
        low, high = _extent(parts, scale, rotation)
        for _ in range(8):
            corner = self._rng.uniform(0.05, np.maximum(self._size[:2] - (high - low)[:2] - 0.05, 0.051))
            if self._put(label, parts, scale, rotation, low, high, corner):
                return

    def _table(self) -> None:
        """A table with chairs that face it, and small things on it."""
        rng = self._rng
        count = len(self.pieces)
        self._anywhere("table", table, rng.uniform(1.2, 1.7))
        if len(self.pieces) == count:
            return
        low, high = self.taken[-1]
        top = self._tops[-1]
        for side in range(4):
            if rng.random() < 0.6:
                self._chair_at(low, high, side)
        for _ in range(rng.integers(0, 3) if self._tidy else rng.integers(2, 7)):
            self._on(low, high, top)

    def _chair_at(self, low: Points, high: Points, side: int) -> None:
        rng = self._rng
        parts, scale = chair(rng), rng.uniform(0.9, 1.1)
        jitter = rng.normal(0, 0.05 if self._tidy else 0.3)
        rotation = turn("z", side * math.pi / 2 + jitter) @ _Y_UP_TO_Z_UP
        chair_low, chair_high = _extent(parts, scale, rotation)
        axis, beyond = ((1, True), (0, False), (1, False), (0, True))[side]
        corner = (low + high - (chair_high - chair_low)[:2]) / 2
        gap = rng.uniform(0.02, 0.25)
        corner[axis] = high[axis] + gap if beyond else low[axis] - gap - (chair_high - chair_low)[axis]
        self._put("chair", parts, scale, rotation, chair_low, chair_high, corner)

    def _on(self, low: Points, high: Points, top: float) -> None:
        """Something small on a table, whose top may be round."""
        rng = self._rng
        make, scale = ((mug, 0.12), (bottle, 0.28), (_parcel, 0.25), (lamp, 0.4))[rng.choice(4, p=[0.3, 0.3, 0.3, 0.1])]
        parts, rotation = make(rng), turn("z", self._angle()) @ _Y_UP_TO_Z_UP
        at = (low + high) / 2 + rng.uniform(-0.3, 0.3, 2) * (high - low)
        place = np.array([*at, top + 0.002])
        self._add("lamp" if make is lamp else "clutter", parts, scale, rotation, place)

    def _put(
        self, label: str, parts: list[Part], scale: float, rotation: Points, low: Points, high: Points, corner: Points
    ) -> bool:
        """Stand a piece with the low corner of its extent at ``corner``, if it is inside and the place is free."""
        box = np.stack([corner, corner + (high - low)[:2]])
        outside = (box[0] < 0).any() or (box[1] > self._size[:2]).any() or high[2] > self._size[2] - 0.1
        if outside or any((box[0] < other[1]).all() and (box[1] > other[0]).all() for other in self.taken):
            return False
        self.taken.append(box)
        self._add(label, parts, scale, rotation, np.array([*(corner - low[:2]), 0.0]))
        self._tops.append(float(high[2]))
        return True

    def _add(self, label: str, parts: list[Part], scale: float, rotation: Points, place: Points) -> None:
        colors = _part_colors(len(parts), self._rng)
        self.pieces.append(Piece(CLASSES.index(label), parts, colors, scale, rotation, place))

    def _angle(self) -> float:
        if self._tidy:
            return float(self._rng.integers(4)) * math.pi / 2
        return float(self._rng.uniform(0, 2 * math.pi))


_AT_WALLS: tuple[tuple[str, Maker, tuple[float, float], float], ...] = (
    ("bed", bed, (1.6, 1.9), 0.3),
    ("sofa", sofa, (1.3, 1.7), 0.4),
    ("bookshelf", bookshelf, (1.5, 1.9), 0.6),
    ("desk", desk, (1.1, 1.4), 0.5),
    ("lamp", lamp, (1.2, 1.6), 0.3),
)
"""Class, maker, meters a unit, and how often."""


def _parcel(rng: np.random.Generator) -> list[Part]:
    """A box, a pile of them, or a bag."""
    u = rng.uniform
    if rng.random() < 0.3:
        radii = u(0.3, 0.5), u(0.25, 0.5), u(0.2, 0.4)
        return [Part(Ellipsoid(radii), (0, radii[1], 0))]
    parts, bottom = [], 0.0
    for _ in range(rng.integers(1, 4)):
        x, z, tall = u(0.2, 0.5), u(0.15, 0.4), u(0.1, 0.5)
        parts.append(block((-x, x), (bottom, bottom + tall), (-z, z)))
        bottom += tall
    return parts


def _ceiling_lamp(size: Points, rng: np.random.Generator) -> Piece:
    drop, radius = rng.uniform(0.08, 0.5), rng.uniform(0.12, 0.3)
    parts = [rod((0, -drop, 0), (0, 0.1 - drop, 0), radius, radius * rng.uniform(0.5, 1))]
    if drop > 0.15:
        parts.append(rod((0, 0.1 - drop, 0), (0, -0.001, 0), 0.015))
    place = np.array([*(size[:2] * rng.uniform(0.2, 0.8, 2)), size[2]])
    colors = _part_colors(len(parts), rng)
    return Piece(CLASSES.index("lamp"), parts, colors, 1.0, _Y_UP_TO_Z_UP, place)


def _extent(parts: Sequence[Part], scale: float, rotation: Points) -> tuple[Points, Points]:
    """Low and high corner (3,) of parts, scaled and turned: that of a sample of each, a little widened."""
    rng = np.random.default_rng(0)
    points = scale * np.concatenate([part.sample(64, rng) for part in parts]) @ rotation.T
    margin = np.array((0.01, 0.01, 0.0))
    return points.min(axis=0) - margin, points.max(axis=0) + margin


def _tone(rng: np.random.Generator, low: float, high: float, tint: float = 0.1) -> NDArray[np.float64]:
    """A color (3,) of a brightness between ``low`` and ``high``, gray with ``tint`` 0."""
    tone: Points = rng.uniform(low, high) * (1 + tint * rng.uniform(-0.5, 0.5, 3))
    return tone.clip(0, 255)


def _part_colors(count: int, rng: np.random.Generator) -> Points:
    """Two tones, each part one of them, (count, 3)."""
    tones = np.stack([_tone(rng, 30, 230, 1.2), _tone(rng, 30, 230, 0.6)])
    return tones[(rng.random(count) < 0.3).astype(np.intp)]
