"""Named changes of where the points of a scene are, as Pointcept's recipes for scenes apply them.

Every function takes a scene and gives a new one; those that draw take a generator second. A change happens with
``probability``, and draws either way. z is up, lengths are in meters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from geopeft_cli.data.scenes import Floats, Scene
from geopeft_cli.data.solids import turn
from geopeft_cli.errors import DataError

Axis = Literal["x", "y", "z"]

_MOST_NODES = 2**26


def center_shift(scene: Scene, vertical: bool = True) -> Scene:
    """Put the middle of the scene's box at x = y = 0, and with ``vertical`` its lowest point at z = 0."""
    low, high = scene.coordinates.min(axis=0), scene.coordinates.max(axis=0)
    x, y, _ = (low.astype(np.float64) + high) / 2
    moved = scene.coordinates - np.array([x, y, low[2] if vertical else 0.0])
    # survey coordinates are small enough for float32 only from here on
    return replace(scene, coordinates=moved.astype(np.float32))


def random_rotate(
    scene: Scene,
    generator: np.random.Generator,
    axis: Axis = "z",
    half_turns: tuple[float, float] = (-1.0, 1.0),
    center: tuple[float, float, float] | None = None,
    probability: float = 0.5,
) -> Scene:
    """Turn by pi U(a, b) about an axis through ``center``, by default the middle of the scene's box; normals too."""
    happens, angle = generator.random() < probability, np.pi * generator.uniform(*half_turns)
    return rotated(scene, axis, angle, center) if happens else scene


def random_quarter_turn(
    scene: Scene,
    generator: np.random.Generator,
    half_turns: Sequence[float] = (0.0, 0.5, 1.0, 1.5),
    axis: Axis = "z",
    center: tuple[float, float, float] | None = None,
    probability: float = 0.75,
) -> Scene:
    """Turn by pi times one of ``half_turns``, as ``random_rotate`` does otherwise."""
    happens, angle = generator.random() < probability, np.pi * half_turns[int(generator.integers(len(half_turns)))]
    return rotated(scene, axis, angle, center) if happens else scene


def rotated(scene: Scene, axis: Axis, angle: float, center: tuple[float, float, float] | None = None) -> Scene:
    """Turn by ``angle`` radians, right-handed, about an axis through ``center``, or through the middle of the box."""
    rotation, kind = turn(axis, angle), scene.coordinates.dtype
    middle = _middle(scene.coordinates) if center is None else np.array(center)
    coordinates = (scene.coordinates - middle) @ rotation.T + middle
    normals = None if scene.normals is None else (scene.normals @ rotation.T).astype(np.float32)
    return replace(scene, coordinates=coordinates.astype(kind), normals=normals)


def random_scale(scene: Scene, generator: np.random.Generator, low: float = 0.9, high: float = 1.1) -> Scene:
    """Multiply all coordinates by one U(low, high)."""
    return scaled(scene, generator.uniform(low, high))


def scaled(scene: Scene, factor: float) -> Scene:
    """Multiply all coordinates by ``factor``."""
    return replace(scene, coordinates=scene.coordinates * scene.coordinates.dtype.type(factor))


def random_flip(scene: Scene, generator: np.random.Generator, probability: float = 0.5) -> Scene:
    """Mirror x with ``probability``, and on a draw of its own y; normals too."""
    x, y = generator.random(2) < probability
    return mirrored(scene, x=bool(x), y=bool(y))


def mirrored(scene: Scene, x: bool, y: bool) -> Scene:
    """Change the sign of x, of y, or of both; normals too."""
    signs = np.array([-1 if x else 1, -1 if y else 1, 1], dtype=np.float32)
    normals = None if scene.normals is None else scene.normals * signs
    return replace(scene, coordinates=scene.coordinates * signs, normals=normals)


def random_jitter(scene: Scene, generator: np.random.Generator, deviation: float = 0.005, limit: float = 0.02) -> Scene:
    """Move every point by ``deviation`` N(0, 1) per axis, cut off at ``limit``."""
    moves = (deviation * generator.standard_normal((len(scene), 3))).clip(-limit, limit)
    return replace(scene, coordinates=scene.coordinates + moves.astype(scene.coordinates.dtype))


def point_clip(scene: Scene, low: Sequence[float], high: Sequence[float]) -> Scene:
    """Move what is outside a box onto its faces; no point is removed."""
    clamped = scene.coordinates.clip(np.array(low), np.array(high)).astype(scene.coordinates.dtype)
    return replace(scene, coordinates=clamped)


def elastic_distortion(
    scene: Scene,
    generator: np.random.Generator,
    waves: Sequence[tuple[float, float]] = ((0.2, 0.4), (0.8, 1.6)),
    probability: float = 0.95,
) -> Scene:
    """Bend the scene by smooth noise, for each (granularity, magnitude) of ``waves`` in turn; not the normals.

    Noise N(0, 1) on a grid of nodes ``granularity`` meters apart is smoothed twice with a box of three nodes along x, y
    and z, and ``magnitude`` times its trilinear interpolation moves the points (Choy et al., CVPR 2019, in their code).

    Raises:
        DataError: the scene is too wide for a grid in memory.
    """
    if generator.random() >= probability:
        return scene
    coordinates = scene.coordinates.astype(np.float64)
    for granularity, magnitude in waves:
        low = coordinates.min(axis=0)
        extent = coordinates.max(axis=0) - low
        nodes = np.floor(extent / granularity).astype(np.int64) + 3
        if np.prod(nodes.astype(np.float64)) > _MOST_NODES:
            raise DataError(
                f"scene {scene.name} is {' x '.join(f'{length:.4g}' for length in extent)} m, too wide to be bent",
                "If its unit is not the meter, set data.scale; remove outliers, or set data.elastic=false.",
            )
        noise = generator.standard_normal((*nodes, 3), dtype=np.float32)
        for axis in (0, 1, 2) * 2:
            noise = _box_filtered(noise, axis)
        places = (coordinates - low) / granularity + 1
        coordinates = coordinates + magnitude * _interpolated(noise, places)
    return replace(scene, coordinates=coordinates.astype(scene.coordinates.dtype))


def _middle(coordinates: Floats) -> Floats:
    middle: Floats = (coordinates.min(axis=0).astype(np.float64) + coordinates.max(axis=0)) / 2
    return middle


def _box_filtered(noise: Floats, axis: int) -> Floats:
    """The mean of three neighbors along an axis, nodes beyond the edge counting as 0."""
    padded = np.pad(noise, [(int(at == axis), int(at == axis)) for at in range(noise.ndim)])
    size = noise.shape[axis]
    before, own, after = (padded.take(range(start, start + size), axis) for start in range(3))
    filtered: Floats = (before + own + after) / noise.dtype.type(3)
    return filtered


def _interpolated(values: Floats, places: Floats) -> Floats:
    """Trilinear interpolation of values (x, y, z, c) on whole numbers at places (n, 3) inside the grid, (n, c)."""
    lower = np.minimum(np.floor(places).astype(np.int64), np.array(values.shape[:3]) - 2)
    share = places - lower
    result = np.zeros((len(places), values.shape[3]))
    for corner in np.ndindex(2, 2, 2):
        weight = np.where(corner, share, 1 - share).prod(axis=1)
        result += weight[:, None] * values[tuple((lower + corner).T)]
    return result
