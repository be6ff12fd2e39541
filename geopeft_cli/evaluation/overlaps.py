"""How well labels of points overlap the truth, by label and by category."""

from __future__ import annotations

import torch

from geopeft_cli.contracts import Confusion
from geopeft_cli.data.clouds import CloudSet
from geopeft_cli.evaluation.loop import Evaluation
from geopeft_cli.reports.overlaps import CategoryScore, LabelScore
from geopeft_cli.tasks.part_metrics import part_scores, shape_ious
from geopeft_cli.tasks.segmentation import PartSegmentation


def label_scores(confusion: Confusion) -> list[LabelScore]:
    """Every label over all points together, whatever clouds they are in.

    Args:
        confusion: counts of points.
    """
    right, true, found = confusion.counts.diagonal(), confusion.counts.sum(dim=1), confusion.counts.sum(dim=0)
    rows = zip(confusion.names, right.tolist(), true.tolist(), found.tolist(), strict=True)
    return [
        LabelScore(name, own, _percent(hits, own + said - hits), _percent(hits, own)) for name, hits, own, said in rows
    ]


def category_scores(task: PartSegmentation, found: Evaluation, clouds: CloudSet) -> dict[str, CategoryScore]:
    """The categories that have a cloud in the set, in the order of the task."""
    categories = torch.from_numpy(clouds.labels())
    ious = shape_ious(found.outcomes, found.targets, categories, list(task.parts.values()))
    scores = part_scores(ious, categories, task.classes)
    return {name: CategoryScore(scores.shapes[name], miou) for name, miou in scores.categories.items()}


def _percent(part: int, whole: int) -> float | None:
    return 100.0 * part / whole if whole else None
