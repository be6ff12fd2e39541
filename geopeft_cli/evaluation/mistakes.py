"""Which clouds of a split a model got most wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geopeft_cli.contracts import Task
from geopeft_cli.data.batches import Batches
from geopeft_cli.data.clouds import IGNORED, CloudSet, PiecesOfScenes
from geopeft_cli.data.scenes import SceneSet
from geopeft_cli.evaluation.loop import Evaluation
from geopeft_cli.reports.mistakes import Mistake
from geopeft_cli.tasks.part_metrics import shape_ious
from geopeft_cli.tasks.segmentation import PartSegmentation, Segmentation

MOST_CLOUDS, MOST_DENSE, MOST_SCENES = 12, 8, 4


def worst_mistakes(task: Task, found: Evaluation, clouds: CloudSet, batches: Batches, up: int = 1) -> list[Mistake]:
    """The worst first: the least probable truths among what is misclassified; the least overlap of labels of points.

    Of scenes in pieces, the worst piece of each of the worst scenes.

    Args:
        task: of the model.
        found: what came out for ``clouds``.
        clouds: the split.
        batches: the same, in testing: the clouds are shown as the model saw them.
        up: the axis of the data that is up, 1 or 2.
    """
    if not isinstance(task, Segmentation):
        return _misclassified(task, found, clouds, batches, up)
    scores, what = cloud_scores(task, found, clouds), "mIoU" if isinstance(task, PartSegmentation) else "right"
    order = _one_a_scene(scores.argsort(stable=True), clouds)
    chosen = [index for index in order if scores[index] < 1][:MOST_DENSE]
    if not chosen:
        return []
    batch = batches.chosen(chosen)
    assert batch.point_labels is not None
    places = _places(clouds) if isinstance(clouds, PiecesOfScenes) else None
    mistakes = []
    for row, index in enumerate(chosen):
        said = found.outcomes[index] if places is None else found.outcomes[places(index)][batch.picks[row]]
        true = batch.point_labels[row]
        note = f"{clouds.classes[int(batch.labels[row])]}, " if isinstance(task, PartSegmentation) else ""
        mistakes.append(
            Mistake(
                clouds[index].name,
                f"{note}{what} {100 * float(scores[index]):.1f} %",
                _upright(batch.points[row], up),
                {"truth": true.numpy(), "prediction": said.long().where(true != IGNORED, IGNORED).numpy()},
            )
        )
    return mistakes


def worst_scenes(task: Task, found: Evaluation, scenes: SceneSet) -> list[Mistake]:
    """The scenes of which the fewest points are right, the worst first; z of the data is up.

    Args:
        task: of the model.
        found: what came out for ``scenes``, all points of one after those of another.
        scenes: the split.
    """
    parts = list(zip(found.outcomes.split(found.sizes), found.targets.split(found.sizes), strict=True))
    scores = torch.cat([_share_right(said[None], true[None]) for said, true in parts])
    mistakes = []
    for index in scores.argsort(stable=True).tolist()[:MOST_SCENES]:
        if scores[index] < 1:
            said, true = parts[index]
            points = torch.from_numpy(scenes[index].coordinates)
            mistakes.append(
                Mistake(
                    scenes.names[index],
                    f"right {100 * float(scores[index]):.1f} %",
                    _upright(points - points.mean(dim=0), 2),
                    {"truth": true.numpy(), "prediction": said.where(true != IGNORED, IGNORED).numpy()},
                )
            )
    return mistakes


def cloud_scores(task: Segmentation, found: Evaluation, clouds: CloudSet) -> Tensor:
    """How right every cloud is, float64 (clouds,) between 0 and 1; NaN for one of which no point counts.

    For parts of objects it is the mean intersection over union of its parts, else the share of points that are right.
    """
    if isinstance(task, PartSegmentation):
        categories = torch.from_numpy(clouds.labels())
        return shape_ious(found.outcomes, found.targets, categories, list(task.parts.values()))
    if not isinstance(clouds, PiecesOfScenes):
        return _share_right(found.outcomes, found.targets)
    places = _places(clouds)
    rows = (places(index) for index in range(len(clouds)))
    return torch.cat([_share_right(found.outcomes[own][None], found.targets[own][None]) for own in rows])


def _misclassified(task: Task, found: Evaluation, clouds: CloudSet, batches: Batches, up: int) -> list[Mistake]:
    probabilities = found.outcomes.float().softmax(dim=1)
    said = probabilities.argmax(dim=1)
    of_truth = probabilities.gather(1, found.targets[:, None])[:, 0]
    wrong = (said != found.targets).nonzero()[:, 0]
    chosen = wrong[of_truth[wrong].argsort(stable=True)][:MOST_CLOUDS].tolist()
    if not chosen:
        return []
    points = batches.chosen(chosen).points
    return [
        Mistake(
            clouds[index].name,
            f"{clouds.classes[int(found.targets[index])]} ({100 * float(of_truth[index]):.1f} %), taken for "
            f"{clouds.classes[int(said[index])]} ({100 * float(probabilities[index, said[index]]):.1f} %)",
            _upright(own, up),
        )
        for index, own in zip(chosen, points, strict=True)
    ]


def _share_right(decided: Tensor, targets: Tensor) -> Tensor:
    counted = targets != IGNORED
    return ((decided == targets) & counted).sum(dim=1).double() / counted.sum(dim=1)


def _places(pieces: PiecesOfScenes) -> Callable[[int], Tensor]:
    """Where the points of a piece are among those of all scenes, as :func:`evaluation.pieces.voted` orders them."""
    sizes = [len(pieces.scene_labels(scene)) for scene in range(len(pieces.scenes))]
    starts = np.cumsum([0, *sizes])

    def places(index: int) -> Tensor:
        scene, rows = pieces.origin(index)
        return torch.from_numpy(starts[scene] + rows)

    return places


def _one_a_scene(order: Tensor, clouds: CloudSet) -> list[int]:
    if not isinstance(clouds, PiecesOfScenes):
        return [int(index) for index in order]
    first: dict[int, int] = {}
    for index in order.tolist():
        first.setdefault(clouds.origin(index)[0], index)
    return list(first.values())


def _upright(points: Tensor, up: int) -> npt.NDArray[np.floating[Any]]:
    found = points.numpy()
    return found if up == 1 else np.stack([found[:, 0], found[:, 2], -found[:, 1]], axis=1)
