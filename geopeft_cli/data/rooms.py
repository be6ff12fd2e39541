"""The embedded set ``rooms``: furnished rooms with a label for every point, made on the fly from a seed.

Two domains: ``clean`` has complete surfaces of tidy rooms; ``scan`` is what a few scanners on tripods get of lived-in
ones, with shadows, noise, and fewer points far away. z is up, units are meters.
"""

from __future__ import annotations

import numpy as np

from geopeft_cli.data.keys import keyed_generator
from geopeft_cli.data.room_geometry import CLASSES
from geopeft_cli.data.room_layout import make_room
from geopeft_cli.data.room_scan import Surface, density_from, eyes_in, lit, surface_of, weighted_choice, with_noise
from geopeft_cli.data.scenes import Scene, SceneSplits
from geopeft_cli.errors import UsageError

DOMAINS = ("clean", "scan")

_CANDIDATES = 6
"""Points on surfaces for every one that a scan keeps."""


class Rooms:
    """One part of the set: ``count`` rooms.

    Each room is drawn from a stream of its own, keyed by seed, domain, part and number: it depends neither on the order
    of access nor on the size of the set, and no two parts share a room.

    Args:
        domain: ``clean`` or ``scan``.
        part: ``train``, ``validation`` or ``test``.
        count: how many rooms.
        seed: of the whole set, 0 or more.
        points: in each room.

    Raises:
        UsageError: ``domain`` is unknown, or ``points`` is less than 1.
    """

    classes = CLASSES

    def __init__(self, domain: str, part: str, count: int, seed: int, points: int) -> None:
        if domain not in DOMAINS:
            raise UsageError(f"rooms: unknown domain '{domain}'", f"Use one of: {', '.join(DOMAINS)}.")
        if points < 1:
            raise UsageError(f"rooms: {points} points", "Ask for one at least.")
        self.names = tuple(f"{part}_{number:04d}" for number in range(count))
        self._key = seed, "rooms", domain, part
        self._domain = domain
        self._points = points

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Scene:
        """The room number ``index``, its points in random order, with colors 0 to 255 and normals."""
        if not 0 <= index < len(self):
            raise IndexError(f"rooms: room {index} of {len(self)}")
        rng = keyed_generator(*self._key, index)
        surface = (clean if self._domain == "clean" else scan)(self._points, rng)
        return Scene(
            self.names[index],
            surface.points.astype(np.float32),
            surface.labels,
            surface.colors.astype(np.float32),
            surface.normals.astype(np.float32),
        )


def rooms_splits(domain: str, train: int, validation: int, test: int, seed: int, points: int) -> SceneSplits:
    """The embedded set, in three parts; no validation part if ``validation`` is 0.

    Args:
        domain: ``clean`` or ``scan``.
        train: how many rooms.
        validation: the same.
        test: the same.
        seed: of the whole set.
        points: in each room.

    Raises:
        UsageError: ``domain`` is unknown, or ``points`` is less than 1.
    """

    def part(name: str, count: int) -> Rooms:
        return Rooms(domain, name, count, seed, points)

    return SceneSplits(part("train", train), part("validation", validation) if validation else None, part("test", test))


def clean(count: int, rng: np.random.Generator) -> Surface:
    """All surfaces of a tidy room, evenly, without noise; ``count`` points."""
    room = make_room(rng, tidy=True)
    while len(surface := surface_of(room, int(1.3 * count) + 64, rng)) < count:
        pass
    return lit(surface.take(rng.permutation(len(surface))[:count]), rng)


def scan(count: int, rng: np.random.Generator) -> Surface:
    """What two to four scanners see of a lived-in room, ``count`` points."""
    room = make_room(rng, tidy=False)
    eyes = eyes_in(room, int(rng.integers(2, 5)), rng)
    candidates = _CANDIDATES * max(count, 4096)
    while True:
        surface = surface_of(room, candidates, rng)
        density = np.sum([density_from(surface, eye) for eye in eyes], axis=0)
        chosen = weighted_choice(density, count, rng)
        if len(chosen) == count:
            return lit(with_noise(surface.take(chosen), eyes, rng), rng)
        candidates *= 2
