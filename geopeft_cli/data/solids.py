"""Parametric solids: uniform samples of their surfaces, and which points lie inside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Points: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]
Vector: TypeAlias = tuple[float, float, float]
Span: TypeAlias = tuple[float, float]


class Solid(Protocol):
    """A closed body in its own coordinates, y up, about the origin."""

    @property
    def area(self) -> float:
        """Of the whole surface, in squared units."""

    def sample(self, count: int, rng: np.random.Generator) -> Points:
        """``count`` points uniform on the surface, (count, 3)."""

    def contains(self, points: Points) -> Mask:
        """Which of ``points`` (n, 3) lie inside, (n,)."""


@dataclass(frozen=True)
class Box:
    """A cuboid with edges ``size``, centered."""

    size: Vector

    @property
    def area(self) -> float:
        """Of the six faces."""
        x, y, z = self.size
        return 2 * (y * z + z * x + x * y)

    def sample(self, count: int, rng: np.random.Generator) -> Points:
        """Uniform on the six faces, (count, 3)."""
        x, y, z = self.size
        points = rng.random((count, 3)) - 0.5
        axis = _pick(np.array((y * z, z * x, x * y)), count, rng)
        points[np.arange(count), axis] = rng.integers(0, 2, count) - 0.5
        return points * self.size

    def contains(self, points: Points) -> Mask:
        """(n, 3) -> (n,)."""
        x, y, z = np.abs(points.T)
        width, height, depth = self.size
        inside: Mask = (x < width / 2) & (y < height / 2) & (z < depth / 2)
        return inside


@dataclass(frozen=True)
class Ellipsoid:
    """Centered, with semi-axes ``radii``."""

    radii: Vector

    @property
    def area(self) -> float:
        """Knud Thomsen's formula, within 1.1 %."""
        a, b, c = (radius**1.6075 for radius in self.radii)
        return 4 * math.pi * math.exp(math.log((a * b + b * c + c * a) / 3) / 1.6075)

    def sample(self, count: int, rng: np.random.Generator) -> Points:
        """Uniform on the surface, (count, 3)."""
        radii = np.array(self.radii)

        def propose(size: int) -> Points:
            # Points of a sphere, kept as the map stretches area there: at least half are, whatever the radii.
            sphere = rng.standard_normal((size, 3))
            sphere /= np.sqrt(np.einsum("ij,ij->i", sphere, sphere))[:, None]
            stretch = np.sqrt((sphere**2) @ radii**-2.0) * radii.min()
            points: Points = sphere[rng.random(size) < stretch] * radii
            return points

        return collect(propose, count, 0.5)

    def contains(self, points: Points) -> Mask:
        """(n, 3) -> (n,)."""
        inside: Mask = (points**2) @ np.array(self.radii) ** -2.0 < 1
        return inside


@dataclass(frozen=True, eq=False)
class Revolution:
    """A closed polygon of (radius, y) revolved about the y axis, by ``angle`` radians centered on +x.

    Cylinders, cones, shells such as a cup, and tori and bent tubes: all are revolutions.
    """

    profile: Points
    angle: float = 2 * math.pi

    @property
    def _bands(self) -> Points:
        after = np.roll(self.profile, -1, axis=0)
        length = np.hypot(*(after - self.profile).T)
        bands: Points = self.angle * (self.profile[:, 0] + after[:, 0]) / 2 * length
        return bands

    @property
    def _ends(self) -> float:
        return 2 * polygon_area(self.profile) if self.angle < 2 * math.pi else 0.0

    @property
    def area(self) -> float:
        """Of the revolved edges, and of the two ends if the turn is not full."""
        return float(self._bands.sum()) + self._ends

    def sample(self, count: int, rng: np.random.Generator) -> Points:
        """Uniform on the surface, (count, 3)."""
        bands = self._bands
        at_ends = int(rng.binomial(count, self._ends / (self._ends + bands.sum())))
        edge = _pick(bands, count - at_ends, rng)
        start, stop = self.profile[edge], np.roll(self.profile, -1, axis=0)[edge]
        # Along an edge the density grows with the radius: t solves r0 t + (r1 - r0) t^2 / 2 = u (r0 + r1) / 2.
        near, far = start[:, 0], stop[:, 0]
        u = 1 - rng.random(len(edge))
        t = u * (near + far) / (near + np.sqrt(near**2 + u * (far**2 - near**2)))
        flat = start + t[:, None] * (stop - start)
        turn = (rng.random(len(edge)) - 0.5) * self.angle
        if at_ends:
            flat = np.concatenate([flat, fill_polygon(self.profile, at_ends, rng)])
            turn = np.concatenate([turn, (rng.integers(0, 2, at_ends) - 0.5) * self.angle])
        return np.stack([flat[:, 0] * np.cos(turn), flat[:, 1], flat[:, 0] * np.sin(turn)], axis=1)

    def contains(self, points: Points) -> Mask:
        """(n, 3) -> (n,)."""
        x, y, z = points.T
        inside = in_polygon(self.profile, np.stack([np.hypot(x, z), y], axis=1))
        if self.angle < 2 * math.pi:
            inside &= np.abs(np.arctan2(z, x)) < self.angle / 2
        return inside


@dataclass(frozen=True, eq=False)
class Prism:
    """A closed polygon of (x, y) extruded along z by ``depth``, centered in z."""

    profile: Points
    depth: float

    @property
    def _sides(self) -> Points:
        sides: Points = self.depth * np.hypot(*(np.roll(self.profile, -1, axis=0) - self.profile).T)
        return sides

    @property
    def area(self) -> float:
        """Of the two faces and the sides."""
        return float(self._sides.sum()) + 2 * polygon_area(self.profile)

    def sample(self, count: int, rng: np.random.Generator) -> Points:
        """Uniform on the surface, (count, 3)."""
        sides = self._sides
        on_sides = int(rng.binomial(count, sides.sum() / self.area))
        edge = _pick(sides, on_sides, rng)
        start, stop = self.profile[edge], np.roll(self.profile, -1, axis=0)[edge]
        flat = start + rng.random((on_sides, 1)) * (stop - start)
        flat = np.concatenate([flat, fill_polygon(self.profile, count - on_sides, rng)])
        z = rng.random(count) - 0.5
        z[on_sides:] = rng.integers(0, 2, count - on_sides) - 0.5
        return np.concatenate([flat, self.depth * z[:, None]], axis=1)

    def contains(self, points: Points) -> Mask:
        """(n, 3) -> (n,)."""
        return in_polygon(self.profile, points[:, :2]) & (np.abs(points[:, 2]) < self.depth / 2)


@dataclass(frozen=True, eq=False)
class Part:
    """A solid in its place: ``rotation`` (3, 3) first, then moved to ``center``."""

    solid: Solid
    center: Vector = (0.0, 0.0, 0.0)
    rotation: Points | None = None

    @property
    def area(self) -> float:
        """That of the solid."""
        return self.solid.area

    def sample(self, count: int, rng: np.random.Generator) -> Points:
        """Uniform on the surface, (count, 3)."""
        points = self.solid.sample(count, rng)
        return (points if self.rotation is None else points @ self.rotation.T) + self.center

    def contains(self, points: Points) -> Mask:
        """(n, 3) -> (n,)."""
        local = points - self.center
        return self.solid.contains(local if self.rotation is None else local @ self.rotation)


def block(x: Span, y: Span, z: Span) -> Part:
    """A box that spans the three intervals."""
    size = x[1] - x[0], y[1] - y[0], z[1] - z[0]
    return Part(Box(size), ((x[0] + x[1]) / 2, (y[0] + y[1]) / 2, (z[0] + z[1]) / 2))


def beam(start: Vector, stop: Vector, width: float, depth: float) -> Part:
    """A box from ``start`` to ``stop``, ``width`` by ``depth`` across."""
    length, center, rotation = _between(start, stop)
    return Part(Box((width, length, depth)), center, rotation)


def rod(start: Vector, stop: Vector, radius: float, end_radius: float | None = None) -> Part:
    """A cylinder from ``start`` to ``stop``, or a frustum where ``end_radius`` differs."""
    length, center, rotation = _between(start, stop)
    far = radius if end_radius is None else end_radius
    profile = [(0.0, -length / 2), (radius, -length / 2), (far, length / 2), (0.0, length / 2)]
    return Part(Revolution(np.array(profile)), center, rotation)


def shell(profile: Sequence[tuple[float, float]], wall: float) -> Revolution:
    """A vessel: an open profile of (radius, y) from its foot to its rim, with a floor and a wall ``wall`` thick."""
    outer = np.array(profile)
    inner = np.maximum(outer - (wall, 0), 0)
    inner[0, 1] += wall
    return Revolution(np.concatenate([outer, inner[::-1], [(0.0, inner[0, 1]), (0.0, outer[0, 1])]]))


def ring(radius: float, tube: float, angle: float = 2 * math.pi, stretch: float = 1.0) -> Revolution:
    """A torus about the y axis or an arc of one, ``tube`` in radius (times ``stretch`` along y)."""
    around = np.linspace(0, 2 * math.pi, 12, endpoint=False)
    return Revolution(np.stack([radius + tube * np.cos(around), tube * stretch * np.sin(around)], axis=1), angle)


def turn(axis: Literal["x", "y", "z"], angle: float) -> Points:
    """The rotation about the axis ``x``, ``y`` or ``z`` by ``angle`` radians, right-handed, (3, 3)."""
    c, s = math.cos(angle), math.sin(angle)
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    rotation = np.eye(3)
    rotation[first, first], rotation[first, second] = c, -s
    rotation[second, first], rotation[second, second] = s, c
    return rotation


def polygon_area(polygon: Points) -> float:
    """The area within ``polygon`` (m, 2), whichever way round."""
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def in_polygon(polygon: Points, points: Points) -> Mask:
    """Which of ``points`` (n, 2) a ray to the right takes across ``polygon`` (m, 2) an odd number of times, (n,)."""
    x, y = points.T
    inside = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(polygon.tolist(), np.roll(polygon, -1, axis=0).tolist(), strict=True):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * ((x1 - x0) / (y1 - y0)))
    return inside


def fill_polygon(polygon: Points, count: int, rng: np.random.Generator) -> Points:
    """Draw ``count`` points uniform within ``polygon`` (m, 2), (count, 2)."""
    low, size = polygon.min(axis=0), np.ptp(polygon, axis=0)

    def propose(number: int) -> Points:
        points: Points = low + rng.random((number, 2)) * size
        return points[in_polygon(polygon, points)]

    return collect(propose, count, polygon_area(polygon) / float(size.prod()))


def collect(propose: Callable[[int], Points], count: int, rate: float) -> Points:
    """Ask for proposals until ``count`` are accepted; ``rate`` is the share expected to be."""
    kept = propose(int(1.1 * count / rate) + 8)
    while len(kept) < count:
        kept = np.concatenate([kept, propose(int(1.2 * (count - len(kept)) / rate) + 8)])
    return kept[:count]


def _pick(weights: Points, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Draw ``count`` indices in proportion to ``weights``; an index of weight zero never."""
    bounds = np.cumsum(weights)
    index: NDArray[np.intp] = np.searchsorted(bounds, rng.random(count) * bounds[-1], side="right")
    return index


def _between(start: Vector, stop: Vector) -> tuple[float, Vector, Points]:
    """Length and middle of a segment, and the rotation that takes the y axis along it and keeps x level if it can."""
    delta = np.subtract(stop, start)
    length = math.sqrt(float(delta @ delta))
    y = delta / length
    side = np.array((1.0, 0.0, 0.0)) if abs(y[0]) < 0.9 else np.array((0.0, 0.0, -1.0))
    x = side - (side @ y) * y
    x /= math.sqrt(float(x @ x))
    z = (x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0])
    middle = (start[0] + stop[0]) / 2, (start[1] + stop[1]) / 2, (start[2] + stop[2]) / 2
    return length, middle, np.stack([x, y, z], axis=1)
