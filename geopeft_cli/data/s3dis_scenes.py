"""Whole rooms of S3DIS, as annotated or as ``stanford_indoor3d``, with colors and without normals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from geopeft_cli.data.formats.arrays import load_numpy
from geopeft_cli.data.s3dis_rooms import PART_NAMES, Room, rooms_by_area
from geopeft_cli.data.scene_fields import Absent, completed
from geopeft_cli.data.scenes import Scene, SceneSplits, checked_scene
from geopeft_cli.errors import UsageError


class S3disScenes:
    """Rooms of S3DIS, read when asked for; the lowest coordinates of each are 0.

    Args:
        rooms: as ``rooms_by_area`` finds them.
        absent: what stands in for normals.
    """

    classes = PART_NAMES

    def __init__(self, rooms: Sequence[Room], absent: Absent = Absent()) -> None:  # noqa: B008 - frozen
        self.names = tuple(room.name for room in rooms)
        self._rooms, self._absent = rooms, absent

    def __len__(self) -> int:
        return len(self._rooms)

    def __getitem__(self, index: int) -> Scene:
        """The room, checked, in the order of its file.

        Raises:
            DataError: the file is damaged or holds something else.
        """
        room = self._rooms[index]
        rows = load_numpy(room.path)
        scene = Scene(
            self.names[index],
            (rows[:, :3] - rows[:, :3].min(axis=0)).astype(np.float32),
            rows[:, 6].astype(np.int64),
            rows[:, 3:6].astype(np.float32),
        )
        return completed(checked_scene(scene, len(self.classes), str(room.path)), self._absent)


def s3dis_scene_splits(
    root: str | Path,
    test_area: int = 5,
    absent: Absent = Absent(),  # noqa: B008 - frozen
) -> SceneSplits:
    """All areas but one to train on, that one to test on.

    Args:
        root: ``Stanford3dDataset_v1.2_Aligned_Version`` or ``stanford_indoor3d``.
        test_area: 1 to 6.
        absent: what stands in for normals.

    Raises:
        UsageError: no such area, or none other.
        DataError: no rooms, or a damaged file.
    """
    areas = rooms_by_area(Path(root))
    if test_area not in areas or len(areas) < 2:
        found = ", ".join(map(str, areas))
        raise UsageError(f"data.test_area: {test_area}, and {root} has areas {found}", "Two areas are needed.")
    train = [room for area, rooms in areas.items() if area != test_area for room in rooms]
    return SceneSplits(S3disScenes(train, absent), None, S3disScenes(areas[test_area], absent))
