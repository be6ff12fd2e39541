"""Which way the surface of a parametric solid faces at points on it."""

from __future__ import annotations

import math
from functools import singledispatch

import numpy as np

from geopeft_cli.data.solids import Box, Ellipsoid, Mask, Part, Points, Prism, Revolution, Solid

_ON = 1e-9


def part_normals(part: Part, points: Points) -> Points:
    """Outward unit normals (n, 3) of a solid in its place, at points (n, 3) of its surface."""
    local = points - part.center
    if part.rotation is None:
        normals: Points = outward_normals(part.solid, local)
    else:
        normals = outward_normals(part.solid, local @ part.rotation) @ part.rotation.T
    return normals


@singledispatch
def outward_normals(solid: Solid, points: Points) -> Points:
    """Outward unit normals (n, 3) of a solid in its own coordinates, at points (n, 3) of its surface.

    Raises:
        TypeError: the solid is of a kind that is not known here.
    """
    raise TypeError(f"no normals of {type(solid).__name__}")


@outward_normals.register
def _(solid: Box, points: Points) -> Points:
    axis = (np.abs(points) - np.array(solid.size) / 2).argmax(axis=1)
    rows = np.arange(len(points))
    normals = np.zeros_like(points)
    normals[rows, axis] = np.where(points[rows, axis] < 0, -1.0, 1.0)
    return normals


@outward_normals.register
def _(solid: Ellipsoid, points: Points) -> Points:
    slopes = points * np.array(solid.radii) ** -2.0
    normals: Points = slopes / np.linalg.norm(slopes, axis=1, keepdims=True)
    return normals


@outward_normals.register
def _(solid: Revolution, points: Points) -> Points:
    x, y, z = points.T
    around = np.arctan2(z, x)
    cos, sin = np.cos(around), np.sin(around)
    # edges on the axis make no surface
    on_axis = (solid.profile[:, 0] == 0) & (np.roll(solid.profile[:, 0], -1) == 0)
    flat = _edge_normals(solid.profile, np.stack([np.hypot(x, z), y], axis=1), ~on_axis)
    normals = np.stack([flat[:, 0] * cos, flat[:, 1], flat[:, 0] * sin], axis=1)
    if solid.angle < 2 * math.pi:
        ends = np.abs(np.abs(around) - solid.angle / 2) < _ON
        along = np.stack([-sin, np.zeros_like(sin), cos], axis=1) * np.sign(around)[:, None]
        normals[ends] = along[ends]
    return normals


@outward_normals.register
def _(solid: Prism, points: Points) -> Points:
    normals = np.zeros_like(points)
    normals[:, :2] = _edge_normals(solid.profile, points[:, :2], np.ones(len(solid.profile), dtype=bool))
    faces = np.abs(np.abs(points[:, 2]) - solid.depth / 2) < _ON
    normals[faces] = np.sign(points[faces]) * (0, 0, 1)
    return normals


def _edge_normals(polygon: Points, points: Points, real: Mask) -> Points:
    """The outward normals (n, 2) of those ``real`` edges of ``polygon`` (m, 2) nearest to ``points`` (n, 2)."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    lengths = np.hypot(*edges.T)
    real = real & (lengths > _ON)
    starts, edges, lengths = polygon[real], edges[real], lengths[real]
    x, y = polygon.T
    twice_area = x @ np.roll(y, -1) - y @ np.roll(x, -1)
    normals = np.sign(twice_area) * np.stack([edges[:, 1], -edges[:, 0]], axis=1) / lengths[:, None]
    nearest = np.zeros(len(points), dtype=np.intp)
    least = np.full(len(points), np.inf)
    for index, (start, edge, length) in enumerate(zip(starts, edges, lengths, strict=True)):
        apart = points - start
        share = np.clip(apart @ edge / length**2, 0, 1)
        distance = ((apart - share[:, None] * edge) ** 2).sum(axis=1)
        closer = distance < least
        nearest[closer], least[closer] = index, distance[closer]
    found: Points = normals[nearest]
    return found
