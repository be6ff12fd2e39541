"""Rooms of S3DIS (Armeni et al., 2016), as annotated or as ``stanford_indoor3d``: rows x y z r g b label."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.checks import OBTAIN_AGAIN, checked_point_labels, tell_of_count
from geopeft_cli.data.clouds import Labels, Parts
from geopeft_cli.data.formats.arrays import DAMAGED, damaged, load_numpy
from geopeft_cli.data.s3dis_annotations import rooms_of_annotations
from geopeft_cli.errors import DataError, MissingDataError

PART_NAMES = (
    *("ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa", "bookcase", "board"),
    "clutter",
)
"""The 13 semantic classes, in the order of the labels of points."""

CLASSES = ("room",)
PARTS: Parts = {"room": tuple(range(len(PART_NAMES)))}

ROOMS = {1: 44, 2: 40, 3: 23, 4: 49, 5: 68, 6: 48}
"""How many rooms the published areas have."""

COLUMNS = 7
EXPECTED = (
    "Expected is the folder Stanford3dDataset_v1.2_Aligned_Version, with Area_<1 to 6>/<room>/Annotations, or "
    "stanford_indoor3d, with Area_<1 to 6>_<room>.npy of rows x y z r g b label. S3DIS is given out after an agreement "
    "is filled in, see http://buildingparser.stanford.edu/dataset.html; then set data.root to one of them."
)


class Room:
    """One room, read when first asked for and kept in memory, 17 bytes a point.

    Args:
        path: the file.

    Raises:
        DataError: the file is no array of seven columns, or later, holds something else than numbers and labels.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.stem
        try:
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        except DAMAGED as error:
            raise damaged(path, error) from error
        if len(shape) != 2 or shape[1] != COLUMNS or not shape[0]:
            raise DataError(f"{path}: has the shape {shape}, not (points, {COLUMNS})", OBTAIN_AGAIN)
        self._count = int(shape[0])

    def __len__(self) -> int:
        return self._count

    @property
    def points(self) -> npt.NDArray[np.float32]:
        """(n, 3) in meters, ascending in x; the lowest coordinate of every axis is 0."""
        return self._arrays[0]

    @property
    def labels(self) -> npt.NDArray[np.int8]:
        """(n,), of ``points``."""
        return self._arrays[1]

    @property
    def rows(self) -> npt.NDArray[np.int32]:
        """(n,), in which row of the file each of ``points`` is."""
        return self._arrays[2]

    def within(self, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> Labels:
        """Which of ``points`` are in a column of full height, ascending.

        Args:
            low: smallest x and y (2,), inclusive.
            high: largest x and y (2,), inclusive.
        """
        x, y = self.points[:, 0], self.points[:, 1]
        # bounds of the same precision, since numpy would convert all of x to that of the bounds
        start, end = x.searchsorted(np.float32(low[0]), "left"), x.searchsorted(np.float32(high[0]), "right")
        slab = y[start:end]
        found: Labels = start + np.flatnonzero((slab >= low[1]) & (slab <= high[1]))
        return found

    @cached_property
    def _arrays(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8], npt.NDArray[np.int32]]:
        rows = load_numpy(self.path)
        if rows.dtype.kind not in "fiu":
            raise DataError(f"{self.path}: holds {rows.dtype}, not numbers", OBTAIN_AGAIN)
        if not np.isfinite(rows[:, :3]).all():
            raise DataError(f"{self.path}: has a coordinate that is NaN or infinite", OBTAIN_AGAIN)
        labels = checked_point_labels(str(self.path), rows[:, -1], len(rows), PARTS["room"], "S3DIS").astype(np.int8)
        points = (rows[:, :3] - rows[:, :3].min(axis=0)).astype(np.float32)
        order = np.argsort(points[:, 0], kind="stable")
        # one axis after the other in memory, since a block compares one at a time
        return np.asfortranarray(points[order]), labels[order], order.astype(np.int32)


def rooms_by_area(root: Path) -> dict[int, list[Room]]:
    """The rooms below ``root``, area by area and by name within each; arrays where there are some, else annotations.

    Raises:
        MissingDataError: no such folder, or no room in it.
        DataError: a damaged file.
        GeopeftError: what was read of annotations cannot be kept.
    """
    if not root.is_dir():
        raise MissingDataError(f"{root}: no such folder", EXPECTED)
    areas: dict[int, list[Room]] = {}
    for path in sorted(root.glob("Area_*.npy")) or rooms_of_annotations(root, PART_NAMES):
        if found := re.match(r"Area_([1-6])_.+", path.stem):
            areas.setdefault(int(found[1]), []).append(Room(path))
    if not areas:
        raise MissingDataError(f"{root}: has neither Area_<1 to 6>_<room>.npy nor annotations", EXPECTED)
    for area, rooms in areas.items():
        tell_of_count(root / f"Area_{area}", len(rooms), ROOMS[area], "rooms")
    return areas
