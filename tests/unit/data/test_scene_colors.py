"""Changes of a scene's colors, against their definitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from geopeft_cli.data import scene_colors as changes
from geopeft_cli.data.scenes import Float32, Scene


@pytest.fixture
def scene() -> Scene:
    rng = np.random.default_rng(0)
    colors = rng.integers((10, 50, 0), (240, 90, 256), (500, 3)).astype(np.float32)
    return Scene("scene", rng.random((500, 3)).astype(np.float32), np.zeros(500, dtype=np.int64), colors)


def colors_of(scene: Scene) -> Float32:
    assert scene.colors is not None
    return scene.colors


def generator() -> np.random.Generator:
    return np.random.default_rng(3)


def test_full_contrast_stretches_every_channel(scene: Scene) -> None:
    stretched = colors_of(changes.chromatic_contrast(scene, generator(), 1, blend=1))
    assert np.allclose(stretched.min(axis=0), 0, atol=1e-4)
    assert np.allclose(stretched.max(axis=0), 255, atol=1e-4)
    half = colors_of(changes.chromatic_contrast(scene, generator(), 1, blend=0.5))
    assert np.allclose(half, (colors_of(scene) + stretched) / 2, atol=1e-3)


def test_contrast_of_flat_channels(scene: Scene) -> None:
    colors = colors_of(scene).copy()
    colors[:, 1] = 60
    changed = colors_of(changes.chromatic_contrast(replace(scene, colors=colors), generator(), 1, blend=1))
    assert np.allclose(changed[:, 1], 0)
    flat = replace(scene, colors=np.full_like(colors, 60))
    assert changes.chromatic_contrast(flat, generator(), 1, blend=1) is flat


def test_translation_is_one_shift_for_all_points(scene: Scene) -> None:
    moved = colors_of(changes.chromatic_translation(scene, generator(), 1, ratio=0.1))
    shift = moved - colors_of(scene)
    inside = (moved > 0) & (moved < 255)
    for channel in range(3):
        own = shift[inside[:, channel], channel]
        assert np.ptp(own) < 1e-4
        assert 0 < abs(own[0]) <= 25.5
    assert moved.min() >= 0
    assert moved.max() <= 255


def test_jitter_is_of_every_point(scene: Scene) -> None:
    moved = colors_of(changes.chromatic_jitter(scene, generator(), 1, deviation=0.02))
    moves = (moved - colors_of(scene))[:, 1]
    assert moves.std() == pytest.approx(0.02 * 255, rel=0.15)
    assert moved.min() >= 0
    assert moved.max() <= 255


@pytest.mark.parametrize(
    "change", [changes.chromatic_contrast, changes.chromatic_translation, changes.chromatic_jitter]
)
def test_chance_and_absent_colors(scene: Scene, change: Callable[..., Scene]) -> None:
    assert change(scene, generator(), 0) is scene
    assert change(scene, generator(), 1) is not scene
    bare = replace(scene, colors=None)
    one, other = generator(), generator()
    assert change(bare, one, 1) is bare
    change(scene, other, 1)
    assert one.random() == other.random()


def test_normalized_colors(scene: Scene) -> None:
    assert np.allclose(colors_of(changes.normalize_colors(scene)), colors_of(scene) / 255)
