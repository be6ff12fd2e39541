"""The published orders of changes, on a small room."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geopeft_cli.data import scene_pipelines as pipelines
from geopeft_cli.data.rooms import Rooms
from geopeft_cli.data.scene_motions import rotated
from geopeft_cli.data.scenes import MemoryScenes, Scene


@pytest.fixture(scope="module")
def room() -> Scene:
    return Rooms("clean", "train", 1, 0, 3000)[0]


def test_indoor_samples(room: Scene) -> None:
    pipeline = pipelines.IndoorTraining(grid=0.2, most=500, share=0.9)
    raised = replace(room, coordinates=room.coordinates + np.float32(50))
    sample = pipeline(raised, np.random.default_rng(0))
    assert len(sample) == 500
    assert np.abs(sample.coordinates[:, 2]).max() < 6
    assert sample.voxels is not None
    assert len(np.unique(sample.voxels, axis=0)) == 500
    assert sample.voxels.min() >= 0
    assert sample.colors is not None
    assert 0 <= sample.colors.min() <= sample.colors.max() <= 1
    low, high = sample.coordinates.min(axis=0), sample.coordinates.max(axis=0)
    assert np.allclose((low + high)[:2], 0, atol=1e-5)
    assert sample.rows is not None
    assert np.array_equal(sample.labels, room.labels[sample.rows])


def test_samples_depend_on_seed_epoch_and_index_alone(room: Scene) -> None:
    scenes = MemoryScenes([room, room], ("x",) * 14)
    training = pipelines.TrainingScenes(scenes, pipelines.IndoorTraining(grid=0.3, elastic=False), seed=1)
    again = training.sample(0, 1)
    training.sample(2, 0)
    assert np.array_equal(training.sample(0, 1).coordinates, again.coordinates)
    for other in (training.sample(1, 1), training.sample(0, 0)):
        assert other.coordinates.shape != again.coordinates.shape or (other.coordinates != again.coordinates).any()


def test_indoor_validation_leads_back_to_every_point(room: Scene) -> None:
    sample, inverse = pipelines.indoor_validation(room, 0.2)
    assert inverse.shape == (len(room),)
    apart = room.coordinates - room.coordinates[sample.rows][inverse]
    assert np.abs(apart).max() < 0.2
    again = pipelines.indoor_validation(room, 0.2)
    assert np.array_equal(again.scene.coordinates, sample.coordinates)


def test_lidar_samples_stay_in_the_box() -> None:
    rng = np.random.default_rng(0)
    frame = Scene("frame", rng.normal(0, 30, (2000, 3)).astype(np.float32), np.zeros(2000, dtype=np.int64))
    training = pipelines.LidarTraining(grid=1.0)
    sample = training(frame, np.random.default_rng(0))
    assert np.abs(sample.coordinates[:, :2]).max() < 1.1 * 35.2 + 0.03
    assert np.abs(sample.coordinates[:, 2]).max() < 1.1 * 4 + 0.03
    seen, inverse = pipelines.lidar_validation(frame, training)
    assert seen.coordinates[:, 2].max() == 2
    assert len(inverse) == 2000


@pytest.mark.parametrize(("name", "count"), [("single", 1), ("rot4", 4), ("tta10", 10), ("tta12", 12), ("tta13", 13)])
def test_views(room: Scene, name: pipelines.Views, count: int) -> None:
    views = pipelines.views_of(name)
    assert len(views) == count
    seen = [view(room).coordinates for view in views]
    assert any(np.allclose(one, room.coordinates, atol=1e-5) for one in seen)
    distinct = [i for i, one in enumerate(seen) if not any(np.allclose(one, other, atol=1e-4) for other in seen[:i])]
    assert len(distinct) == (12 if name == "tta13" else count)
    if name == "tta13":
        assert np.allclose(seen[12], rotated(room, "z", np.pi, (0, 0, 0)).coordinates, atol=1e-5)
        assert np.allclose(seen[5], 0.95 * rotated(room, "z", np.pi / 2, (0, 0, 0)).coordinates, atol=1e-5)


def test_fragments_of_views_cover_the_room(room: Scene) -> None:
    pieces = list(pipelines.fragments_of(room, pipelines.views_of("rot4")[:2], grid=0.3))
    rows = np.concatenate([piece.rows for piece in pieces])  # type: ignore[arg-type]
    assert np.bincount(rows, minlength=len(room)).min() >= 2
    for piece in pieces:
        low, high = piece.coordinates.min(axis=0), piece.coordinates.max(axis=0)
        assert np.allclose((low + high)[:2], 0, atol=1e-5)


def test_thinned_scenes_have_a_point_a_voxel(room: Scene) -> None:
    thin, inverse = pipelines.ScenePipeline(pipelines.PlainTraining(), 0.3, test_grid=0.3).thinned(room)
    assert len(thin) < 0.8 * len(room)
    assert thin.rows is not None
    assert (thin.rows[inverse] <= np.arange(len(room))).all()
    assert np.array_equal(thin.coordinates, room.coordinates[thin.rows])
    assert np.abs(room.coordinates - thin.coordinates[inverse]).max() < 0.3001
    whole, inverse = pipelines.ScenePipeline(pipelines.PlainTraining(), 0.3).thinned(room)
    assert whole is room
    assert np.array_equal(inverse, np.arange(len(room)))


def test_lidar_frames_are_thinned_in_their_box() -> None:
    far = np.array([[40, 0, 0], [50, 0, 0], [0, 0, 0]], dtype=np.float32)
    frame = Scene("frame", far, np.zeros(3, dtype=np.int64))
    thin, inverse = pipelines.ScenePipeline(pipelines.LidarTraining(), 0.05, test_grid=0.025).thinned(frame)
    assert len(thin) == 2
    assert inverse[0] == inverse[1] != inverse[2]
