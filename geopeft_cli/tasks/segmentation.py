"""Segmentation: a label for every point, of a part of an object or of the class of what stands in a scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from geopeft_cli.contracts import Backbone, Confusion, LabelledBatch, Task
from geopeft_cli.errors import DataError, UsageError
from geopeft_cli.tasks.part_metrics import (
    IGNORED,
    confusion_matrix,
    part_scores,
    point_scores,
    restricted,
    restricted_argmax,
    shape_ious,
)
from geopeft_cli.tasks.point_heads import POINT_HEADS, PointHead


class Segmentation(Task):
    """Cross entropy over all points, on the official head of the backbone.

    Args:
        classes: names of the classes of clouds, in the order of their labels.
        part_names: names of the labels of points, in their order.
        parts: for every class, the labels that its points may have.

    Raises:
        UsageError: the points of the data have no labels.
    """

    is_dense: ClassVar[bool] = True

    def __init__(self, classes: Sequence[str], part_names: Sequence[str], parts: Mapping[str, Sequence[int]]) -> None:
        if not part_names:
            raise UsageError(
                f"task: {self.name} needs a label for every point, and this data has none",
                "Use data whose points have labels, such as data.format shapenetpart, or task.name classification.",
            )
        self.classes, self.part_names = tuple(classes), tuple(part_names)
        self.parts = {name: tuple(parts[name]) for name in self.classes}
        self.head_names: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        return {
            "classes": list(self.classes),
            "part_names": list(self.part_names),
            "parts": {name: list(labels) for name, labels in self.parts.items()},
        }

    def attach(self, backbone: Backbone) -> None:
        modules = self._head(backbone).modules()
        for name, module in modules.items():
            backbone.add_module(name, module)
        self.head_names = tuple(modules)
        backbone.task = self

    def targets(self, batch: LabelledBatch) -> Tensor:
        if batch.point_labels is None:
            raise DataError("the points of this data have no labels", "Segmentation needs one for every point.")
        return batch.point_labels

    def predict(self, backbone: Backbone, points: Tensor, categories: Tensor | None = None) -> Tensor:
        """Logits (B, N, labels).

        Without categories, the head is told of none and knows less than it was trained with: enough to compare a model
        with another form of itself.
        """
        return self._head(backbone).logits(points, categories).transpose(1, 2)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED)

    def outcome(self, logits: Tensor, categories: Tensor | None = None) -> Tensor:
        return logits.argmax(dim=2)

    def confusion(self, outcomes: Tensor, targets: Tensor) -> Confusion:
        return Confusion(self.part_names, confusion_matrix(outcomes, targets, len(self.part_names)))

    def _head(self, backbone: Backbone) -> PointHead:
        if backbone.point_head is None:
            raise UsageError(f"task: there is no segmentation head for {backbone.name}", "Use another backbone.name.")
        categories = len(self.classes) if self.tells_categories else 0
        return POINT_HEADS[backbone.point_head](backbone, len(self.part_names), categories)


class PartSegmentation(Segmentation):
    """Parts of objects whose category is known (ShapeNetPart).

    The head is told the category, and only its parts are ever predicted; the loss is over those of all categories, as
    in the released code.
    """

    name: ClassVar[str] = "part_segmentation"
    score: ClassVar[str] = "instance_miou"
    tells_categories: ClassVar[bool] = True

    def outcome(self, logits: Tensor, categories: Tensor | None = None) -> Tensor:
        """The best label of every point, int64 (B, N), among the parts of its cloud's category where that is known."""
        if categories is None:
            return logits.argmax(dim=2)
        return restricted_argmax(logits, categories, list(self.parts.values()))

    def probabilities(self, logits: Tensor, categories: Tensor | None = None) -> Tensor:
        """(B, N, labels), where the category is known 0 for labels that are no parts of it."""
        if categories is None:
            return logits.softmax(dim=2)
        return restricted(logits, categories, list(self.parts.values())).softmax(dim=2)

    def metrics(self, outcomes: Tensor, targets: Tensor, categories: Tensor | None = None) -> dict[str, float]:
        """Mean over shapes, and over categories, of the intersection over union; and the share of points that is right.

        Raises:
            DataError: no point counts.
        """
        assert categories is not None
        _require_points(targets)
        ious = shape_ious(outcomes, targets, categories, list(self.parts.values()))
        scores = part_scores(ious, categories, self.classes)
        counted = targets != IGNORED
        return {
            "instance_miou": scores.instance_miou,
            "class_miou": scores.class_miou,
            "accuracy": 100.0 * float((outcomes == targets)[counted].double().mean()),
        }


class SceneSegmentation(Segmentation):
    """Classes of the points of a scene, or of blocks of it (S3DIS).

    Attributes:
        weights: of the labels in the loss, float32; ``None`` for equal ones.
    """

    name: ClassVar[str] = "scene_segmentation"
    score: ClassVar[str] = "miou"
    weights: Tensor | None = None

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """With weights, the mean in which every point has that of its class."""
        weights = None if self.weights is None else self.weights.to(logits.device)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), weights, ignore_index=IGNORED)

    def metrics(self, outcomes: Tensor, targets: Tensor, categories: Tensor | None = None) -> dict[str, float]:
        """Mean over classes of intersection over union and of accuracy, and accuracy over all points.

        Raises:
            DataError: no point counts.
        """
        _require_points(targets)
        scores = point_scores(self.confusion(outcomes, targets).counts, self.part_names)
        return {
            "miou": scores.miou,
            "mean_class_accuracy": scores.mean_class_accuracy,
            "accuracy": scores.accuracy,
        }


def _require_points(targets: Tensor) -> None:
    if not bool((targets != IGNORED).any()):
        raise DataError("no point of the split has a label that counts", "Check the labels of the data.")
