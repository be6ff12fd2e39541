"""What a model says of clouds and scenes without labels, each by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from geopeft_cli.contracts import Backbone, Task
from geopeft_cli.data.clouds import Labels, Points
from geopeft_cli.errors import DataError

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prepared:
    """What is predicted.

    Attributes:
        name: for messages.
        category: the label of its class, where the model is told it.
        points: (n, 3), in the units of the file; empty where a cloud gets one label.
        filled: what stands in for colors or normals that a file lacks.
    """

    name: str
    category: int
    points: Points
    filled: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    @property
    def shown(self) -> Float32:
        """What a picture shows, (n, 3), where float32 does not lose it."""
        near: Float32 = (self.points - self.points.mean(axis=0, dtype=np.float64)).astype(np.float32)
        return near


P = TypeVar("P", bound=Prepared)


@dataclass(frozen=True)
class Prediction:
    """What a model says of a cloud or a scene.

    Attributes:
        cloud: what it was asked about.
        seen: float32 (classes,), probabilities; with a label a point (N, labels), those of the points it saw.
        nearest: int64 (n,), for every point of the cloud the nearest one that the model saw, or that of its voxel; None
            with one label, or where the model saw all.
    """

    cloud: Prepared
    seen: Float32
    nearest: Labels | None = None

    @property
    def labels(self) -> Labels:
        """The likeliest label: int64 () of the cloud, or (n,) of all of its points."""
        best = np.asarray(self.seen.argmax(axis=-1), dtype=np.int64)
        return best if self.nearest is None else best[self.nearest]

    @property
    def probabilities(self) -> Float32:
        """Float32 (classes,), or (n, labels) for all points of the cloud."""
        return self.seen if self.nearest is None else self.seen[self.nearest]

    @property
    def confidences(self) -> Float32:
        """The probability of the likeliest label: float32 (), or (n,)."""
        most = np.asarray(self.seen.max(axis=-1), dtype=np.float32)
        return most if self.nearest is None else most[self.nearest]


class Predictor(ABC, Generic[P]):
    """Prepares clouds or scenes and asks a model about them, whatever the others are.

    Args:
        model: in eval mode, on ``device``.
        device: of the model.
        autocast: the context of the forward pass.

    Attributes:
        noun: what one of them is called.
        suffixes: of the files that it reads.
    """

    noun: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        model: Backbone,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        assert model.task is not None
        self._model, self._device, self._autocast = model, device, autocast

    @property
    def _task(self) -> Task:
        assert self._model.task is not None
        return self._model.task

    @abstractmethod
    def from_file(self, path: Path, name: str, category: int = 0) -> P:
        """Read and prepare a file.

        Raises:
            DataError: it cannot be used.
        """

    @abstractmethod
    def from_memory(self, given: object, name: str, category: int = 0) -> P:
        """Prepare what a program holds.

        Raises:
            DataError: it cannot be used.
        """

    @abstractmethod
    def predict(self, prepared: Sequence[P]) -> list[Prediction]:
        """Ask the model about what was prepared.

        Raises:
            GeopeftError: what it says of one is not finite.
        """

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """How everything is prepared and predicted, as plain values."""


def as_numbers(given: object, name: str) -> npt.NDArray[Any]:
    """An array of points, (n, 3) or wider.

    Raises:
        DataError: it is something else.
    """
    points = np.asarray(given)
    if points.ndim != 2 or points.shape[1] < 3 or not len(points) or points.dtype.kind not in "fiu":
        what, _, _ = name.partition(" ")
        raise DataError(f"{name}: is {points.dtype} of shape {points.shape}", f"A {what} is (n, 3) numbers.")
    return points
