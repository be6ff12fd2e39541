"""From a room's geometry to points: its surfaces sampled, and what scanners on tripods get of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geopeft_cli.data.room_geometry import CLASSES, Panel, Piece, Room
from geopeft_cli.data.scenes import Int64
from geopeft_cli.data.solid_normals import part_normals
from geopeft_cli.data.solids import Mask, Points

_PIXEL = 0.02
"""Of a scanner's depth buffer, radians."""

NOISE = 3.0
"""Standard deviations at which noise is cut off."""


@dataclass(frozen=True)
class Surface:
    """Points on surfaces, a row each: where they are (n, 3), which way they face (n, 3), color (n, 3), label (n,)."""

    points: Points
    normals: Points
    colors: Points
    labels: Int64

    def __len__(self) -> int:
        return len(self.points)

    def take(self, index: Int64 | Mask) -> Surface:
        return Surface(self.points[index], self.normals[index], self.colors[index], self.labels[index])


def surface_of(room: Room, count: int, rng: np.random.Generator) -> Surface:
    """About ``count`` points uniform by area on the surfaces of a room that can be seen from somewhere."""
    areas = [float(np.linalg.norm(np.cross(*panel.edges))) for panel in room.panels]
    areas += [sum(part.area for part in piece.parts) * piece.scale**2 for piece in room.pieces]
    shares = rng.multinomial(count, np.array(areas) / sum(areas)).tolist()
    walls = [_of_panel(panel, share, rng) for panel, share in zip(room.panels, shares, strict=False)]
    things = [
        _inside(room, _of_piece(piece, share, rng))
        for piece, share in zip(room.pieces, shares[len(room.panels) :], strict=True)
    ]
    pieces = [*walls, *things]
    points, normals, colors = (
        np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("points", "normals", "colors")
    )
    return Surface(points, normals, colors, np.concatenate([piece.labels for piece in pieces]))


def _inside(room: Room, surface: Surface) -> Surface:
    inside: Mask = np.asarray(((surface.points >= 0) & (surface.points <= room.size)).all(axis=1))
    return surface.take(inside)


def _of_panel(panel: Panel, count: int, rng: np.random.Generator) -> Surface:
    lengths = np.linalg.norm(panel.edges, axis=1)
    flat = rng.random((count, 2)) * lengths
    points = panel.corner + flat / lengths @ panel.edges
    boards = np.sign(np.sin(9 * flat[:, :1]))
    colors = panel.color * (1 + 0.06 * boards if panel.label == CLASSES.index("floor") else np.ones_like(boards))
    labels = np.full(count, panel.label, dtype=np.int64)
    seen = np.ones(count, dtype=bool)
    for opening in panel.openings:
        inside = ((flat > opening.low) & (flat < opening.high)).all(axis=1)
        points[inside] -= opening.depth * panel.normal
        colors[inside], labels[inside] = opening.color, opening.label
        seen &= ~inside | (rng.random(count) < opening.seen)
    return Surface(points, np.tile(panel.normal, (count, 1)), colors, labels).take(seen)


def _of_piece(piece: Piece, count: int, rng: np.random.Generator) -> Surface:
    areas = np.array([part.area for part in piece.parts])
    shares = rng.multinomial(count, areas / areas.sum())
    clouds = [part.sample(int(share), rng) for part, share in zip(piece.parts, shares, strict=True)]
    normals = [part_normals(part, cloud) for part, cloud in zip(piece.parts, clouds, strict=True)]
    points, owner = np.concatenate(clouds), np.repeat(np.arange(len(areas)), shares)
    outside = np.ones(len(points), dtype=bool)
    for index, part in enumerate(piece.parts):
        outside &= (owner == index) | ~part.contains(points)
    labels = np.full(len(points), piece.label, dtype=np.int64)
    turned = np.concatenate(normals) @ piece.rotation.T
    return Surface(piece.put(points), turned, piece.colors[owner], labels).take(outside)


def eyes_in(room: Room, count: int, rng: np.random.Generator) -> Points:
    """Where scanners stand, (count, 3): 1.2 to 1.8 m high and, if there is a place, not where furniture is."""
    low, high = np.array((0.3, 0.3, 1.2)), np.array((room.size[0] - 0.3, room.size[1] - 0.3, 1.8))
    eyes = []
    for _ in range(count):
        places = rng.uniform(low, high, (32, 3))
        free = np.ones(len(places), dtype=bool)
        for box in room.taken:
            free &= ((places[:, :2] < box[0] - 0.1) | (places[:, :2] > box[1] + 0.1)).any(axis=1)
        eyes.append(places[free.argmax()])
    return np.stack(eyes)


def density_from(surface: Surface, eye: Points) -> Points:
    """How many points a scanner at ``eye`` (3,) gets of each place, up to a factor, (n,); 0 of what it does not see.

    A scanner turns by equal angles: a surface gets points by the solid angle that it fills, cos(incidence) over the
    squared distance. What stands behind is found with a depth buffer of all directions.
    """
    ray = surface.points - eye
    distance = np.sqrt(np.einsum("ij,ij->i", ray, ray))
    cosine = -np.einsum("ij,ij->i", ray, surface.normals) / np.maximum(distance, 1e-9)
    density = np.zeros(len(surface))
    facing = np.flatnonzero(cosine > 0)
    ray, distance, cosine = ray[facing], distance[facing], cosine[facing]
    row = ((np.arcsin(np.clip(ray[:, 2] / distance, -1, 1)) + np.pi / 2) / _PIXEL).astype(np.int64)
    around = np.arctan2(ray[:, 1], ray[:, 0]) + np.pi
    # rows near the poles have fewer pixels, so that all are about square
    width = np.maximum(np.cos((row + 0.5) * _PIXEL - np.pi / 2), _PIXEL)
    pixel = row * (int(2 * np.pi / _PIXEL) + 2) + (around * width / _PIXEL).astype(np.int64)
    nearest = np.full(pixel.max(initial=0) + 1, np.inf)
    np.minimum.at(nearest, pixel, distance)
    # as much as the surface may recede within a pixel
    slack = _PIXEL * distance * (0.5 + 1 / np.maximum(cosine, 0.15))
    seen = distance < nearest[pixel] + slack
    density[facing[seen]] = (cosine / np.maximum(distance, 0.5) ** 2)[seen]
    return density


def with_noise(surface: Surface, eyes: Points, rng: np.random.Generator) -> Surface:
    """Points as measured from the nearest of ``eyes`` (m, 3), and colors as a camera shows them.

    Along the ray, errors grow with the distance; across it and in the normals they do not. Each scanner has an
    exposure of its own, and light comes from above.
    """
    count = len(surface)
    rays = surface.points[:, None] - eyes
    distances = np.linalg.norm(rays, axis=2)
    nearest = distances.argmin(axis=1)
    rows = np.arange(count)
    distance = distances[rows, nearest][:, None]
    ray = rays[rows, nearest] / np.maximum(distance, 1e-9)
    along = rng.uniform(0.001, 0.003) * distance * rng.normal(size=(count, 1)).clip(-NOISE, NOISE)
    points = surface.points + along * ray + 0.001 * rng.normal(size=(count, 3)).clip(-NOISE, NOISE)
    normals = surface.normals + 0.05 * rng.normal(size=(count, 3)).clip(-NOISE, NOISE)
    exposure = rng.uniform(0.8, 1.15, len(eyes))[nearest][:, None]
    colors = surface.colors * exposure + rng.normal(0, 8, (count, 3))
    return Surface(points, normals / np.linalg.norm(normals, axis=1, keepdims=True), colors, surface.labels)


def lit(surface: Surface, rng: np.random.Generator) -> Surface:
    """Colors as of a room with light from a direction above, rounded to whole numbers 0 to 255."""
    light = np.array([*rng.uniform(-0.6, 0.6, 2), 1.0])
    shade = 0.75 + 0.25 * surface.normals @ (light / np.linalg.norm(light))
    colors = np.round((surface.colors * shade[:, None]).clip(0, 255))
    return Surface(surface.points, surface.normals, colors, surface.labels)


def weighted_choice(weights: Points, count: int, rng: np.random.Generator) -> Int64:
    """Indices of ``count`` places drawn without repetition in proportion to ``weights`` (Efraimidis & Spirakis, 2006).

    Places of weight 0 are not drawn; fewer come back where there are fewer others.
    """
    able = np.flatnonzero(weights > 0)
    wait = rng.exponential(size=len(able)) / weights[able]
    if len(able) > count:
        able = able[np.argpartition(wait, count)[:count]]
    return rng.permutation(able)
