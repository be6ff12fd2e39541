"""Many clouds in one ``.npz`` file.

``points`` is (M, n, 3), or (sum n, 3) with ``offset``: the M ends of the clouds, or these after a leading 0.
``label`` is (M,), integers. ``classes``, the names of the labels, is optional, and so is a boolean array (M,) that
marks the test clouds.

``point_labels``, (M, n) or (sum n,), integers, is optional: the label of every point, or -1 for points that do not
count. ``part_names`` names these labels. Where they are, ``label`` may be missing: all clouds are then of one class.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.clouds import IGNORED, NO_PARTS, Cloud, Labels, Parts, Splits, Subset
from geopeft_cli.data.formats.arrays import load_numpy
from geopeft_cli.data.splitting import fractions, require_trained, split_way, stratified
from geopeft_cli.errors import DataError, MissingDataError, UsageError


def packed_splits(path: str | Path, split: Mapping[str, Any], seed: int) -> Splits:
    """The parts of a packed file.

    Args:
        path: the ``.npz`` file.
        split: ``{"by": "fraction", "validation": 0.0, "test": 0.2}``, or
            ``{"by": "field", "field": "is_test", "validation": 0.0}``.
        seed: of what is drawn at random.

    Raises:
        DataError: the file is missing, damaged, or not as described above; the message names file and array.
        UsageError: the split does not go with packed files, or leaves a part empty.
    """
    path = Path(path)
    way = split_way(split, ("fraction", "field"), "packed")
    arrays = _load(path)
    clouds = PackedClouds(path, arrays)
    labels = clouds.labels()
    if way == "fraction":
        parts = stratified(labels, clouds.classes, fractions(split), seed)
    else:
        field = str(split.get("field", "is_test"))
        is_test = _test_marks(path, arrays, field, len(clouds))
        rest = np.flatnonzero(~is_test)
        shares = {"validation": float(split.get("validation", 0.0))}
        drawn = stratified(labels[rest], clouds.classes, shares, seed)
        parts = {part: rest[indices] for part, indices in drawn.items()} | {"test": np.flatnonzero(is_test)}
    require_trained(clouds.classes, labels[parts["train"]], "test", labels[parts["test"]])
    return Splits(
        Subset(clouds, parts["train"]),
        Subset(clouds, parts["validation"]) if len(parts["validation"]) else None,
        Subset(clouds, parts["test"]),
    )


class PackedClouds:
    """All clouds of a packed file, in memory in the file's own precision.

    Args:
        path: the file, for messages.
        arrays: what is in it.

    Raises:
        DataError: an array is missing or has the wrong shape, a label is out of range, or a cloud has no point
            without NaN.
    """

    def __init__(self, path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self._path = path
        self._points = _numbers(path, arrays, "points", "f")
        self._labels = _cloud_labels(path, arrays)
        if self._labels.ndim != 1 or not len(self._labels):
            raise DataError(f"{path}: label has the shape {self._labels.shape}, not (clouds,)", _HINT)
        self._bounds = self._boundaries(arrays)
        self.classes = self._class_names(arrays)
        self._check_points()
        self._point_labels = self._checked_point_labels(arrays)
        self.part_names = self._names_of_parts(arrays)
        self.parts = self._parts_of_classes()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Cloud:
        """The cloud without points that have a NaN or infinite coordinate."""
        points = self._slice(self._points, index)
        finite = np.isfinite(points).all(axis=1)
        point_labels = None if self._point_labels is None else self._slice(self._point_labels, index)[finite]
        # float16 is too coarse to compute in; float64 may hold survey coordinates and is kept
        points = points[finite].astype(np.promote_types(points.dtype, np.float32))
        return Cloud(points, int(self._labels[index]), f"{self._path.name}[{index}]", point_labels)

    def labels(self) -> Labels:
        return self._labels

    def _slice(self, array: npt.NDArray[Any], index: int) -> npt.NDArray[Any]:
        if self._bounds is None:
            cloud: npt.NDArray[Any] = array[index]
            return cloud
        return array[self._bounds[index] : self._bounds[index + 1]]

    def _boundaries(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Labels | None:
        """None for (M, n, 3), else the M + 1 boundaries of the clouds."""
        shape, count = self._points.shape, len(self._labels)
        if self._points.ndim == 3 and shape[2] == 3 and shape[0] == count:
            return None
        if self._points.ndim != 2 or shape[1] != 3:
            raise DataError(f"{self._path}: points has the shape {shape} for {count} labels", _HINT)
        offset = _numbers(self._path, arrays, "offset", "iu").astype(np.int64)
        if offset.shape == (count,):
            offset = np.concatenate([[0], offset])
        ascending = bool(np.all(offset[1:] >= offset[:-1]))
        if offset.shape != (count + 1,) or not ascending or (offset[0], offset[-1]) != (0, len(self._points)):
            raise DataError(
                f"{self._path}: offset does not divide {len(self._points)} points into {count} clouds",
                "It holds the end of every cloud, ascending, the last the number of points; a leading 0 is allowed.",
            )
        return offset

    def _class_names(self, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[str, ...]:
        if "classes" in arrays:
            names = tuple(str(name) for name in arrays["classes"].tolist())
        else:
            names = tuple(str(label) for label in range(int(self._labels.max()) + 1))
        outside = np.flatnonzero((self._labels < 0) | (self._labels >= len(names)))
        if len(outside):
            label = self._labels[outside[0]]
            raise DataError(
                f"{self._path}: cloud {outside[0]} has the label {label}, not in 0..{len(names) - 1}",
                "Labels are indices into `classes`.",
            )
        return names

    def _check_points(self) -> None:
        for index in range(len(self)):
            points = self._slice(self._points, index)
            if not np.isfinite(points).all(axis=1).any():
                what = f"{len(points)} points, all of them NaN or infinite" if len(points) else "no points"
                raise DataError(f"{self._path}: cloud {index} has {what}", "Remove it from the file.")

    def _checked_point_labels(self, arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any] | None:
        if "point_labels" not in arrays:
            return None
        found = _numbers(self._path, arrays, "point_labels", "iu")
        if found.shape != self._points.shape[:-1]:
            raise DataError(
                f"{self._path}: point_labels has the shape {found.shape} for points {self._points.shape}",
                "It holds one integer a point.",
            )
        return found

    def _names_of_parts(self, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[str, ...]:
        if self._point_labels is None:
            return ()
        largest, smallest = int(self._point_labels.max()), int(self._point_labels.min())
        if "part_names" in arrays:
            names = tuple(str(name) for name in arrays["part_names"].tolist())
        else:
            names = tuple(str(label) for label in range(largest + 1))
        if smallest < IGNORED or largest >= len(names) or largest < 0:
            wrong = smallest if smallest < IGNORED else largest
            raise DataError(
                f"{self._path}: point_labels holds {wrong}, not in 0..{len(names) - 1} or {IGNORED}",
                "Labels are indices into `part_names`; -1 is for points that do not count.",
            )
        return names

    def _parts_of_classes(self) -> Parts:
        """The labels that occur in the clouds of each class of the file."""
        if self._point_labels is None:
            return NO_PARTS
        seen: dict[str, set[int]] = {name: set() for name in self.classes}
        for index, label in enumerate(self._labels):
            seen[self.classes[label]].update(np.unique(self._slice(self._point_labels, index)).tolist())
        return {name: tuple(sorted(own - {IGNORED})) for name, own in seen.items()}


_HINT = "A packed file holds points (clouds, n, 3), or (all points, 3) with offset, and label (clouds,)."


def _load(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file", "Set data.path to the packed .npz file.")
    arrays = load_numpy(path)
    if not isinstance(arrays, dict):
        raise DataError(f"{path}: is a single array", _HINT)
    return arrays


def _cloud_labels(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> Labels:
    if "label" in arrays or "point_labels" not in arrays:
        return _numbers(path, arrays, "label", "iu").astype(np.int64)
    count = len(_numbers(path, arrays, "points", "f"))
    if "offset" in arrays:
        offset = _numbers(path, arrays, "offset", "iu")
        count = len(offset) - (offset[:1].tolist() == [0])
    return np.zeros(count, dtype=np.int64)


def _numbers(path: Path, arrays: Mapping[str, npt.NDArray[Any]], name: str, kinds: str) -> npt.NDArray[Any]:
    if name not in arrays:
        raise DataError(f"{path}: has no array {name!r}, only {', '.join(arrays)}", _HINT)
    if arrays[name].dtype.kind not in kinds:
        raise DataError(f"{path}: {name} is of type {arrays[name].dtype}", _HINT)
    return arrays[name]


def _test_marks(path: Path, arrays: Mapping[str, npt.NDArray[Any]], field: str, count: int) -> npt.NDArray[np.bool_]:
    marks = arrays.get(field)
    if marks is None:
        raise UsageError(f"data.split.field: {path} has no array {field!r}", f"It has {', '.join(arrays)}.")
    if marks.dtype != np.bool_ or marks.shape != (count,):
        raise DataError(f"{path}: {field} is {marks.dtype} {marks.shape}, not bool ({count},)", "Save it as booleans.")
    if marks.all() or not marks.any():
        marked = np.count_nonzero(marks)
        raise DataError(f"{path}: {field} marks {marked} of {count} clouds as test clouds", "Mark some, not all.")
    return marks
