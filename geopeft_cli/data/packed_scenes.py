"""Many scenes in one ``.npz`` file.

``points`` is (sum n, 3) with ``offset``, the ends of the scenes, or these after a leading 0. Colors, normals and labels
are arrays (sum n, ...) under any usual name, or the name that the recipe gives. ``scene``, the names, is optional.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.formats.arrays import load_numpy
from geopeft_cli.data.scene_fields import Absent, LabelNames, completed, scene_of_fields
from geopeft_cli.data.scene_files import PARTS, divided, splits_of
from geopeft_cli.data.scenes import Int64, Scene, SceneSplits, SomeScenes, checked_scene
from geopeft_cli.data.splitting import split_way
from geopeft_cli.errors import DataError, MissingDataError, UsageError

_HINT = "A packed file holds points (all points, 3), offset (scenes,) or (scenes + 1,), and a label for every point."


class PackedScenes:
    """All scenes of a packed file, in memory.

    Args:
        path: the ``.npz`` file.
        labels: how labels are found and mapped.
        absent: what stands in for colors and normals that the file lacks.

    Raises:
        DataError: the file is missing or damaged, or its offsets do not divide its points.
    """

    def __init__(self, path: Path, labels: LabelNames, absent: Absent = Absent()) -> None:  # noqa: B008 - frozen
        if not path.is_file():
            raise MissingDataError(f"{path}: no such file", "Set data.path to the packed .npz file.")
        arrays = load_numpy(path)
        if not isinstance(arrays, dict) or "offset" not in arrays:
            raise DataError(f"{path}: has no array 'offset'", _HINT)
        self.classes = labels.classes
        self._path, self._labels, self._absent = path, labels, absent
        count = max((len(array) for array in arrays.values() if array.ndim == 2), default=0)
        self._bounds = _bounds(path, arrays["offset"], count)
        self._fields = {name: array for name, array in arrays.items() if array.ndim and len(array) == count}
        self.names = self._names(arrays.get("scene"))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> Scene:
        """The scene, checked.

        Raises:
            DataError: it holds something else; the message names file and scene.
        """
        where, part = f"{self._path}: scene {self.names[index]}", slice(*self._bounds[index : index + 2].tolist())
        fields = {name: array[part] for name, array in self._fields.items()}
        scene = scene_of_fields(self.names[index], fields, self._labels, where)
        return completed(checked_scene(scene, len(self.classes), where), self._absent)

    def _names(self, names: npt.NDArray[Any] | None) -> tuple[str, ...]:
        if names is None:
            return tuple(str(index) for index in range(len(self)))
        if names.shape != (len(self),):
            raise DataError(f"{self._path}: scene has the shape {names.shape} for {len(self)} scenes", _HINT)
        return tuple(map(str, names.tolist()))


def packed_scene_splits(
    path: str | Path,
    split: Mapping[str, Any],
    labels: LabelNames,
    absent: Absent = Absent(),  # noqa: B008 - frozen
    seed: int = 0,
) -> SceneSplits:
    """The parts of a packed file.

    Args:
        path: the ``.npz`` file.
        split: ``{"by": "fraction", "validation": 0.0, "test": 0.2}``, or ``{"by": "name", "train": "learn",
            "validation": None, "test": "test"}`` for the scenes whose names begin so.
        labels: how labels are found and mapped.
        absent: what stands in for colors and normals that the file lacks.
        seed: of the draw.

    Raises:
        UsageError: the split does not go with packed scenes.
        DataError: the file is missing, damaged, or not as described above, or no name begins so.
    """
    scenes = PackedScenes(Path(path), labels, absent)
    if split_way(split, ("fraction", "name"), "packed scenes") == "fraction":
        return divided(scenes, split, seed)
    parts = {}
    for part in PARTS:
        if prefix := split.get(part):
            index = [at for at, name in enumerate(scenes.names) if name.startswith(str(prefix))]
            if not index:
                raise UsageError(f"data.split.{part}: no scene of {path} begins with {prefix!r}", "Look at `scene`.")
            parts[part] = SomeScenes(scenes, index)
    return splits_of(parts)


def _bounds(path: Path, offset: npt.NDArray[Any], count: int) -> Int64:
    if offset.dtype.kind not in "iu" or offset.ndim != 1 or not len(offset):
        raise DataError(f"{path}: offset is {offset.dtype} {offset.shape}, not integers", _HINT)
    bounds = offset.astype(np.int64)
    bounds = bounds if bounds[0] == 0 else np.concatenate([[0], bounds])
    if len(bounds) < 2 or bounds[-1] != count or bool((np.diff(bounds) < 1).any()):
        raise DataError(
            f"{path}: offset does not divide {count} points into {len(bounds) - 1} scenes",
            "It holds the end of every scene, ascending, the last the number of points; a leading 0 is allowed.",
        )
    return bounds
