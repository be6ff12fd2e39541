"""Measuring on whole scenes, at the resolution in which they are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from geopeft_cli.contracts import Backbone
from geopeft_cli.data.batches import Batches
from geopeft_cli.data.clouds import CloudSet
from geopeft_cli.data.scene_batches import SceneBatches, packed
from geopeft_cli.data.scene_pipelines import ScenePipeline, Views
from geopeft_cli.data.scenes import Float32, Scene, SceneSet
from geopeft_cli.errors import GeopeftError
from geopeft_cli.evaluation.loop import Evaluation
from geopeft_cli.evaluation.pieces import evaluate_clouds

Int16: TypeAlias = npt.NDArray[np.int16]
Autocast = Callable[[], AbstractContextManager[object]]


def evaluate_set(
    model: Backbone,
    found: CloudSet | SceneSet,
    batches: Batches | SceneBatches,
    device: torch.device,
    autocast: Autocast = nullcontext,
) -> Evaluation:
    """Measure a model on ``batches`` of ``found``: of clouds, of pieces of scenes, or of whole scenes.

    Raises:
        GeopeftError: an output is not finite.
    """
    if isinstance(batches, SceneBatches):
        return evaluate_scenes(model, batches, device, autocast)
    assert not isinstance(found, SceneSet)
    return evaluate_clouds(model, found, batches, device, autocast)


@torch.no_grad()
def evaluate_scenes(
    model: Backbone, batches: SceneBatches, device: torch.device, autocast: Autocast = nullcontext
) -> Evaluation:
    """One view of every scene: each point as stored has the label of its voxel. The model's mode is restored.

    Raises:
        GeopeftError: an output is not finite, with the name of the scene.
    """
    assert model.task is not None
    was_training = model.training
    model.eval()
    decided, true = [], []
    try:
        with closing(batches.epoch(0)) as every:
            for batch in every:
                with autocast():
                    logits = model(batch.scenes.to(device)).float()
                labels = model.task.outcome(logits).cpu().numpy()
                for name, rows, truth in zip(batch.names, batch.rows, batch.truth, strict=True):
                    if not logits[torch.from_numpy(rows).to(device)].isfinite().all():
                        raise _not_finite(name)
                    decided.append(labels[rows].astype(np.int16))
                    true.append(truth.astype(np.int16))
    finally:
        model.train(was_training)
    return _measured(model, decided, true)


def vote_scenes(
    model: Backbone,
    batches: SceneBatches,
    views: Views,
    device: torch.device,
    autocast: Autocast = nullcontext,
    advance: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Every point has the label of the largest sum of probabilities over all fragments of all views that hold it.

    This is the published protocol of testing, see :func:`fragment_scores`.

    Args:
        model: of a task with a label a voxel, on ``device``.
        batches: of whole scenes, whose pipeline and features count.
        views: which copies of a scene are predicted.
        device: of the model.
        autocast: the context of forward passes.
        advance: called after every scene.

    Raises:
        GeopeftError: an output is not finite, with the name of the scene.
    """
    was_training = model.training
    model.eval()
    decided, true = [], []
    try:
        for index in range(len(batches.scenes)):
            scene = batches.scenes[index]
            scores = fragment_scores(model, scene, batches.pipeline, batches.features, views, device, autocast)
            decided.append(scores.argmax(axis=1).astype(np.int16))
            true.append(scene.labels.astype(np.int16))
            advance()
    finally:
        model.train(was_training)
    return _measured(model, decided, true)


@torch.no_grad()
def fragment_scores(
    model: Backbone,
    scene: Scene,
    pipeline: ScenePipeline,
    features: Sequence[str],
    views: Views,
    device: torch.device,
    autocast: Autocast = nullcontext,
) -> Float32:
    """Sums of the probabilities of the points of a scene over all fragments of all views, float32 (n, classes).

    Args:
        model: of a task with a label a voxel, in eval mode on ``device``.
        scene: as stored.
        pipeline: what makes fragments.
        features: what the model reads of a voxel.
        views: which copies of the scene are predicted.
        device: of the model.
        autocast: the context of forward passes.

    Raises:
        GeopeftError: an output is not finite.
    """
    assert model.task is not None
    thin = pipeline.thinned(scene)
    count = len(thin.scene)
    scores: Float32 | None = None
    for piece in pipeline.fragments(replace(thin.scene, rows=np.arange(count)), views):
        assert piece.rows is not None
        with autocast():
            logits = model(packed([piece], features).scenes.to(device)).float()
        if not logits.isfinite().all():
            raise _not_finite(scene.name)
        probabilities = model.task.probabilities(logits).cpu().numpy()
        if scores is None:
            scores = np.zeros((count, probabilities.shape[1]), dtype=np.float32)
        scores[piece.rows] += probabilities  # a fragment holds no point twice
    assert scores is not None
    return scores if pipeline.test_grid is None else scores[thin.inverse]


def _measured(model: Backbone, decided: Sequence[Int16], true: Sequence[Int16]) -> Evaluation:
    assert model.task is not None
    outcomes, targets = (torch.from_numpy(np.concatenate(each)) for each in (decided, true))
    return Evaluation(outcomes, targets, model.task.metrics(outcomes, targets), tuple(map(len, true)))


def _not_finite(name: str) -> GeopeftError:
    return GeopeftError(
        f"the output for scene {name} is not finite",
        "The weights have diverged, or the scene holds values that are not finite.",
    )
