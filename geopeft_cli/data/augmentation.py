"""Named random changes of a cloud, as the published fine-tuning recipes apply them.

Every function takes points (n, 3) float32 and a generator, and returns new points (n, 3) float32. Draws are made in
float64 and cast, as the released code does. y is the up axis of the published object sets.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Augmentation = Callable[[Float32, np.random.Generator], Float32]


def scale_translate(points: Float32, generator: np.random.Generator) -> Float32:
    """Scale by U(2/3, 3/2) and shift by U(-0.2, 0.2), both per axis (Point-MAE and most others)."""
    scaled = points * _per_axis(generator, 2 / 3, 3 / 2)
    return scaled + _per_axis(generator, -0.2, 0.2)


def scale_small(points: Float32, generator: np.random.Generator) -> Float32:
    """Scale by U(0.9, 1.1) per axis, without a shift (I2P-MAE on ScanObjectNN)."""
    return points * _per_axis(generator, 0.9, 1.1)


def scale_shift(points: Float32, generator: np.random.Generator) -> Float32:
    """Scale all axes by one U(0.8, 1.25), then shift by U(-0.1, 0.1) per axis (segmentation)."""
    scaled: Float32 = points * np.float32(generator.uniform(0.8, 1.25))
    return scaled + _per_axis(generator, -0.1, 0.1)


def rotate_y(points: Float32, generator: np.random.Generator) -> Float32:
    """Turn about y by U(0, 2 pi) (ReCon, ACT, Mamba3D and PointMamba on ScanObjectNN)."""
    return _turned(points, _turn_y(generator.uniform(0, 2 * np.pi)))


def rotate_y_batch(points: Float32, generator: np.random.Generator) -> Float32:
    """Turn about y by U(-pi, pi), one angle for a whole batch (I2P-MAE on ScanObjectNN)."""
    return _turned(points, _turn_y(generator.uniform(-np.pi, np.pi)).T)


def rotate_z(points: Float32, generator: np.random.Generator) -> Float32:
    """Turn about z by U(0, 2 pi): ``rotate_y`` for scans whose up axis is z. Ours, not published."""
    # rolling rows and columns by one renames the axes x -> y -> z -> x
    return _turned(points, np.roll(_turn_y(generator.uniform(0, 2 * np.pi)), 1, axis=(0, 1)))


def jitter(points: Float32, generator: np.random.Generator) -> Float32:
    """Move every point by N(0, 0.01) per axis, cut off at 0.05. Ours: none of the published recipes has it."""
    return points + generator.normal(0.0, 0.01, points.shape).clip(-0.05, 0.05).astype(np.float32)


def _per_axis(generator: np.random.Generator, low: float, high: float) -> Float32:
    return generator.uniform(low, high, 3).astype(np.float32)


def _turned(points: Float32, rotation: Float32) -> Float32:
    turned: Float32 = points @ rotation
    return turned


def _turn_y(angle: float) -> Float32:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], dtype=np.float32)


AUGMENTATIONS: dict[str, Augmentation] = {
    "scale_translate": scale_translate,
    "scale_small": scale_small,
    "scale_shift": scale_shift,
    "rotate_y": rotate_y,
    "rotate_y_batch": rotate_y_batch,
    "rotate_z": rotate_z,
    "jitter": jitter,
}

ONE_DRAW_PER_BATCH = frozenset({"rotate_y_batch"})
"""Augmentations that give every cloud of a batch the same draw."""
