"""Scenes without labels as a model of LiDAR frames reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from geopeft_cli.backbones.sonata import Sonata
from geopeft_cli.data.scene_fields import Absent
from geopeft_cli.data.scene_pipelines import LidarTraining, ScenePipeline
from geopeft_cli.errors import DataError, GeopeftError
from geopeft_cli.evaluation.scene_prediction import ScenePredictor, SceneReading
from geopeft_cli.tasks.voxel_segmentation import VoxelSegmentation

FRAME = np.random.default_rng(0).uniform(-1, 1, (60, 3)) * [40, 40, 1]  # beyond the box around the sensor


@pytest.fixture(scope="module")
def model() -> Sonata:
    torch.manual_seed(0)
    model = Sonata(4, widths=(8, 8), depths=(1, 1), heads=(2, 2), patch_size=16)
    VoxelSegmentation(["road", "car"]).attach(model)
    return model.eval()


def predictor(model: Sonata) -> ScenePredictor:
    pipeline = ScenePipeline(LidarTraining(0.05), 0.05)
    reading = SceneReading(pipeline, ("coordinates", "strength"), Absent("zeros", "estimate"))
    return ScenePredictor(model, reading, torch.device("cpu"))


def test_frames_with_strength_and_nothing_else(model: Sonata, tmp_path: Path) -> None:
    np.savez(tmp_path / "frame.npz", xyz=FRAME, intensity=np.linspace(0, 1, 60))
    asked = predictor(model)
    prepared = asked.from_file(tmp_path / "frame.npz", "frame")
    np.testing.assert_array_equal(prepared.points, FRAME)
    assert (prepared.filled, prepared.scene.colors, prepared.scene.normals) == ({}, None, None)
    (found,) = asked.predict([prepared])
    assert found.probabilities.shape == (60, 2)
    assert found.cloud.shown.dtype == np.float32


def test_frames_without_strength(model: Sonata) -> None:
    with pytest.raises(DataError, match="scene 0: has no strength, which the model reads"):
        predictor(model).from_memory(FRAME, "scene 0")


def test_weights_that_have_diverged(model: Sonata, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = predictor(model)
    prepared = asked.from_memory({"xyz": FRAME, "strength": np.ones(60)}, "frame")
    monkeypatch.setattr(model, "forward", lambda points: torch.full((len(points.voxels), 2), torch.nan))
    with pytest.raises(GeopeftError, match="output for scene frame is not finite"):
        asked.predict([prepared])
