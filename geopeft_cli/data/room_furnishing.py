"""Furniture and clutter put into a room, so that no two pieces take the same place on the floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from geopeft_cli.data.furniture import bed, bookshelf, chair, desk, sofa, stool, table
from geopeft_cli.data.objects import bin_, bottle, lamp, mug
from geopeft_cli.data.room_geometry import CLASSES, Piece, tone
from geopeft_cli.data.solids import Ellipsoid, Part, Points, block, rod, turn

_Y_UP_TO_Z_UP = turn("x", math.pi / 2)

Maker = Callable[[np.random.Generator], list[Part]]


class Floor:
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


def ceiling_lamp(size: Points, rng: np.random.Generator) -> Piece:
    """A lamp at the ceiling of a room of ``size`` (3,), or hanging from it."""
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


def _part_colors(count: int, rng: np.random.Generator) -> Points:
    """Two tones, each part one of them, (count, 3)."""
    tones = np.stack([tone(rng, 30, 230, 1.2), tone(rng, 30, 230, 0.6)])
    return tones[(rng.random(count) < 0.3).astype(np.intp)]
