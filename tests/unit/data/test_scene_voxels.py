"""Grid sampling of scenes, against its definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geopeft_cli.data.scene_voxels import fragments, grid_sample, voxel_table
from geopeft_cli.data.scenes import Scene
from geopeft_cli.errors import DataError, UsageError

SIZE = 0.5


@pytest.fixture
def scene() -> Scene:
    rng = np.random.default_rng(0)
    return Scene("scene", rng.uniform(-2, 2, (800, 3)).astype(np.float32), rng.integers(0, 4, 800))


def expected_voxels(scene: Scene) -> np.ndarray:
    steps = np.floor(scene.coordinates.astype(np.float64) / SIZE).astype(int)
    return np.asarray(steps - steps.min(axis=0))


def fnv(voxel: list[int]) -> int:
    key = 14695981039346656037
    for number in voxel:
        key = key * 1099511628211 % 2**64 ^ number
    return key


@pytest.mark.parametrize("spread", [1, 5000])
def test_voxels_are_in_the_order_of_their_hashes(scene: Scene, spread: int) -> None:
    sample = grid_sample(replace(scene, coordinates=spread * scene.coordinates), None, SIZE).scene
    assert sample.voxels is not None
    hashes = [fnv(voxel) for voxel in sample.voxels.tolist()]
    assert hashes == sorted(hashes)
    raveled = grid_sample(replace(scene, coordinates=spread * scene.coordinates), None, SIZE, "ravel").scene.voxels
    assert raveled is not None
    assert raveled.tolist() == sorted(sample.voxels.tolist())


@pytest.mark.parametrize("seed", [None, 3])
def test_one_point_a_voxel(scene: Scene, seed: int | None) -> None:
    voxels = expected_voxels(scene)
    generator = None if seed is None else np.random.default_rng(seed)
    sample, inverse = grid_sample(scene, generator, SIZE)
    assert len(sample) == len(np.unique(voxels, axis=0))
    assert sample.rows is not None
    assert sample.voxels is not None
    assert np.array_equal(sample.voxels, voxels[sample.rows])
    assert np.array_equal(sample.coordinates, scene.coordinates[sample.rows])
    assert np.array_equal(sample.labels, scene.labels[sample.rows])
    assert np.array_equal(sample.voxels[inverse], voxels)


def test_evaluation_takes_the_first_and_training_any_point(scene: Scene) -> None:
    voxels = expected_voxels(scene)
    _, first = np.unique(voxels, axis=0, return_index=True)
    rows = grid_sample(scene, None, SIZE).scene.rows
    assert rows is not None
    assert sorted(rows) == sorted(first)
    rng, crowded = np.random.default_rng(0), Scene("one", np.zeros((4, 3)), np.zeros(4, dtype=np.int64))
    picks = [int(grid_sample(crowded, rng, SIZE).scene.rows[0]) for _ in range(400)]  # type: ignore[index]
    assert np.bincount(picks, minlength=4).min() > 70


def test_fragments_cover_every_point(scene: Scene) -> None:
    voxels = expected_voxels(scene)
    counts = np.unique(voxels, axis=0, return_counts=True)[1]
    pieces = list(fragments(scene, SIZE))
    assert len(pieces) == counts.max()
    rows = [piece.rows for piece in pieces]
    assert set(np.concatenate(rows).tolist()) == set(range(len(scene)))  # type: ignore[arg-type]
    for piece in pieces:
        assert piece.voxels is not None
        assert len(np.unique(piece.voxels, axis=0)) == len(piece) == len(counts)
    for voxel in np.unique(voxels, axis=0):
        own = np.flatnonzero((voxels == voxel).all(axis=1))
        taken = [np.intersect1d(piece, own).tolist() for piece in rows]  # type: ignore[arg-type]
        assert taken == [[own[number % len(own)]] for number in range(len(pieces))]


def test_points_that_have_to_be_kept_are(scene: Scene) -> None:
    kept = np.zeros(len(scene), dtype=bool)
    kept[100:140] = True
    sample, inverse = grid_sample(replace(scene, kept=kept), np.random.default_rng(0), SIZE)
    assert sample.rows is not None
    assert sample.voxels is not None
    assert set(range(100, 140)) <= set(sample.rows.tolist())
    assert (np.diff(sample.rows) > 0).all()
    assert np.array_equal(sample.voxels[inverse], expected_voxels(scene))


def test_far_away_scenes_keep_their_voxels(scene: Scene) -> None:
    near = scene.coordinates.astype(np.float64)
    far = voxel_table(near + np.array([524288.0, 5242880.0, 0.0]), SIZE)
    assert np.array_equal(far.voxels, voxel_table(near, SIZE).voxels)


def test_mistakes(scene: Scene) -> None:
    with pytest.raises(UsageError, match="grid size 0"):
        voxel_table(scene.coordinates, 0)
    with pytest.raises(DataError, match="too large"):
        voxel_table(scene.coordinates, 1e-7)
