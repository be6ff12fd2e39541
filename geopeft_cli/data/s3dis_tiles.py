"""Whole rooms of S3DIS in overlapping tiles, so that every point is labelled, as ACT and PointNet++ test on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from geopeft_cli.data.clouds import Cloud, Labels, PointLabels
from geopeft_cli.data.keys import keyed_generator
from geopeft_cli.data.s3dis_rooms import CLASSES, PART_NAMES, PARTS, Room

SIDE = 1.0
STRIDE = 0.5
MARGIN = 0.001
"""Of tiles, in meters; the margin belongs to a tile on every side."""


class RoomTiles:
    """Every point of every room, tile by tile in chunks of exactly ``points`` points.

    The points of a tile are shuffled and cut into chunks, the last of which is filled with random points of the tile.
    x and y are relative to the middle of the tile. A point is in several tiles and so in several chunks: whoever
    labels points adds up what is said of each (:meth:`origin`).

    Args:
        rooms: at least one; all are read.
        points: of a chunk.
        passes: how often every room is gone over, each time with other chunks.
        seed: of the chunks.
    """

    classes = CLASSES
    part_names = PART_NAMES
    parts = PARTS

    def __init__(self, rooms: Sequence[Room], points: int, passes: int, seed: int) -> None:
        self.scenes = tuple(room.name for room in rooms)
        self._rooms = rooms
        self._points = points
        self._seed = seed
        chunks: list[tuple[int, int, int, int]] = []
        self._tiles: list[tuple[int, int, npt.NDArray[np.float64]]] = []
        for number, room in enumerate(rooms):
            for place, corner in enumerate(_corners(room)):
                tile, count = len(self._tiles), len(_inside(room, corner))
                self._tiles.append((number, place, corner))
                chunks += [(p, number, tile, chunk) for p in range(passes) for chunk in range(-(-count // points))]
        # room by room, and within a room pass by pass
        self._chunks = sorted(chunks, key=lambda key: (key[1], key[0], key[2], key[3]))
        self._shuffled = lru_cache(maxsize=4)(self._shuffle)

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> Cloud:
        number, corner, chosen = self._chunk(index)
        room = self._rooms[number]
        points = room.points[chosen]
        points[:, :2] -= (corner + SIDE / 2).astype(np.float32)
        return Cloud(points, 0, f"chunk {index}, in {room.name}", room.labels[chosen])

    def labels(self) -> Labels:
        return np.zeros(len(self), dtype=np.int64)

    def origin(self, index: int) -> tuple[int, Labels]:
        """The scene that a cloud is a piece of, an index into ``scenes``, and for each of its points, the row there."""
        number, _, chosen = self._chunk(index)
        return number, self._rooms[number].rows[chosen].astype(np.int64)

    def scene_labels(self, scene: int) -> PointLabels:
        """The labels of all points of a scene, in the rows of its file."""
        room = self._rooms[scene]
        labels = np.empty_like(room.labels)
        labels[room.rows] = room.labels
        return labels

    def _chunk(self, index: int) -> tuple[int, npt.NDArray[np.float64], Labels]:
        repeat, number, tile, chunk = self._chunks[index]
        chosen = self._shuffled(repeat, tile)[chunk * self._points :][: self._points]
        return number, self._tiles[tile][2], chosen

    def _shuffle(self, repeat: int, tile: int) -> Labels:
        number, place, corner = self._tiles[tile]
        chosen = _inside(self._rooms[number], corner)
        generator = keyed_generator(self._seed, "tile", self._rooms[number].name, repeat, place)
        missing = -len(chosen) % self._points
        more = generator.choice(chosen, missing, replace=missing > len(chosen))
        return generator.permutation(np.concatenate([chosen, more]))


def _corners(room: Room) -> list[npt.NDArray[np.float64]]:
    """The lower corners (x, y) of the tiles that cover a room; at least one along either axis."""
    extent = room.points[:, :2].max(axis=0).astype(np.float64)
    counts = np.maximum(np.ceil((extent - SIDE) / STRIDE).astype(int) + 1, 1)
    x, y = (np.minimum(STRIDE * np.arange(count) + SIDE, end) - SIDE for count, end in zip(counts, extent, strict=True))
    return [np.array([left, front]) for front in y for left in x]


def _inside(room: Room, corner: npt.NDArray[np.float64]) -> Labels:
    return room.within(corner - MARGIN, corner + SIDE + MARGIN)
