"""Semantic segmentation of scenes: one label a voxel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.contracts import Backbone, Confusion, SceneBackbone, Scenes, Task
from geopeft_cli.errors import UsageError
from geopeft_cli.tasks.lovasz import lovasz_softmax
from geopeft_cli.tasks.part_metrics import IGNORED, confusion_matrix


class VoxelSegmentation(Task):
    """A linear head on every voxel's feature, trained with cross entropy and the Lovász-softmax loss.

    Args:
        classes: class names, in the order of the labels.
        lovasz: weight of the Lovász-softmax loss beside the cross entropy; 1 as published.

    Attributes:
        weights: of the classes in the cross entropy, float32; ``None`` for equal ones.
    """

    name: ClassVar[str] = "voxel_segmentation"
    is_dense: ClassVar[bool] = True
    score: ClassVar[str] = "miou"
    weights: Tensor | None = None

    def __init__(self, classes: Sequence[str], lovasz: float = 1.0) -> None:
        self.classes, self.lovasz = tuple(classes), lovasz
        self.head_names = ("seg_head",)

    def settings(self) -> dict[str, Any]:
        return {"classes": list(self.classes), "lovasz": self.lovasz}

    def attach(self, backbone: Backbone) -> None:
        """Add ``seg_head``.

        Raises:
            UsageError: the backbone does not read scenes.
        """
        if not isinstance(backbone, SceneBackbone):
            raise UsageError(f"task: {backbone.name} does not read scenes", "Use sonata or ptv3.")
        backbone.seg_head = nn.Linear(backbone.feature_width, len(self.classes))
        backbone.task = self

    def predict(self, backbone: Backbone, points: Tensor | Scenes, categories: Tensor | None = None) -> Tensor:
        """Logits (N, classes) for the voxels of packed scenes."""
        assert isinstance(backbone, SceneBackbone)
        assert isinstance(points, Scenes)
        logits: Tensor = backbone.get_submodule("seg_head")(backbone.encode(points).features)
        return logits

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Of the voxels with a label of a whole batch, a scalar; 0 where there is none. See IGNORED for the others."""
        cross_entropy, lovasz = segmentation_losses(logits, targets, self.weights)
        return cross_entropy + self.lovasz * lovasz

    def outcome(self, logits: Tensor, categories: Tensor | None = None) -> Tensor:
        return logits.argmax(dim=1)

    def metrics(self, outcomes: Tensor, targets: Tensor, categories: Tensor | None = None) -> dict[str, float]:
        """See :func:`segmentation_metrics`."""
        return segmentation_metrics(overlap_counts(outcomes, targets, len(self.classes)))

    def confusion(self, outcomes: Tensor, targets: Tensor) -> Confusion:
        return Confusion(self.classes, confusion_matrix(outcomes, targets, len(self.classes)))


def segmentation_losses(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cross entropy and Lovász-softmax over the labeled points; both 0 where no point has a label.

    With ``weights`` of the classes, the cross entropy is the mean in which every point has that of its class.
    """
    labeled = labels != IGNORED
    logits, labels = logits.float()[labeled], labels[labeled]
    weights = None if weights is None else weights.to(logits.device)
    counts = len(labels) > 0 if weights is None else bool(weights[labels].any())
    cross_entropy = F.cross_entropy(logits, labels, weights) if counts else logits.sum() * 0
    return cross_entropy, lovasz_softmax(logits.softmax(dim=1), labels)


def overlap_counts(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Intersection, union and label count of every class, int64 (3, classes), over the points with a label.

    Those of several scenes add up.
    """
    matrix = confusion_matrix(predicted, labels, classes)
    hit, guessed, wanted = matrix.diagonal(), matrix.sum(dim=0), matrix.sum(dim=1)
    return torch.stack([hit, guessed + wanted - hit, wanted])


def segmentation_metrics(counts: Tensor) -> dict[str, float]:
    """From the counts (3, classes) of a whole split, in percent.

    ``miou`` and ``mean_class_accuracy`` are means over all classes, where one that occurs nowhere counts as 0, as
    published figures have it; ``miou_present`` is the mean over the classes with labels or predictions. ``accuracy``
    is over all points.
    """
    hit, union, wanted = counts.double()
    overlap = hit / (union + 1e-10)
    present = union > 0
    return {
        "accuracy": 100.0 * float(hit.sum() / (wanted.sum() + 1e-10)),
        "miou": 100.0 * float(overlap.mean()),
        "miou_present": 100.0 * float(overlap[present].mean()) if bool(present.any()) else 0.0,
        "mean_class_accuracy": 100.0 * float((hit / (wanted + 1e-10)).mean()),
    }
