"""The embedded rooms: reproducible, labelled, and shaped as rooms are."""

from __future__ import annotations

import numpy as np
import pytest

from geopeft_cli.data.keys import keyed_generator
from geopeft_cli.data.room_geometry import CLASSES, Room
from geopeft_cli.data.room_layout import make_room
from geopeft_cli.data.room_scan import Surface, density_from, weighted_choice
from geopeft_cli.data.rooms import DOMAINS, Rooms, clean, rooms_splits, scan
from geopeft_cli.data.scenes import Scene, checked_scene
from geopeft_cli.errors import UsageError

POINTS = 1500
FLOOR, CEILING, WALL = (CLASSES.index(name) for name in ("floor", "ceiling", "wall"))


@pytest.fixture(scope="module", params=DOMAINS)
def domain(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def rooms(domain: str) -> list[Scene]:
    found = Rooms(domain, "train", 3, 0, POINTS)
    return [found[index] for index in range(3)]


def same(one: Scene, other: Scene) -> bool:
    names = ("coordinates", "colors", "normals", "labels")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def test_rooms_are_sound_scenes(rooms: list[Scene]) -> None:
    for number, room in enumerate(rooms):
        checked_scene(room, len(CLASSES), room.name)
        assert len(room) == POINTS
        assert room.name == f"train_{number:04d}"
        assert room.coordinates.dtype == np.float32
        assert room.labels.dtype == np.int64
        assert room.labels.min() >= 0
        assert room.colors is not None
        assert np.array_equal(room.colors, np.round(room.colors))


def test_every_room_has_floor_ceiling_walls_and_furniture(rooms: list[Scene]) -> None:
    for room in rooms:
        counts = np.bincount(room.labels, minlength=len(CLASSES))
        assert counts[[FLOOR, CEILING, WALL]].min() > 0.05 * POINTS
        assert counts[CLASSES.index("table") :].sum() > 0.02 * POINTS


def test_floors_are_level_and_walls_upright(rooms: list[Scene]) -> None:
    for room in rooms:
        assert room.normals is not None
        floor, ceiling, wall = (room.labels == label for label in (FLOOR, CEILING, WALL))
        assert np.abs(room.coordinates[floor, 2]).max() < 0.08
        assert np.ptp(room.coordinates[ceiling, 2]) < 0.16
        assert room.normals[floor, 2].min() > 0.9
        assert room.normals[ceiling, 2].max() < -0.9
        assert np.abs(room.normals[wall, 2]).max() < 0.4
        low, high = room.coordinates[wall].min(axis=0), room.coordinates[wall].max(axis=0)
        to_wall = np.minimum(room.coordinates[wall] - low, high - room.coordinates[wall])[:, :2].min(axis=1)
        assert to_wall.max() < 0.16


def test_points_are_inside(rooms: list[Scene]) -> None:
    for room in rooms:
        walls = room.coordinates[room.labels == WALL]
        # openings stand back by up to 9 cm, and noise adds to it
        assert (room.coordinates > walls.min(axis=0) - 0.2).all()
        assert (room.coordinates < walls.max(axis=0) + 0.2).all()


def test_a_room_depends_on_its_key_alone(domain: str, rooms: list[Scene]) -> None:
    assert same(Rooms(domain, "train", 9, 0, POINTS)[2], rooms[2])
    assert not same(Rooms(domain, "train", 3, 1, POINTS)[2], rooms[2])
    assert not same(Rooms(domain, "test", 3, 0, POINTS)[2], rooms[2])
    assert not same(rooms[0], rooms[1])


@pytest.mark.parametrize("points", [1, 7])
def test_tiny_rooms(domain: str, points: int) -> None:
    assert len(Rooms(domain, "train", 1, 0, points)[0]) == points


def test_splits() -> None:
    splits = rooms_splits("scan", 4, 0, 2, seed=3, points=10)
    assert splits.validation is None
    assert (len(splits.train), len(splits.test)) == (4, 2)
    assert splits.train.classes == splits.test.classes == CLASSES
    assert not set(splits.train.names) & set(splits.test.names)
    with pytest.raises(IndexError):
        splits.test[2]


@pytest.mark.parametrize(("domain", "points"), [("outdoor", 10), ("scan", 0)])
def test_mistakes(domain: str, points: int) -> None:
    with pytest.raises(UsageError, match="rooms"):
        Rooms(domain, "train", 1, 0, points)


def wall_behind_a_screen() -> Surface:
    """A wall at x = 4 and a small screen at x = 2, both facing the origin."""
    across, up = (grid.ravel() for grid in np.meshgrid(np.linspace(-2, 2, 161), np.linspace(-2, 2, 161)))
    small = (np.abs(across) < 0.5) & (np.abs(up) < 0.5)
    wall = np.stack([np.full_like(across, 4), across, up], axis=1)
    screen = np.stack([np.full(small.sum(), 2.0), across[small], up[small]], axis=1)
    points = np.concatenate([wall, screen])
    labels = np.repeat([0, 1], [len(wall), len(screen)])
    return Surface(points, np.tile((-1.0, 0, 0), (len(points), 1)), np.zeros_like(points), labels)


def test_what_stands_behind_is_not_seen() -> None:
    surface = wall_behind_a_screen()
    density = density_from(surface, np.zeros(3))
    shadow = (surface.labels == 0) & (np.abs(surface.points[:, 1:]) < 0.9).all(axis=1)
    lit = (surface.labels == 0) & (np.abs(surface.points[:, 1:]) > 1.1).any(axis=1)
    assert not density[shadow].any()
    assert density[lit].all()
    assert density[surface.labels == 1].all()


def test_density_falls_with_the_square_of_the_distance_and_the_incidence() -> None:
    surface = wall_behind_a_screen()
    density = density_from(surface, np.zeros(3))
    seen = density > 0
    distance = np.linalg.norm(surface.points, axis=1)
    cosine = surface.points[:, 0] / distance
    assert np.allclose(density[seen], (cosine / distance**2)[seen])
    away = Surface(surface.points, -surface.normals, surface.colors, surface.labels)
    assert not density_from(away, np.zeros(3)).any()


def test_weighted_choice() -> None:
    weights = np.repeat([0.0, 1.0, 3.0], 1000)
    chosen = weighted_choice(weights, 400, np.random.default_rng(0))
    assert len(np.unique(chosen)) == 400
    assert chosen.min() >= 1000
    assert 2 < (chosen >= 2000).sum() / (chosen < 2000).sum() < 4
    assert len(weighted_choice(weights, 5000, np.random.default_rng(0))) == 2000


def test_furniture_does_not_overlap_and_stays_inside() -> None:
    for number in range(5):
        room: Room = make_room(keyed_generator(0, "layout", number), tidy=number % 2 == 0)
        for at, box in enumerate(room.taken):
            assert (box[0] >= 0).all()
            assert (box[1] <= room.size[:2]).all()
            for other in room.taken[:at]:
                assert (box[0] >= other[1]).any() or (box[1] <= other[0]).any()


def test_scans_have_shadows_and_noise_that_clean_rooms_lack() -> None:
    def floor_heights(make: object) -> np.ndarray:
        surface = make(2000, keyed_generator(2, "heights"))  # type: ignore[operator]
        return np.abs(surface.points[surface.labels == FLOOR, 2])

    assert floor_heights(clean).max() == 0
    assert floor_heights(scan).mean() > 1e-4
