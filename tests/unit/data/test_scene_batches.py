"""Packing samples of scenes, and mixing them in pairs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from geopeft_cli.data.scene_batches import LIDAR_FEATURES, PTV3_FEATURES, SceneBatch, feature_width, mix3d, packed
from geopeft_cli.data.scene_voxels import grid_sample, voxel_table
from geopeft_cli.data.scenes import Scene
from geopeft_cli.errors import UsageError

GRID = 0.2


def sample(name: str, points: int) -> Scene:
    rng = np.random.default_rng(points)
    arrays = rng.random((3, points, 3)).astype(np.float32)
    scene = Scene(name, arrays[0] - 0.5, rng.integers(0, 3, points), arrays[1], arrays[2])
    return grid_sample(scene, None, GRID).scene


@pytest.fixture(params=[1, 2, 3, 4])
def samples(request: pytest.FixtureRequest) -> list[Scene]:
    return [sample(name, 20 + 10 * at) for at, name in enumerate("abcd"[: request.param])]


def test_packing(samples: list[Scene]) -> None:
    batch = packed(samples)
    bounds = batch.scenes.offsets.tolist()
    assert bounds == np.cumsum([0, *map(len, samples)]).tolist()
    assert batch.names == tuple(scene.name for scene in samples)
    for scene, low, high in zip(samples, bounds, bounds[1:], strict=False):
        assert np.array_equal(batch.scenes.coordinates[low:high], scene.coordinates)
        assert np.array_equal(batch.scenes.voxels[low:high], scene.voxels)
        assert np.array_equal(batch.labels[low:high], scene.labels)
        expected = np.concatenate([scene.coordinates, scene.colors, scene.normals], axis=1)
        assert np.array_equal(batch.scenes.features[low:high], expected)
    kinds = [
        tensor.dtype
        for tensor in (
            batch.scenes.coordinates,
            batch.scenes.features,
            batch.scenes.voxels,
            batch.labels,
            batch.scenes.offsets,
        )
    ]
    assert kinds == [torch.float32] * 2 + [torch.int64] * 3


def test_features() -> None:
    assert feature_width(PTV3_FEATURES) == 6
    assert packed([sample("a", 9)], PTV3_FEATURES).scenes.features.shape[1] == 6
    with pytest.raises(UsageError, match="scene a has no strength"):
        packed([sample("a", 9)], LIDAR_FEATURES)
    with pytest.raises(UsageError, match="unknown 'heat'"):
        feature_width(["heat"])


def test_what_cannot_be_packed() -> None:
    with pytest.raises(UsageError, match="no scenes"):
        packed([])
    with pytest.raises(UsageError, match="without voxels"):
        packed([sample("a", 9), replace(sample("b", 9), voxels=None)])


def mixed(batch: SceneBatch, grid: float | None = None) -> SceneBatch:
    return mix3d(batch, np.random.default_rng(0), 1.0, grid)


def test_pairs_become_one_scene(samples: list[Scene]) -> None:
    batch = packed(samples)
    bounds = batch.scenes.offsets.tolist()
    expected = {1: bounds, 2: [0, bounds[2]] if len(bounds) > 2 else None}.get(len(samples))
    if expected is None:
        expected = [0, bounds[2], bounds[-1]]
    together = mixed(batch)
    assert together.scenes.offsets.tolist() == expected
    assert together.labels is batch.labels
    for name in ("coordinates", "voxels", "features"):
        assert getattr(together.scenes, name) is getattr(batch.scenes, name)


def test_voxels_of_mixed_scenes_counted_anew(samples: list[Scene]) -> None:
    batch = mixed(packed(samples), GRID)
    bounds = batch.scenes.offsets.tolist()
    if len(samples) > 1:
        for low, high in pairwise(bounds):
            assert np.array_equal(
                batch.scenes.voxels[low:high], voxel_table(batch.scenes.coordinates[low:high].numpy(), GRID).voxels
            )


def test_chance_of_mixing() -> None:
    batch = packed([sample("a", 9), sample("b", 9)])
    rng = np.random.default_rng(0)
    times = sum(mix3d(batch, rng, 0.8) is not batch for _ in range(200))
    assert 140 < times < 180
