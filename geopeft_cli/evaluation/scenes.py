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
from geopeft_cli.data.scenes import Float32, Int64, Scene, SceneSet
from geopeft_cli.errors import GeopeftError
from geopeft_cli.evaluation.loop import Evaluation
from geopeft_cli.evaluation.pieces import evaluate_clouds

Int16: TypeAlias = npt.NDArray[np.int16]
Autocast = Callable[[], AbstractContextManager[object]]
Keep: TypeAlias = Callable[[int, Float32, Int64 | None], object]
"""Takes the number of a scene, probabilities float32 (rows, classes), and each point's row; None for all in order."""


def evaluate_set(
    model: Backbone,
    found: CloudSet | SceneSet,
    batches: Batches | SceneBatches,
    device: torch.device,
    autocast: Autocast = nullcontext,
    keep: Keep | None = None,
) -> Evaluation:
    """Measure a model on ``batches`` of ``found``: of clouds, of pieces of scenes, or of whole scenes.

    What it says of each whole scene is given to ``keep``.

    Raises:
        GeopeftError: an output is not finite.
    """
    if isinstance(batches, SceneBatches):
        return evaluate_scenes(model, batches, device, autocast, keep)
    assert not isinstance(found, SceneSet)
    return evaluate_clouds(model, found, batches, device, autocast)


@torch.no_grad()
def evaluate_scenes(
    model: Backbone,
    batches: SceneBatches,
    device: torch.device,
    autocast: Autocast = nullcontext,
    keep: Keep | None = None,
) -> Evaluation:
    """One view of every scene: each point as stored has the label of its voxel. The model's mode is restored.

    Raises:
        GeopeftError: an output is not finite, with the name of the scene.
    """
    assert model.task is not None
    was_training = model.training
    model.eval()
    decided: list[Int16] = []
    true: list[Int16] = []
    try:
        with closing(batches.epoch(0)) as every:
            for batch in every:
                with autocast():
                    logits = model(batch.scenes.to(device)).float()
                labels = model.task.outcome(logits).cpu().numpy()
                finite = logits.isfinite().all(dim=1).cpu().numpy()
                probabilities = None if keep is None else model.task.probabilities(logits).cpu().numpy()
                for name, rows, truth in zip(batch.names, batch.rows, batch.truth, strict=True):
                    if not finite[rows].all():
                        raise not_finite(name)
                    if keep is not None and probabilities is not None:
                        keep(len(decided), probabilities, rows)
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
    keep: Keep | None = None,
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
        keep: is given what the model says of each scene.

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
            if keep is not None:
                keep(index, shares(scores), None)
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
            raise not_finite(scene.name)
        probabilities = model.task.probabilities(logits).cpu().numpy()
        if scores is None:
            scores = np.zeros((count, probabilities.shape[1]), dtype=np.float32)
        scores[piece.rows] += probabilities  # a fragment holds no point twice
    assert scores is not None
    return scores if pipeline.test_grid is None else scores[thin.inverse]


def shares(scores: Float32) -> Float32:
    """Probabilities (n, classes), from their sums over as many fragments as hold each point."""
    found: Float32 = scores / scores.sum(axis=1, keepdims=True)
    return found


def _measured(model: Backbone, decided: Sequence[Int16], true: Sequence[Int16]) -> Evaluation:
    assert model.task is not None
    outcomes, targets = (torch.from_numpy(np.concatenate(each)) for each in (decided, true))
    return Evaluation(outcomes, targets, model.task.metrics(outcomes, targets), tuple(map(len, true)))


def not_finite(name: str) -> GeopeftError:
    """What is raised for a scene."""
    return GeopeftError(
        f"the output for scene {name} is not finite",
        "The weights have diverged, or the scene holds values that are not finite.",
    )
