"""Blocks of S3DIS: columns of one by one meter around random points of rooms, as ACT and PointNet train on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.clouds import Cloud, CloudSet, Labels, Splits
from geopeft_cli.data.keys import keyed_generator
from geopeft_cli.data.s3dis_rooms import CLASSES, EXPECTED, PART_NAMES, PARTS, ROOMS, Room, rooms_by_area
from geopeft_cli.data.s3dis_tiles import RoomTiles
from geopeft_cli.errors import DataError, MissingDataError, UsageError

HALF = 0.5
"""Half the side of a block, in meters."""

TRIES = 1000
"""Centers that are tried for a block with enough points, before its room is refused."""


def s3dis_block_splits(
    root: str | Path,
    test_area: int,
    validation_area: int | None,
    points: int,
    test: Literal["blocks", "rooms"],
    passes: int,
    seed: int,
) -> Splits:
    """All areas but one or two to train on, and these.

    Args:
        root: the folder ``stanford_indoor3d``.
        test_area: 1 to 6; 5 in the literature.
        validation_area: another one, or None for no validation part; in the literature it is the test area itself.
        points: what the network sees of a block.
        test: ``blocks``, always the same random ones, or ``rooms``, every point of every room.
        passes: how often ``rooms`` goes over a room, each time with other neighbors of a point.
        seed: of all draws but those of training.

    Raises:
        UsageError: validation and test area are the same.
        MissingDataError: no such folder, no rooms in one of the parts.
        DataError: a damaged file; or in reading a block, a room without blocks of enough points.
    """
    if validation_area == test_area:
        raise UsageError(f"data.validation_area: {validation_area} is the test area", "Choose another one, or none.")
    root = Path(root)
    areas = rooms_by_area(root)
    held = {area for area in (test_area, validation_area) if area is not None}
    missing = [area for area in sorted(held) if area not in areas]
    if missing or set(areas) <= held:
        what = f"rooms of Area {' and '.join(map(str, missing))}" if missing else "rooms to train on"
        raise MissingDataError(f"{root}: has no {what}, only of {', '.join(map(str, sorted(areas)))}", EXPECTED)
    train = [room for area in ROOMS if area not in held for room in areas.get(area, ())]
    tested: CloudSet
    if test == "rooms":
        tested = RoomTiles(areas[test_area], points, passes, seed)
    else:
        tested = S3DISBlocks(areas[test_area], points, seed)
    validation = S3DISBlocks(areas[validation_area], points, seed) if validation_area is not None else None
    return Splits(S3DISBlocks(train, points, seed), validation, tested)


class S3DISBlocks:
    """As many blocks of each room as it takes to draw as many points as it has; all points of a block.

    A block is what lies within half a meter of a random point in x and in y, at any height; x and y are relative to
    that point and z is the height above the lowest point of the room. Blocks with ``points`` // 2 points or fewer are
    drawn anew. :meth:`fresh` gives new blocks, indexing always the same ones.

    Args:
        rooms: at least one.
        points: what the network sees of a block.
        seed: of the blocks that indexing gives.
    """

    classes = CLASSES
    part_names = PART_NAMES
    parts = PARTS

    def __init__(self, rooms: Sequence[Room], points: int, seed: int) -> None:
        self._rooms = rooms
        self._points = points
        self._seed = seed
        self._owners = np.repeat(np.arange(len(rooms)), [round(len(room) / points) for room in rooms])

    def __len__(self) -> int:
        return len(self._owners)

    def __getitem__(self, index: int) -> Cloud:
        return self.fresh(index, keyed_generator(self._seed, "block", index))

    def fresh(self, index: int, generator: np.random.Generator) -> Cloud:
        """A block of the room that ``index`` belongs to.

        Raises:
            DataError: the room is damaged, or so thin that no block has enough points; names it.
        """
        room = self._rooms[self._owners[index]]
        for _ in range(TRIES):
            center = room.points[generator.integers(len(room)), :2].astype(np.float64)
            chosen = room.within(center - HALF, center + HALF)
            if len(chosen) > self._points // 2:
                points = room.points[chosen]
                points[:, :2] -= center.astype(np.float32)
                return Cloud(points, 0, f"block {index} of {room.name}", room.labels[chosen])
        raise DataError(
            f"{room.path}: none of {TRIES} blocks of 1 m has more than {self._points // 2} points",
            "Make data.points smaller, or leave the room out.",
        )

    def labels(self) -> Labels:
        return np.zeros(len(self), dtype=np.int64)

    def point_counts(self) -> Labels:
        """How many points of each label the rooms have, int64 (13,); reads all of them."""
        counts: Labels = np.sum([np.bincount(room.labels, minlength=len(PART_NAMES)) for room in self._rooms], axis=0)
        return counts


def label_weights(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """What a point of each label weighs in the loss: the cube root of how much rarer it is than the most frequent.

    Labels without a point weigh 0; the released code of PointNet++ and ACT divides by zero there.

    Args:
        counts: (labels,), as :meth:`S3DISBlocks.point_counts` gives them.

    Returns:
        (labels,), 1 for the most frequent.
    """
    counts = np.asarray(counts, dtype=np.float64)
    weights = np.zeros_like(counts)
    seen = counts > 0
    weights[seen] = np.cbrt(counts.max() / counts[seen])
    return weights
