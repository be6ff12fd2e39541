"""Named changes of a scene's colors, as Pointcept's recipes for scenes apply them.

Colors are 0 to 255 until ``normalize_colors``. A scene without colors comes back as it is, after the same draws.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from geopeft_cli.data.scenes import Scene


def chromatic_contrast(
    scene: Scene, generator: np.random.Generator, probability: float = 0.2, blend: float | None = None
) -> Scene:
    """Blend each channel with itself stretched to 0 to 255; the share is ``blend``, or U(0, 1).

    c becomes (1 - b) c + b (c - low) 255 / (high - low), with the extremes of the channel over the scene; where they
    are the same, the factor is 1, and a scene of one color stays as it is.
    """
    happens, share = generator.random() < probability, generator.random()
    if not happens or scene.colors is None:
        return scene
    share = share if blend is None else blend
    low, high = scene.colors.min(axis=0), scene.colors.max(axis=0)
    if bool((low == high).all()):
        return scene
    factor = 255 / np.where(high > low, high - low, 255)
    colors = (1 - share) * scene.colors + share * (scene.colors - low) * factor
    return replace(scene, colors=colors.astype(np.float32))


def chromatic_translation(
    scene: Scene, generator: np.random.Generator, probability: float = 0.95, ratio: float = 0.05
) -> Scene:
    """Add U(-1, 1) 255 ``ratio`` to each channel, the same for all points, and cut off at 0 and 255."""
    happens, shift = generator.random() < probability, generator.uniform(-1, 1, 3) * 255 * ratio
    return _added(scene, shift) if happens else scene


def chromatic_jitter(
    scene: Scene, generator: np.random.Generator, probability: float = 0.95, deviation: float = 0.05
) -> Scene:
    """Add N(0, 1) 255 ``deviation`` to each channel of each point, and cut off at 0 and 255."""
    happens, noise = generator.random() < probability, generator.standard_normal((len(scene), 3))
    return _added(scene, 255 * deviation * noise) if happens else scene


def normalize_colors(scene: Scene) -> Scene:
    """Divide by 255."""
    return scene if scene.colors is None else replace(scene, colors=scene.colors / np.float32(255))


def _added(scene: Scene, change: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Scene:
    if scene.colors is None:
        return scene
    return replace(scene, colors=(scene.colors + change).clip(0, 255).astype(np.float32))
