"""Shape classification: one label a cloud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from geopeft_cli.contracts import Backbone, Confusion, Task
from geopeft_cli.tasks.fusion import Fusion, fused_layers
from geopeft_cli.tasks.heads import HEADS


class Classification(Task):
    """Cross entropy on the official head of the backbone, or on a single linear layer.

    Args:
        classes: class names, in the order of the labels.
        head: ``mlp`` (the official head) or ``linear``.
        label_smoothing: eps; the class gets 1 - eps and every other class eps / (n - 1), as the released code has it.
        fusion: ``layers`` and ``affine`` of the multi-layer feature fusion; 0 layers for none.
    """

    name: ClassVar[str] = "classification"

    def __init__(
        self,
        classes: Sequence[str],
        head: Literal["mlp", "linear"] = "mlp",
        label_smoothing: float = 0.0,
        fusion: Mapping[str, Any] | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.head = head
        self.label_smoothing = label_smoothing
        self.fusion = dict(fusion or {"layers": 0, "affine": False})
        self.head_names = ("cls_head_finetune", "fusion") if self.fusion["layers"] else ("cls_head_finetune",)

    def settings(self) -> dict[str, Any]:
        return {
            "classes": list(self.classes),
            "head": self.head,
            "label_smoothing": self.label_smoothing,
            "fusion": self.fusion,
        }

    def attach(self, backbone: Backbone) -> None:
        layout = backbone.head_layout if self.head == "mlp" else "linear"
        backbone.cls_head_finetune = HEADS[layout](backbone.feature_width, len(self.classes))
        if self.fusion["layers"]:
            layers = fused_layers(backbone.fusion_blocks, self.fusion["layers"])
            backbone.fusion = Fusion(backbone.width, layers, self.fusion["affine"])
        backbone.task = self

    def predict(self, backbone: Backbone, points: Tensor, categories: Tensor | None = None) -> Tensor:
        head = backbone.get_submodule("cls_head_finetune")
        logits: Tensor
        if not self.fusion["layers"]:
            logits = head(backbone.pool(backbone.encode(points)))
            return logits
        fusion = backbone.get_submodule("fusion")
        assert isinstance(fusion, Fusion)
        tokens = backbone.encode(points, fusion.layers)
        logits = head(backbone.pool(tokens, fusion(tokens)))
        return logits

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits, count = logits.float(), logits.shape[1]
        if self.label_smoothing == 0.0 or count == 1:
            return F.cross_entropy(logits, targets)
        # torch's own smoothing spreads eps over all n classes, the field over the other n - 1
        smoothed = torch.full_like(logits, self.label_smoothing / (count - 1))
        smoothed.scatter_(1, targets[:, None], 1.0 - self.label_smoothing)
        return F.cross_entropy(logits, smoothed)

    def metrics(self, outcomes: Tensor, targets: Tensor, categories: Tensor | None = None) -> dict[str, float]:
        """Overall accuracy, and the mean over the classes present of their recall, both in percent."""
        predicted = outcomes.argmax(dim=1)
        total = torch.bincount(targets, minlength=len(self.classes))
        correct = torch.bincount(targets[predicted == targets], minlength=len(self.classes))
        present = total > 0
        return {
            "accuracy": 100.0 * float(correct.sum()) / len(targets),
            "mean_class_accuracy": 100.0 * float((correct[present].double() / total[present]).mean()),
        }

    def confusion(self, outcomes: Tensor, targets: Tensor) -> Confusion:
        return Confusion.of(self.classes, outcomes.argmax(dim=1), targets)
