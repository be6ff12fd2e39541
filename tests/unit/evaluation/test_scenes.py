"""Votes over fragments of scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geopeft_cli.backbones.sonata import Sonata
from geopeft_cli.data.scene_batches import SceneBatches
from geopeft_cli.data.scene_pipelines import PlainTraining, ScenePipeline
from geopeft_cli.data.scenes import MemoryScenes, Scene
from geopeft_cli.errors import GeopeftError
from geopeft_cli.evaluation.scenes import evaluate_scenes, fragment_scores
from geopeft_cli.tasks.voxel_segmentation import VoxelSegmentation

NETWORK = {"widths": (8, 12), "depths": (1, 1), "heads": (2, 2), "decoder_widths": (), "decoder_depths": ()}


def test_points_that_are_thinned_out_have_the_scores_of_their_voxel() -> None:
    torch.manual_seed(0)
    model = Sonata(3, **NETWORK)  # type: ignore[arg-type]
    VoxelSegmentation(["floor", "wall"]).attach(model)
    numbers = np.unique(np.append(np.random.default_rng(0).integers(1, 12**3 - 1, 150), [0, 12**3 - 1]))
    lattice = 0.05 * np.stack([numbers // 144, numbers // 12 % 12, numbers % 12], axis=1)

    def scores(coordinates: np.ndarray, test_grid: float | None) -> np.ndarray:
        scene = Scene("lattice", coordinates.astype(np.float32), np.zeros(len(coordinates), dtype=np.int64))
        pipeline = ScenePipeline(PlainTraining(), 0.04, test_grid)
        return fragment_scores(model.eval(), scene, pipeline, ("coordinates",), "rot4", torch.device("cpu"))

    expected = scores(lattice, None)
    found = scores(np.concatenate([lattice, lattice + np.array([0.001, 0, 0])]), 0.01)
    assert np.ptp(expected, axis=0).min() > 0.1
    assert np.allclose(found, np.tile(expected, (2, 1)), atol=1e-4)


def test_of_several_scenes_the_one_with_a_wrong_output_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Sonata(3, **NETWORK)  # type: ignore[arg-type]
    VoxelSegmentation(["floor", "wall"]).attach(model)
    coordinates = np.arange(12, dtype=np.float32).reshape(4, 3)
    scenes = [Scene(name, coordinates, np.zeros(4, dtype=np.int64)) for name in ("hall", "attic")]
    pipeline, classes = ScenePipeline(PlainTraining(1.0), 1.0), ("floor", "wall")
    batches = SceneBatches(
        MemoryScenes(scenes, classes), pipeline, ("coordinates",), batch_size=2, seed=0, training=False, purpose="test"
    )
    logits = torch.zeros(8, 2)
    logits[5, 1] = torch.inf
    monkeypatch.setattr(model, "forward", lambda _: logits)
    with pytest.raises(GeopeftError, match="output for scene attic is not finite"):
        evaluate_scenes(model, batches, torch.device("cpu"))
