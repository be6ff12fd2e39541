"""What a task is to a backbone and to the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from geopeft_cli.contracts.model import Backbone


class LabelledBatch(Protocol):
    """What a task reads of a batch."""

    @property
    def points(self) -> Tensor:
        """float32 (B, N, 3)."""

    @property
    def labels(self) -> Tensor:
        """int64 (B,), the class of every cloud."""

    @property
    def point_labels(self) -> Tensor | None:
        """int64 (B, N), the class of every point, where the data has them."""


class Labelled(Protocol):
    """What names the labels of a data set: the set itself, or the record of a model trained on it."""

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def part_names(self) -> Sequence[str]: ...

    @property
    def parts(self) -> Mapping[str, Sequence[int]]: ...


@dataclass(frozen=True)
class Vocabulary:
    """The names of the labels of clouds and points.

    Attributes:
        classes: of clouds: their classes, or the categories of segmented objects.
        part_names: of points; empty where they have no labels.
        parts: for every class, the labels that its points may have.
    """

    classes: tuple[str, ...]
    part_names: tuple[str, ...] = ()
    parts: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Labelled) -> Vocabulary:
        return cls(tuple(source.classes), tuple(source.part_names), source.parts)


@dataclass(frozen=True)
class Confusion:
    """Names of classes, and counts (classes, classes) whose rows are the true ones."""

    names: tuple[str, ...]
    counts: Tensor

    @classmethod
    def of(cls, names: Sequence[str], decided: Tensor, targets: Tensor) -> Confusion:
        """From decisions and truth, int64 of one shape; truths below 0 are left out."""
        known = targets >= 0
        pairs = targets[known] * len(names) + decided[known].long()
        return cls(tuple(names), torch.bincount(pairs, minlength=len(names) ** 2).reshape(len(names), len(names)))


class Task(ABC):
    """A head, its loss and its metrics.

    Attributes:
        name: the word for it in recipes.
        is_dense: whether there is a prediction for every point.
        tells_categories: whether the model is told the class of every cloud.
        score: the metric by which a run chooses the weights that it keeps.
        head_names: the top-level modules that :meth:`attach` adds to the backbone.
    """

    name: ClassVar[str]
    is_dense: ClassVar[bool] = False
    tells_categories: ClassVar[bool] = False
    score: ClassVar[str] = "accuracy"
    head_names: tuple[str, ...]

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The plain values that rebuild this task: the arguments of its constructor."""

    @abstractmethod
    def attach(self, backbone: Backbone) -> None:
        """Add the head to the backbone under its official name."""

    def targets(self, batch: LabelledBatch) -> Tensor:
        """What is to be predicted, int64 (B,) or (B, N)."""
        return batch.labels

    def conditions(self, batch: LabelledBatch) -> tuple[Tensor, ...]:
        """What the model is told of every cloud beside its points, as further arguments of its forward pass."""
        return (batch.labels,) if self.tells_categories else ()

    @abstractmethod
    def predict(self, backbone: Backbone, points: Tensor, categories: Tensor | None = None) -> Tensor:
        """Logits for clouds (B, N, 3): (B, classes), or (B, N, classes) where ``is_dense``."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a batch, a scalar."""

    def outcome(self, logits: Tensor, categories: Tensor | None = None) -> Tensor:
        """What :meth:`metrics` needs of a batch's logits: all of them, or, where that is large, the decisions."""
        return logits

    def probabilities(self, logits: Tensor, categories: Tensor | None = None) -> Tensor:
        """Those of the labels, along the last dimension."""
        return logits.softmax(dim=-1)

    @abstractmethod
    def metrics(self, outcomes: Tensor, targets: Tensor, categories: Tensor | None = None) -> dict[str, float]:
        """Named figures over a whole split, in percent; ``accuracy`` and ``score`` are always among them."""

    @abstractmethod
    def confusion(self, outcomes: Tensor, targets: Tensor) -> Confusion:
        """What is taken for what over a whole split."""
