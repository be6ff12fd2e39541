"""Scenes of one point, of one voxel, flat, far from the origin, damaged or empty: a result, or who is to blame.

With and without GEM, in evaluation and in a step of training, from a scene of a file to the network's answer.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from backbones.scenes import AWKWARD, alone, network, of_voxels, scenes, together
from geopeft_cli.backbones.scene_transformer import SceneTransformer
from geopeft_cli.contracts import Scenes
from geopeft_cli.data.scene_batches import packed
from geopeft_cli.data.scene_pipelines import IndoorTraining, indoor_validation
from geopeft_cli.data.scenes import MemoryScenes, Scene
from geopeft_cli.errors import DataError
from geopeft_cli.geometry.voxels import voxelized
from geopeft_cli.methods.gem import GEM

CLASSES = ("floor", "wall", "table")
kinds = pytest.mark.parametrize("kind", ["sonata_decoder", "ptv3"])
methods = pytest.mark.parametrize("method", ["full", "gem"])
awkward = pytest.mark.parametrize("name", ["one point", "one voxel", "a plane", "every voxel twice"])


def model_of(kind: str, method: str, channels: int = 5) -> SceneTransformer:
    model = network(kind, channels)
    if method == "gem":
        model.requires_grad_(False)
        GEM(rank=4, latents=2).attach(model)
        for name, parameter in model.named_parameters():
            if name.endswith("up.weight"):
                torch.nn.init.normal_(parameter, std=0.3)
    return model


@kinds
@awkward
@torch.no_grad()
def test_gem_reads_awkward_scenes(kind: str, name: str) -> None:
    model, batch = model_of(kind, "gem"), of_voxels(AWKWARD[name], [len(AWKWARD[name])])
    logits = model(batch)
    assert logits.isfinite().all()
    assert torch.equal(logits, model(batch))
    in_company = model(together(scenes(), batch))[-len(logits) :]
    torch.testing.assert_close(in_company, logits, rtol=1e-4, atol=1e-4)


def step(model: SceneTransformer, batch: Scenes) -> Tensor:
    """One step of training and what the network says of the batch afterwards."""
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    assert model.task is not None
    loss = model.task.loss(model(batch), torch.arange(len(batch.voxels)) % len(CLASSES))
    loss.backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in trained)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in trained)
    optimizer.step()
    with torch.no_grad():
        after: Tensor = model.eval()(batch)
    return after


@kinds
@methods
@awkward
def test_a_step_of_training(kind: str, method: str, name: str) -> None:
    model, batch = model_of(kind, method), of_voxels(AWKWARD[name], [len(AWKWARD[name])])
    if kind == "ptv3" and method == "full" and AWKWARD[name].unique(dim=0).shape[0] == 1:
        with pytest.raises(DataError, match=r"a single voxel is left at stage \d, and BatchNorm in training needs two"):
            step(model, batch)
        batch = together(scenes(), batch)
    assert step(model, batch).isfinite().all()


@kinds
@methods
@pytest.mark.parametrize("training", [False, True])
def test_damaged_and_empty_scenes_are_named(kind: str, method: str, training: bool) -> None:
    model, batch = model_of(kind, method).train(training), scenes()
    features = batch.features.clone()
    features[30, 0] = torch.inf
    with pytest.raises(DataError, match="scene 1 of the batch: features of 1 of 150 points are not finite"):
        model(replace(batch, features=features))
    with pytest.raises(DataError, match="scene 2 of the batch has no points"):
        model(replace(batch, offsets=torch.tensor([0, 20, 215, 215])))


def room(points: int = 60, offset: float = 0.0, repeats: int = 1) -> Scene:
    """A scene on the lattice of 1/64 m, so that half a million meters away it is the same in float64."""
    generator = np.random.default_rng(0)
    coordinates = generator.integers(0, 48, (points, 3)) / 64 + offset
    colors = generator.integers(0, 256, (points, 3)).astype(np.float32)
    labels = generator.integers(0, len(CLASSES), points)
    scene = Scene("hall", coordinates, labels, colors, np.zeros((points, 3), dtype=np.float32))
    return scene.take(np.arange(points).repeat(repeats))


@kinds
@methods
@torch.no_grad()
def test_half_a_million_meters_away_nothing_changes(kind: str, method: str) -> None:
    model = model_of(kind, method, channels=9)
    near, far = (indoor_validation(room(offset=offset)) for offset in (0.0, 500_000.0))
    assert far.scene.voxels is not None
    assert np.array_equal(far.scene.voxels, near.scene.voxels)
    assert np.array_equal(far.inverse, near.inverse)
    answers = [model(packed([sample.scene]).scenes) for sample in (near, far)]
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-5, atol=1e-5)
    points = torch.from_numpy(room().coordinates)
    offsets = torch.tensor([0, len(points)])
    assert torch.equal(voxelized(points + 500_000.0, offsets, 0.125), voxelized(points, offsets, 0.125))


@kinds
@torch.no_grad()
def test_duplicates_are_answered_as_the_points_that_they_repeat(kind: str) -> None:
    model = model_of(kind, "gem", channels=9)
    once, thrice = (indoor_validation(room(repeats=repeats)) for repeats in (1, 3))
    answers = [model(packed([sample.scene]).scenes)[sample.inverse] for sample in (once, thrice)]
    assert torch.equal(answers[1], answers[0].repeat_interleave(3, dim=0))


def test_scenes_are_checked_where_they_come_in() -> None:
    broken = room().coordinates.copy()
    broken[7, 2] = np.nan
    with pytest.raises(DataError, match="scene hall: coordinates of point 7 is NaN"):
        MemoryScenes([room(), replace(room(), coordinates=broken)], CLASSES)
    with pytest.raises(DataError, match="scene hall: has no points"):
        MemoryScenes([room().take(np.arange(0))], CLASSES)


def test_batches_name_their_scenes() -> None:
    sample = indoor_validation(room()).scene
    colors = np.full_like(sample.colors, np.nan)
    with pytest.raises(DataError, match=rf"scene hall: features of {len(sample)} of {len(sample)} points are not"):
        packed([sample, replace(sample, colors=colors)])
    with pytest.raises(DataError, match="scene hall has no points"):
        packed([sample, sample.take(np.arange(0))])


@pytest.mark.parametrize("points", [1, 2])
def test_a_crop_keeps_a_point(points: int) -> None:
    sample = IndoorTraining(share=0.4)(room(points), np.random.default_rng(0))
    assert len(sample) == 1
    assert alone(packed([sample]).scenes, 0).features.isfinite().all()
