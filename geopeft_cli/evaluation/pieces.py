"""Measuring on whole scenes by votes of overlapping pieces (PointNet++; ACT)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from geopeft_cli.contracts import Backbone
from geopeft_cli.data.batches import Batch, Batches
from geopeft_cli.data.clouds import CloudSet, PiecesOfScenes
from geopeft_cli.evaluation.loop import Evaluation, evaluate


def evaluate_clouds(
    model: Backbone,
    clouds: CloudSet,
    batches: Batches,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Evaluation:
    """Measure a model on ``batches`` of ``clouds``; where those are pieces of scenes, on the points of the scenes.

    Raises:
        GeopeftError: an output is not finite.
    """
    if not isinstance(clouds, PiecesOfScenes):
        return evaluate(model, batches.epoch(0), device, autocast)
    drawn: list[tuple[Tensor, Tensor]] = []

    def noted() -> Iterator[Batch]:
        for batch in batches.epoch(0):
            drawn.append((batch.indices, batch.picks))
            yield batch

    found = evaluate(model, noted(), device, autocast)
    indices, picks = (torch.cat(each) for each in zip(*drawn, strict=True))
    assert model.task is not None
    decided, true = voted(found.outcomes, indices, picks, clouds)
    return Evaluation(decided, true, model.task.metrics(decided, true))


def voted(decisions: Tensor, indices: Tensor, picks: Tensor, pieces: PiecesOfScenes) -> tuple[Tensor, Tensor]:
    """The label that every point of every scene was given most often, the lowest of several, and the true one.

    Args:
        decisions: (M, n), labels of the points of pieces.
        indices: int64 (M,), which pieces these are.
        picks: int64 (M, n), which points of its piece each point is.
        pieces: the set.

    Returns:
        int16 (points of all scenes,) twice; the first is 0 where no piece has the point.
    """
    labels = len(pieces.part_names)
    true = [pieces.scene_labels(scene) for scene in range(len(pieces.scenes))]
    votes = [np.zeros((len(own), labels), dtype=np.int32) for own in true]
    for index, drawn, said in zip(indices.tolist(), picks.numpy(), decisions.numpy(), strict=True):
        scene, rows = pieces.origin(index)
        np.add.at(votes[scene], (rows[drawn], said), 1)
    decided = np.concatenate([own.argmax(axis=1) for own in votes]).astype(np.int16)
    return torch.from_numpy(decided), torch.from_numpy(np.concatenate(true).astype(np.int16))
