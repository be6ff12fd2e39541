"""Solids: uniform by area, closed, and agreed on what is inside."""

from __future__ import annotations

import math

import numpy as np
import pytest

from geopeft_cli.data.solids import (
    Box,
    Ellipsoid,
    Part,
    Prism,
    Revolution,
    Solid,
    beam,
    block,
    fill_polygon,
    in_polygon,
    polygon_area,
    ring,
    rod,
    shell,
    turn,
)

L_SHAPE = np.array([(0, 0), (1, 0), (1, 0.3), (0.4, 0.3), (0.4, 0.8), (0, 0.8)])
CUP = shell([(0.3, 0.0), (0.4, 0.5), (0.35, 1.0)], 0.05)
TORUS = ring(0.4, 0.1)
ARC = ring(0.4, 0.1, math.pi * 0.8, stretch=1.5)


def pappus(solid: Revolution) -> float:
    """The volume of a revolution: its polygon's area times the way of that polygon's centroid."""
    (x, y), (x1, y1) = solid.profile.T, np.roll(solid.profile, -1, axis=0).T
    cross = x * y1 - x1 * y
    return solid.angle * abs(float(((x + x1) * cross).sum())) / 6


SOLIDS: dict[str, tuple[Solid, float]] = {
    "box": (Box((0.8, 0.3, 1.1)), 0.8 * 0.3 * 1.1),
    "sphere": (Ellipsoid((0.5, 0.5, 0.5)), math.pi / 6),
    "pancake": (Ellipsoid((0.7, 0.1, 0.5)), 4 / 3 * math.pi * 0.035),
    "needle": (Ellipsoid((0.05, 0.6, 0.05)), 4 / 3 * math.pi * 0.0015),
    "cylinder": (rod((0, -0.5, 0), (0, 0.5, 0), 0.3), math.pi * 0.09),
    "cone": (Revolution(np.array([(0.0, 0.0), (0.5, 0.0), (0.0, 1.0)])), math.pi / 12),
    "frustum": (rod((0.1, 0, 0), (0.5, 0.6, 0.3), 0.3, 0.1), math.pi / 3 * math.sqrt(0.61) * 0.13),
    "cup": (CUP, pappus(CUP)),
    "torus": (TORUS, pappus(TORUS)),
    "arc": (ARC, pappus(ARC)),
    "prism": (Prism(L_SHAPE, 0.4), 0.5 * 0.4),
    "placed": (Part(Prism(L_SHAPE, 0.4), (0.1, 0.2, -0.3), turn("x", 0.7) @ turn("y", 1.0)), 0.2),
}


@pytest.fixture(params=SOLIDS, ids=str)
def solid(request: pytest.FixtureRequest) -> Solid:
    return SOLIDS[request.param][0]


@pytest.mark.parametrize("name", SOLIDS)
def test_contains_has_the_analytic_volume(name: str) -> None:
    solid, volume = SOLIDS[name]
    rng = np.random.default_rng(1)
    surface = solid.sample(4000, rng)
    low, high = surface.min(axis=0) - 0.05, surface.max(axis=0) + 0.05
    inside = solid.contains(rng.uniform(low, high, (200_000, 3)))
    assert inside.mean() * np.prod(high - low) == pytest.approx(volume, rel=0.03)


def test_samples_lie_on_the_border_of_what_is_inside(solid: Solid) -> None:
    rng = np.random.default_rng(2)
    points = solid.sample(300, rng)
    steps = rng.normal(size=(100, 1, 3))
    steps *= 1e-4 / np.linalg.norm(steps, axis=2, keepdims=True)
    inside = solid.contains((points + steps).reshape(-1, 3)).reshape(100, 300)
    assert inside.any(axis=0).mean() > 0.99
    assert not inside.all(axis=0).any()


def test_samples_are_uniform_by_area(solid: Solid) -> None:
    # Random lines cross a surface equally often everywhere, per unit of area (Cauchy, Crofton): their crossings
    # are a uniform sample that knows nothing but ``contains``.
    rng = np.random.default_rng(3)
    drawn = solid.sample(20_000, rng)
    expected, area = cast_lines(solid, drawn, rng)
    assert solid.area == pytest.approx(area, rel=0.05)
    # Oblique axes: one across a flat face would see a jump, and the crossings are off by up to a step.
    for axis in rng.normal(size=(8, 3)):
        a, b = np.sort(drawn @ axis), np.sort(expected @ axis)
        both = np.concatenate([a, b])
        gap = np.searchsorted(a, both, "right") / len(a) - np.searchsorted(b, both, "right") / len(b)
        assert np.abs(gap).max() < 0.03


def cast_lines(solid: Solid, drawn: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Where random lines cross the surface, and the area that their number tells."""
    low, high = drawn.min(axis=0), drawn.max(axis=0)
    center, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2 * 1.05
    lines, steps = 30_000, 300
    direction = rng.normal(size=(lines, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    u = np.cross(direction, rng.normal(size=(lines, 3)))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    v = np.cross(direction, u)
    turn_, out = rng.uniform(0, 2 * math.pi, (lines, 1)), radius * np.sqrt(rng.random((lines, 1)))
    start = center + out * (np.cos(turn_) * u + np.sin(turn_) * v)
    at = np.linspace(-radius, radius, steps)
    inside = np.stack([solid.contains(start + t * direction) for t in at], axis=1)
    line, step = np.nonzero(inside[:, 1:] != inside[:, :-1])
    points = start[line] + ((at[step] + at[step + 1]) / 2)[:, None] * direction[line]
    return points, 2 * math.pi * radius**2 * len(points) / lines


def test_box_faces_get_their_share() -> None:
    points = Box((2.0, 1.0, 0.5)).sample(60_000, np.random.default_rng(5))
    on = np.isclose(np.abs(points), (1.0, 0.5, 0.25)).mean(axis=0)
    assert on == pytest.approx(np.array([0.5, 1.0, 2.0]) / 3.5, abs=0.01)


def test_torus_is_denser_outside_than_inside() -> None:
    points = TORUS.sample(60_000, np.random.default_rng(6))
    outside = np.hypot(points[:, 0], points[:, 2]) > 0.4
    assert outside.mean() == pytest.approx(0.5 + 0.1 / (math.pi * 0.4), abs=0.01)


def test_polygon_helpers() -> None:
    assert polygon_area(L_SHAPE) == polygon_area(L_SHAPE[::-1]) == pytest.approx(0.5)
    points = fill_polygon(L_SHAPE, 5000, np.random.default_rng(7))
    assert points.shape == (5000, 2)
    assert in_polygon(L_SHAPE, points).all()
    assert (points[:, 1] > 0.3).mean() == pytest.approx(0.4, abs=0.03)
    assert in_polygon(L_SHAPE, np.array([(0.7, 0.2), (0.7, 0.5), (-0.1, 0.1)])).tolist() == [True, False, False]


@pytest.mark.parametrize("count", [0, 1, 7])
def test_any_count(solid: Solid, count: int) -> None:
    points = solid.sample(count, np.random.default_rng(8))
    assert points.shape == (count, 3)
    assert np.isfinite(points).all()


def test_builders_reach_from_start_to_stop() -> None:
    rng = np.random.default_rng(9)
    part = block((0.1, 0.3), (0.0, 0.7), (-0.2, 0.2))
    assert part.sample(3000, rng).min(axis=0) == pytest.approx([0.1, 0.0, -0.2], abs=0.01)
    assert part.sample(3000, rng).max(axis=0) == pytest.approx([0.3, 0.7, 0.2], abs=0.01)
    for start, stop in [((0, 0, 0), (0.2, 1, 0.1)), ((0, 0, 0), (1, 0, 0)), ((0.5, 1, 0), (0.5, 0, 0))]:
        for part in (rod(start, stop, 0.02), beam(start, stop, 0.03, 0.03)):
            assert part.contains(np.array([start, stop]) * 0.999 + 0.001 * np.mean([start, stop], axis=0)).all()
            assert not part.contains(np.array([start, stop]) * 1.01 - 0.01 * np.mean([start, stop], axis=0)).any()


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_turns_are_right_handed_rotations(axis: str) -> None:
    rotation = turn(axis, math.pi / 2)  # type: ignore[arg-type]
    unit = np.eye(3)["xyz".index(axis)]
    following = np.roll(unit, 1)
    assert rotation @ unit == pytest.approx(unit)
    assert rotation @ following == pytest.approx(np.cross(unit, following), abs=1e-12)
