"""Leaving out points of a scene, against the definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geopeft_cli.data.scene_subsets import random_dropout, sphere_crop
from geopeft_cli.data.scenes import Scene
from geopeft_cli.errors import UsageError


@pytest.fixture
def scene() -> Scene:
    rng = np.random.default_rng(0)
    return Scene("scene", rng.random((103, 3)).astype(np.float32), np.zeros(103, dtype=np.int64))


def test_dropout_keeps_a_share_without_repetition(scene: Scene) -> None:
    left = random_dropout(scene, np.random.default_rng(0), 0.2, probability=1)
    assert left.rows is not None
    assert len(left) == len(set(left.rows.tolist())) == 82
    assert random_dropout(scene, np.random.default_rng(0), 0.2, probability=0) is scene
    assert len(random_dropout(scene.take(np.array([0])), np.random.default_rng(0), 0.9, probability=1)) == 1


def test_dropout_spares_what_has_to_be_kept(scene: Scene) -> None:
    kept = np.arange(103) % 10 == 0
    left = random_dropout(replace(scene, kept=kept), np.random.default_rng(0), 0.9, probability=1)
    assert left.rows is not None
    assert left.kept is not None
    assert left.kept.sum() == 11
    assert (np.diff(left.rows) > 0).all()
    assert 11 < len(left) <= 21


def test_crop_keeps_the_nearest_points_nearest_first(scene: Scene) -> None:
    crop = sphere_crop(scene, np.random.default_rng(0), most=30)
    distances = np.linalg.norm(scene.coordinates - crop.coordinates[0], axis=1)
    assert crop.rows is not None
    assert np.allclose(distances[crop.rows], np.sort(distances)[:30])
    others = np.delete(distances, crop.rows)
    assert others.min() >= distances[crop.rows].max()


def test_crop_by_share_and_of_small_scenes(scene: Scene) -> None:
    assert len(sphere_crop(scene, np.random.default_rng(0), share=0.6)) == 61
    assert len(sphere_crop(scene, np.random.default_rng(0), share=0.001)) == 1
    assert sphere_crop(scene, np.random.default_rng(0), most=103) is scene


@pytest.mark.parametrize("wrong", [{}, {"most": 3, "share": 0.5}, {"most": 0}, {"share": 0.0}])
def test_mistakes(scene: Scene, wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="sphere_crop"):
        sphere_crop(scene, np.random.default_rng(0), **wrong)  # type: ignore[arg-type]
