"""What a set of labelled clouds is to the rest of the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.int64]
PointLabels = npt.NDArray[np.integer[Any]]
Parts = Mapping[str, tuple[int, ...]]

IGNORED = -1
"""The label of a point that counts neither in training nor in testing."""

NO_PARTS: Parts = MappingProxyType({})
"""Of a set whose points have no labels."""


@dataclass(frozen=True)
class Cloud:
    """One labelled cloud.

    Attributes:
        points: (n, 3), float32, or float64 where a file's coordinates are too large to be cast before centering.
        label: index into the classes of its set.
        name: what a message calls it: the path below the root, or the file and the index in it.
        point_labels: (n,), of any type of integers: the label of every point, an index into the part names of its
            set or ``IGNORED``; None in a set without part names.
    """

    points: Points
    label: int
    name: str
    point_labels: PointLabels | None = None


class CloudSet(Protocol):
    """An indexed set of labelled clouds, whose points may have labels too.

    What it says of the labels is the same in every part of a split.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels of clouds: their categories, where points have labels."""

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of the labels of points; empty where points have none."""

    @property
    def parts(self) -> Parts:
        """The labels that the points of each class may have, ascending; empty where points have none."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Cloud: ...

    def labels(self) -> Labels:
        """The label of every cloud, int64 (len,), without loading the clouds."""


@runtime_checkable
class FreshClouds(CloudSet, Protocol):
    """A set that cuts its clouds at random from something larger, and in training new ones in every epoch."""

    def fresh(self, index: int, generator: np.random.Generator) -> Cloud:
        """Another cloud in the place of the one that the set gives at ``index``, with the same label."""


@runtime_checkable
class PiecesOfScenes(CloudSet, Protocol):
    """A set whose clouds are overlapping pieces that cover scenes, whose points are labelled by adding up votes."""

    scenes: tuple[str, ...]
    """Names."""

    def origin(self, index: int) -> tuple[int, Labels]:
        """The scene of a cloud, an index into ``scenes``, and for each of its points which point of the scene it is."""

    def scene_labels(self, scene: int) -> PointLabels:
        """The labels of all points of a scene."""


@dataclass
class Splits:
    """The parts of a data set; ``validation`` is None where the recipe asks for none."""

    train: CloudSet
    validation: CloudSet | None
    test: CloudSet


class MemoryClouds:
    """Clouds that are in memory.

    Args:
        points: one (n, 3) array a cloud, or one array (M, n, 3).
        labels: (M,), indices into ``classes``.
        classes: the names of the labels.
        names: what messages call the clouds; by default their index.
        point_labels: one (n,) array a cloud, or one array (M, n).
        part_names: the names of the labels of points.
        parts: the labels that the points of each class may have; by default all.
    """

    def __init__(
        self,
        points: Sequence[Points] | Points,
        labels: npt.ArrayLike,
        classes: Sequence[str],
        names: Sequence[str] | None = None,
        point_labels: Sequence[PointLabels] | PointLabels | None = None,
        part_names: Sequence[str] = (),
        parts: Parts | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.part_names = tuple(part_names)
        self.parts = parts if parts is not None else every_part(classes, part_names)
        self._points = points
        self._labels = np.asarray(labels, dtype=np.int64)
        self._names = names
        self._point_labels = point_labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Cloud:
        name = f"cloud {index}" if self._names is None else self._names[index]
        point_labels = None if self._point_labels is None else self._point_labels[index]
        return Cloud(self._points[index], int(self._labels[index]), name, point_labels)

    def labels(self) -> Labels:
        return self._labels


class Subset:
    """Some clouds of a set, in the order of ``indices``."""

    def __init__(self, clouds: CloudSet, indices: npt.ArrayLike) -> None:
        self.classes = clouds.classes
        self.part_names = clouds.part_names
        self.parts = clouds.parts
        self._clouds = clouds
        self._indices = np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Cloud:
        return self._clouds[int(self._indices[index])]

    def labels(self) -> Labels:
        return self._clouds.labels()[self._indices]


def every_part(classes: Sequence[str], part_names: Sequence[str]) -> Parts:
    """All labels of points for every class, or ``NO_PARTS`` where there are none."""
    return {name: tuple(range(len(part_names))) for name in classes} if part_names else NO_PARTS
