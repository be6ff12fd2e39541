"""What a set of labelled clouds is to the rest of the program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cloud:
    """One labelled cloud.

    Attributes:
        points: (n, 3), float32, or float64 where a file's coordinates are too large to be cast before centering.
        label: index into the classes of its set.
        name: what a message calls it: the path below the root, or the file and the index in it.
    """

    points: Points
    label: int
    name: str


class CloudSet(Protocol):
    """An indexed set of labelled clouds. ``classes`` are the names of the labels, the same in every part of a split."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Cloud: ...

    def labels(self) -> Labels:
        """The label of every cloud, int64 (len,), without loading the clouds."""


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
    """

    def __init__(
        self,
        points: Sequence[Points] | Points,
        labels: npt.ArrayLike,
        classes: Sequence[str],
        names: Sequence[str] | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self._points = points
        self._labels = np.asarray(labels, dtype=np.int64)
        self._names = names

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Cloud:
        name = f"cloud {index}" if self._names is None else self._names[index]
        return Cloud(self._points[index], int(self._labels[index]), name)

    def labels(self) -> Labels:
        return self._labels


class Subset:
    """Some clouds of a set, in the order of ``indices``."""

    def __init__(self, clouds: CloudSet, indices: npt.ArrayLike) -> None:
        self.classes = clouds.classes
        self._clouds = clouds
        self._indices = np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Cloud:
        return self._clouds[int(self._indices[index])]

    def labels(self) -> Labels:
        return self._clouds.labels()[self._indices]
