"""What a labelled scene is to the rest of the program: many points with colors, normals and a label each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.clouds import IGNORED
from geopeft_cli.errors import DataError

Floats = npt.NDArray[np.floating[Any]]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """One scene, z up, an array row a point.

    Attributes:
        name: what messages call it.
        coordinates: (n, 3) in meters, float32, or float64 where a file's coordinates are far from the origin.
        labels: (n,), indices into the classes of its set, or ``IGNORED``.
        colors: (n, 3), red, green and blue, 0 to 255; 0 to 1 after ``normalize_colors``. None where there are none.
        normals: (n, 3), of length 1, or 0 where unknown. None where there are none.
        strength: (n, 1), how strongly a laser's light came back. None where there is none.
        rows: (n,), which point of the scene as stored each one is. None for all in order.
        kept: (n,), the points that subsampling may not drop. None for no such points.
        voxels: (n, 3), the places of the points in a grid, 0 or more. None before grid sampling.
    """

    name: str
    coordinates: Floats
    labels: Int64
    colors: Float32 | None = None
    normals: Float32 | None = None
    strength: Float32 | None = None
    rows: Int64 | None = None
    kept: Mask | None = None
    voxels: Int64 | None = None

    def __len__(self) -> int:
        return len(self.coordinates)

    def take(self, index: npt.NDArray[np.intp] | Int64 | Mask) -> Scene:
        """The points of an index or a mask, in its order, with everything that belongs to them."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        taken: dict[str, Any] = {name: array[index] for name, array in arrays.items() if isinstance(array, np.ndarray)}
        if self.rows is None:
            taken["rows"] = np.arange(len(self))[index]
        return replace(self, **taken)


@runtime_checkable
class SceneSet(Protocol):
    """An indexed set of labelled scenes."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the scenes, without loading them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Scene: ...


@dataclass
class SceneSplits:
    """The parts of a set of scenes; ``validation`` is None where none is asked for."""

    train: SceneSet
    validation: SceneSet | None
    test: SceneSet


class MemoryScenes:
    """Scenes that are in memory.

    Raises:
        DataError: as :func:`checked_scene` does.
    """

    def __init__(self, scenes: Sequence[Scene], classes: Sequence[str]) -> None:
        for scene in scenes:
            checked_scene(scene, len(classes), f"scene {scene.name}")
        self.classes = tuple(classes)
        self.names = tuple(scene.name for scene in scenes)
        self._scenes = scenes

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Scene:
        return self._scenes[index]


class SomeScenes:
    """A part of another set: the scenes of an index, in its order."""

    def __init__(self, scenes: SceneSet, index: npt.ArrayLike) -> None:
        self._index: Int64 = np.asarray(index, dtype=np.int64)
        self._scenes = scenes
        self.classes = scenes.classes
        self.names = tuple(scenes.names[at] for at in self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Scene:
        return self._scenes[int(self._index[index])]


def rescaled(scene: Scene, factor: float) -> Scene:
    """The scene with all coordinates times ``factor``, of the same type."""
    return replace(scene, coordinates=scene.coordinates * scene.coordinates.dtype.type(factor))


class RescaledScenes:
    """Another set with all coordinates times ``factor``, which leads from its unit to meters."""

    def __init__(self, scenes: SceneSet, factor: float) -> None:
        self.classes, self.names = scenes.classes, scenes.names
        self._scenes, self._factor = scenes, factor

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Scene:
        return rescaled(self._scenes[index], self._factor)


@dataclass
class Memory:
    """How many bytes the sets that share it may still keep."""

    room: int = 2 * 10**9


class KeptScenes:
    """Another set, whose scenes stay in memory once they are read, while there is room."""

    def __init__(self, scenes: SceneSet, memory: Memory) -> None:
        self.classes, self.names = scenes.classes, scenes.names
        self._scenes, self._memory = scenes, memory
        self._kept: dict[int, Scene] = {}

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Scene:
        if index in self._kept:
            return self._kept[index]
        scene = self._scenes[index]
        size = sum(array.nbytes for array in vars(scene).values() if isinstance(array, np.ndarray))
        if size <= self._memory.room:
            self._memory.room -= size
            self._kept[index] = scene
        return scene


def checked_scene(scene: Scene, classes: int, where: str) -> Scene:
    """The scene, if a network can be trained on it.

    Args:
        scene: as read, colors 0 to 255.
        classes: how many there are.
        where: the file or folder, for messages.

    Raises:
        DataError: no points, arrays of different lengths or wrong widths, a coordinate, color or normal that is not
            finite, a label out of range, colors outside 0 to 255 or scaled to 0 to 1, normals not of length 0 or 1.
    """
    if not len(scene):
        raise DataError(f"{where}: has no points", "Remove it from the data set.")
    widths = {"coordinates": (3,), "colors": (3,), "normals": (3,), "strength": (1,), "labels": ()}
    for name, width in widths.items():
        array = getattr(scene, name)
        if array is None:
            continue
        if array.shape != (len(scene), *width):
            raise DataError(
                f"{where}: {name} has the shape {array.shape}, not {(len(scene), *width)}", "One row a point is needed."
            )
        if not np.isfinite(array).all():
            first = int(np.flatnonzero(~np.isfinite(array).reshape(len(scene), -1).all(axis=1))[0])
            raise DataError(f"{where}: {name} of point {first} is NaN or infinite", "Remove or repair this point.")
    _check_labels(scene.labels, classes, where)
    _check_colors(scene.colors, where)
    _check_normals(scene.normals, where)
    return scene


def _check_labels(labels: Int64, classes: int, where: str) -> None:
    wrong = np.flatnonzero((labels < IGNORED) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"{where}: point {wrong[0]} has the label {labels[wrong[0]]}, not in 0..{classes - 1} or {IGNORED}",
            "Labels are indices into the classes; map others with the option for labels.",
        )


def _check_colors(colors: Float32 | None, where: str) -> None:
    if colors is None:
        return
    low, high = float(colors.min()), float(colors.max())
    if low < 0 or high > 255:
        raise DataError(f"{where}: colors from {low:g} to {high:g}", "They have to be 0 to 255.")
    if 0 < high <= 1 and bool((colors != np.round(colors)).any()):
        raise DataError(f"{where}: colors from {low:g} to {high:g} look as if scaled to 0..1", "Save them as 0 to 255.")


def _check_normals(normals: Float32 | None, where: str) -> None:
    if normals is None:
        return
    lengths = np.linalg.norm(normals, axis=1)
    wrong = np.flatnonzero((np.abs(lengths - 1) > 0.05) & (lengths > 1e-6))
    if len(wrong):
        raise DataError(
            f"{where}: the normal of point {wrong[0]} has the length {lengths[wrong[0]]:.3g}",
            "Normals have to be of length 1, or 0 where unknown.",
        )
