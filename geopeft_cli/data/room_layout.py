"""Rooms drawn at random: their size, doors, windows and boards, and what stands in them."""

from __future__ import annotations

import numpy as np

from geopeft_cli.data.room_furnishing import Floor, ceiling_lamp
from geopeft_cli.data.room_geometry import CLASSES, Opening, Panel, Room, tone
from geopeft_cli.data.solids import Points


def make_room(rng: np.random.Generator, tidy: bool) -> Room:
    """Draw a room.

    Args:
        rng: of all draws.
        tidy: furniture stands parallel to the walls, and little lies about.
    """
    size = rng.uniform((3, 3, 2.3), (7, 5.5, 3.1))
    floor = Floor(size, rng, tidy)
    floor.furnish()
    ceiling_lamps = [ceiling_lamp(size, rng) for _ in range(rng.integers(0, 3))]
    return Room(size, _panels(size, rng), (*floor.pieces, *ceiling_lamps), tuple(floor.taken))


def _panels(size: Points, rng: np.random.Generator) -> tuple[Panel, ...]:
    x, y, z = size
    eye = np.eye(3)
    wall, low = tone(rng, 150, 245, 0.25), np.zeros(3)
    panels = [
        Panel(CLASSES.index("floor"), low, eye[[0, 1]] * size[[0, 1], None], eye[2], tone(rng, 60, 190, 0.8)),
        Panel(CLASSES.index("ceiling"), size * eye[2], eye[[0, 1]] * size[[0, 1], None], -eye[2], tone(rng, 190, 250)),
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
        color = tone(rng, 70, 220, 0.6)
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
            depth, color, seen = u(0.03, 0.09), tone(rng, 150, 255, 0.4), u(0.15, 0.6)
        else:
            bottom, top = u(0.9, 1.2), u(1.6, 2.1)
            depth, color, seen = -u(0.01, 0.04), tone(rng, 30, 250, 0.8), 1.0
        found.append(Opening(CLASSES.index(kind), (at, bottom), (at + wide, top), depth, color, seen))
    return tuple(found)
