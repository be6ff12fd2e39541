"""Scenes in the folders that Pointcept's preparation writes: ``<root>/<split>/<scene>/coord.npy`` and so on.

S3DIS, ScanNet v2 with 20 or 200 classes, ScanNet++, and one's own scenes in the same layout.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopeft_cli.data import scene_classes
from geopeft_cli.data.clouds import IGNORED
from geopeft_cli.data.formats.arrays import load_numpy
from geopeft_cli.data.scene_fields import Absent, completed
from geopeft_cli.data.scenes import Float32, Int64, Scene, SceneSplits, checked_scene
from geopeft_cli.errors import DataError, MissingDataError, UsageError

REMADE = "Make the folder again with Pointcept's preparation, or obtain it again."


@dataclass(frozen=True)
class Layout:
    """Of a published set.

    Attributes:
        classes: names of the labels.
        labels: the file with labels; of several columns the first counts.
        train: names of splits.
        test: the same; what published figures are of.
    """

    classes: tuple[str, ...]
    labels: str
    train: tuple[str, ...]
    test: tuple[str, ...]


LAYOUTS = {
    "s3dis": Layout(scene_classes.S3DIS, "segment", tuple(f"Area_{area}" for area in (1, 2, 3, 4, 6)), ("Area_5",)),
    "scannet": Layout(scene_classes.SCANNET20, "segment20", ("train",), ("val",)),
    "scannet200": Layout(scene_classes.SCANNET200, "segment200", ("train",), ("val",)),
    "scannetpp": Layout(scene_classes.SCANNETPP, "segment", ("train_grid1mm_chunk6x6_stride3x3",), ("val",)),
}
"""By format."""


class PointceptScenes:
    """Scene folders, read when asked for.

    Args:
        root: the data set.
        splits: names of folders below it, or of JSON files there that list paths of scene folders.
        classes: names of the labels.
        labels: the file with labels, without ``.npy``; where a scene lacks it, all its points are ignored.
        absent: what stands in for colors and normals that a scene lacks.

    Raises:
        DataError: no such folder, no scene in it, or a list that cannot be read.
    """

    def __init__(
        self,
        root: str | Path,
        splits: Sequence[str],
        classes: Sequence[str],
        labels: str = "segment",
        absent: Absent = Absent(),  # noqa: B008 - frozen
    ) -> None:
        self.classes = tuple(classes)
        self._labels, self._absent = labels, absent
        self._folders = [folder for split in splits for folder in _folders(Path(root), split)]
        self.names = tuple(_name(folder) for folder in self._folders)

    def __len__(self) -> int:
        return len(self._folders)

    def __getitem__(self, index: int) -> Scene:
        """The scene, checked.

        Raises:
            DataError: an array is missing, damaged, of another length, or out of range; the message names folder and
                array.
        """
        folder = self._folders[index]
        coordinates = _array(folder, "coord")
        if coordinates is None:
            raise DataError(f"{folder}: has no coord.npy", REMADE)
        colors, normals, strength = (_floats(_array(folder, name)) for name in ("color", "normal", "strength"))
        scene = Scene(
            self.names[index],
            coordinates.astype(np.promote_types(coordinates.dtype, np.float32), copy=False),
            _flat_labels(folder, _array(folder, self._labels), len(coordinates), self._labels),
            colors,
            normals,
            None if strength is None else strength.reshape(len(strength), -1),
        )
        return completed(checked_scene(scene, len(self.classes), str(folder)), self._absent)


def published_scene_splits(
    root: str | Path,
    name: str,
    train: Sequence[str] = (),
    test: Sequence[str] = (),
    absent: Absent = Absent(),  # noqa: B008 - frozen
) -> SceneSplits:
    """S3DIS, ScanNet or ScanNet++ with its usual splits. Published figures are of the test part given here.

    Args:
        root: the data set.
        name: a key of ``LAYOUTS``.
        train: other splits to train on, for example five areas of S3DIS.
        test: other splits to test on.
        absent: what stands in for colors and normals that a scene lacks.

    Raises:
        UsageError: the name is unknown, or a split is in both parts.
        DataError: no such folder, or no scene in it.
    """
    if name not in LAYOUTS:
        raise UsageError(f"no set of scenes {name!r}", f"There is: {', '.join(LAYOUTS)}.")
    layout = LAYOUTS[name]
    both = set(train or layout.train) & set(test or layout.test)
    if both:
        raise UsageError(f"data: {', '.join(sorted(both))} both to train and to test on", "Leave it in one of them.")

    def scenes(splits: Sequence[str]) -> PointceptScenes:
        return PointceptScenes(root, splits, layout.classes, layout.labels, absent)

    return SceneSplits(scenes(train or layout.train), None, scenes(test or layout.test))


def _folders(root: Path, split: str) -> list[Path]:
    for listed in (root / split, root / f"{split}.json"):
        if listed.is_file():
            return _listed(root, listed)
    if not (root / split).is_dir():
        raise MissingDataError(f"{root / split}: no such folder or list", f"Set data.root to a prepared set. {REMADE}")
    found = sorted(path for path in (root / split).iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise MissingDataError(f"{root / split}: holds no scenes", REMADE)
    return found


def _listed(root: Path, path: Path) -> list[Path]:
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}", "It holds a list of paths of scenes.") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: holds no list of paths", "It holds a list of paths of scenes.")
    for name in names:
        if not (root / name).is_dir():
            raise DataError(f"{path}: {root / name} does not exist", "Correct the list.")
    return [root / name for name in names]


def _name(folder: Path) -> str:
    return f"{folder.parent.name}-{folder.name}" if folder.parent.name.startswith("Area_") else folder.name


def _array(folder: Path, name: str) -> npt.NDArray[Any] | None:
    path = folder / f"{name}.npy"
    if not path.is_file():
        return None
    array = load_numpy(path)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise DataError(f"{path}: does not hold numbers", REMADE)
    return array


def _floats(array: npt.NDArray[Any] | None) -> Float32 | None:
    return None if array is None else array.astype(np.float32, copy=False)


def _flat_labels(folder: Path, found: npt.NDArray[Any] | None, points: int, name: str) -> Int64:
    if found is None:
        return np.full(points, IGNORED, dtype=np.int64)
    if found.ndim > 2 or len(found) != points or found.dtype.kind not in "iu":
        raise DataError(f"{folder / name}.npy: {found.dtype} {found.shape} for {points} points", REMADE)
    labels: Int64 = found.reshape(points, -1)[:, 0].astype(np.int64)
    return labels
