"""What a room is made of: surfaces with openings, and pieces of solids with a color each.

z is up, in meters; the room spans 0 to its size along every axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from geopeft_cli.data.solids import Part, Points

CLASSES: Final = (
    *("floor", "ceiling", "wall", "window", "door", "board", "table", "chair", "sofa", "bed", "bookshelf", "desk"),
    *("lamp", "clutter"),
)
"""The labels of points, in order."""


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


def tone(rng: np.random.Generator, low: float, high: float, tint: float = 0.1) -> Points:
    """A color (3,) of a brightness between ``low`` and ``high``, gray with ``tint`` 0."""
    color: Points = rng.uniform(low, high) * (1 + tint * rng.uniform(-0.5, 0.5, 3))
    return color.clip(0, 255)
