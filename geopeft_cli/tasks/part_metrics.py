"""How good labels of points are: parts of objects (Yi et al., 2016) and semantic classes of scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

IGNORED = -1
"""The true label of a point that does not count."""

AT_ONCE = 2**22
"""Points that are counted together."""


def restricted_argmax(scores: Tensor, categories: Tensor, parts: Sequence[Sequence[int]]) -> Tensor:
    """The best label of every point among the parts of its shape's category.

    Args:
        scores: logits or log-probabilities (B, n, labels).
        categories: int64 (B,), indices into ``parts``.
        parts: the labels of the points of each category.

    Returns:
        int64 (B, n); the lowest label where several are equally good.
    """
    return restricted(scores, categories, parts).argmax(dim=2)


def restricted(scores: Tensor, categories: Tensor, parts: Sequence[Sequence[int]]) -> Tensor:
    """The scores with minus infinity for parts of other categories; arguments of :func:`restricted_argmax`."""
    allowed = torch.zeros(len(parts), scores.shape[2], dtype=torch.bool, device=scores.device)
    for category, own in enumerate(parts):
        allowed[category, list(own)] = True
    return scores.masked_fill(~allowed[categories][:, None], -torch.inf)


def shape_ious(predicted: Tensor, labels: Tensor, categories: Tensor, parts: Sequence[Sequence[int]]) -> Tensor:
    """The mean over the parts of its category of every shape's intersection over union.

    A part that is in neither the truth nor the prediction counts as 1, as everywhere in the literature.

    Args:
        predicted: int64 (B, n), of :func:`restricted_argmax`.
        labels: int64 (B, n), the truth, or ``IGNORED``.
        categories: int64 (B,), indices into ``parts``.
        parts: the labels of the points of each category.

    Returns:
        float64 (B,), between 0 and 1; NaN for a shape of which no point counts.
    """
    counted = labels != IGNORED
    ious = torch.full((len(labels),), torch.nan, dtype=torch.float64, device=labels.device)
    for category in categories.unique().tolist():
        chosen = (categories == category) & counted.any(dim=1)
        own = torch.as_tensor(parts[category], device=labels.device)
        found = (predicted[chosen][:, :, None] == own) & counted[chosen][:, :, None]
        true = labels[chosen][:, :, None] == own
        union = (found | true).sum(dim=1)
        shared = (found & true).sum(dim=1)
        ious[chosen] = torch.where(union > 0, shared.double() / union, 1.0).mean(dim=1)
    return ious


@dataclass(frozen=True)
class PartScores:
    """Part segmentation of a set of shapes, in percent.

    Attributes:
        instance_miou: mean over shapes.
        class_miou: mean over categories of the means over their shapes.
        categories: name of every category with a shape -> the mean over its shapes.
        shapes: name of every category with a shape -> how many shapes it has.
    """

    instance_miou: float
    class_miou: float
    categories: dict[str, float]
    shapes: dict[str, int]


def part_scores(ious: Tensor, categories: Tensor, names: Sequence[str]) -> PartScores:
    """The two means of part segmentation, and the table behind the second.

    Args:
        ious: float64 (M,) of :func:`shape_ious`, for all shapes of a set; shapes that are NaN are left out.
        categories: int64 (M,), indices into ``names``.
        names: of the categories; those without a shape are in neither mean.

    Raises:
        ValueError: there is no shape.
    """
    kept = ~ious.isnan()
    ious, categories = ious[kept], categories[kept]
    if not len(ious):
        raise ValueError("no shape has a point that counts")
    table, shapes = {}, {}
    for category in categories.unique().tolist():
        own = ious[categories == category]
        table[names[category]] = 100.0 * float(own.mean())
        shapes[names[category]] = len(own)
    return PartScores(100.0 * float(ious.mean()), sum(table.values()) / len(table), table, shapes)


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How often points of one class were given another: int64 (classes, classes), rows are the truth.

    Matrices add up: over batches, over scenes, and over the areas of a cross-validation, whose published mean is
    that of the sum.

    Args:
        predicted: integers of any kind and shape, in 0..classes - 1.
        labels: the same, the truth, or ``IGNORED``.
        classes: how many there are.
    """
    matrix = torch.zeros(classes * classes, dtype=torch.int64, device=labels.device)
    # a share at a time: whole test sets have hundreds of millions of points
    for said, true in zip(predicted.flatten().split(AT_ONCE), labels.flatten().split(AT_ONCE), strict=True):
        counted = true != IGNORED
        pairs = true[counted].long() * classes + said[counted]
        matrix += torch.bincount(pairs, minlength=classes * classes)
    return matrix.reshape(classes, classes)


@dataclass(frozen=True)
class PointScores:
    """Labels of points over a whole set, whatever clouds they are in; in percent.

    Attributes:
        miou: mean over classes of intersection over union.
        mean_class_accuracy: mean over classes of the share of their points that were found (mAcc).
        accuracy: share of all points that were right (allAcc, OA).
        ious: name of every class -> its intersection over union; NaN for a class in neither truth nor prediction.
    """

    miou: float
    mean_class_accuracy: float
    accuracy: float
    ious: dict[str, float]


def point_scores(confusion: Tensor, names: Sequence[str], absent: Literal["zero", "skip"] = "zero") -> PointScores:
    """Scores of semantic segmentation from a confusion matrix.

    Args:
        confusion: (classes, classes) of :func:`confusion_matrix`, summed over the set.
        names: of the classes.
        absent: what a class without a true point counts in the mean of accuracies, and one without a true or predicted
            point in that of intersections over unions: ``zero``, as in the literature's code, or nothing.

    Raises:
        ValueError: no point counts.
    """
    matrix = confusion.double()
    right, true, found = matrix.diagonal(), matrix.sum(dim=1), matrix.sum(dim=0)
    if not bool(true.any()):
        raise ValueError("no point counts")
    ious, recalls = right / (true + found - right), right / true
    mean = torch.Tensor.nanmean if absent == "skip" else _mean_with_zeros
    return PointScores(
        100.0 * float(mean(ious)),
        100.0 * float(mean(recalls)),
        100.0 * float(right.sum() / true.sum()),
        {name: 100.0 * float(iou) for name, iou in zip(names, ious, strict=True)},
    )


def _mean_with_zeros(values: Tensor) -> Tensor:
    return values.nan_to_num(nan=0.0).mean()
