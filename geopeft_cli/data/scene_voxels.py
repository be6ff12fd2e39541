"""Grid sampling of scenes: one point a voxel in training, fragments that together hold every point in testing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from geopeft_cli.data.scenes import Floats, Int64, Scene
from geopeft_cli.errors import DataError, UsageError
from geopeft_cli.geometry.voxels import fnv_hash

Order = Literal["fnv", "ravel"]


@dataclass(frozen=True)
class VoxelTable:
    """Which points lie in which voxel of a grid.

    Attributes:
        voxels: int64 (n, 3), the voxel of every point, counted from the lowest along each axis.
        inverse: int64 (n,), the number of every point's voxel.
        order: int64 (n,), the points, voxel after voxel, in their own order inside each.
        counts: int64 (voxels,), how many points every voxel has.
    """

    voxels: Int64
    inverse: Int64
    order: Int64
    counts: Int64

    @property
    def starts(self) -> Int64:
        """Where every voxel begins in ``order``, (voxels,)."""
        starts: Int64 = np.cumsum(self.counts) - self.counts
        return starts


class VoxelSample(NamedTuple):
    """A scene with one point a voxel, and for every point before that the place of its voxel in it, int64 (n,)."""

    scene: Scene
    inverse: Int64


def voxel_table(coordinates: Floats, size: float, order: Order = "fnv") -> VoxelTable:
    """Sort points into voxels of a grid that starts at the origin.

    Args:
        coordinates: (n, 3).
        size: edge of a voxel, in the same unit; divides in float64.
        order: how voxels are numbered: by their FNV-1 hash as Pointcept's are, or by x, y and z.

    Raises:
        UsageError: ``size`` is not above 0.
        DataError: the points extend too far to number the voxels.
    """
    if not size > 0:
        raise UsageError(f"grid size {size:g}", "Give the edge of a voxel in meters, for example 0.02.")
    steps = np.floor(coordinates.astype(np.float64) / size)
    extents = np.ptp(steps, axis=0) + 1
    if not np.prod(extents) < 2**62:
        raise DataError(
            f"a scene of {' x '.join(f'{extent:.3g}' for extent in extents)} voxels is too large to number",
            "Use a coarser grid, or remove outliers far from the scene.",
        )
    voxels = (steps - steps.min(axis=0)).astype(np.int64)
    _, height, depth = extents.astype(np.int64)
    keys = (voxels[:, 0] * height + voxels[:, 1]) * depth + voxels[:, 2]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    if order == "fnv":
        by_hash = np.argsort(_unsigned_hash(voxels[first]), kind="stable")
        ranks = np.empty_like(by_hash)
        ranks[by_hash] = np.arange(len(by_hash))
        inverse = ranks[inverse]
    counts = np.bincount(inverse, minlength=len(first)).astype(np.int64)
    return VoxelTable(voxels, inverse.astype(np.int64), np.argsort(inverse, kind="stable"), counts)


def grid_sample(
    scene: Scene, generator: np.random.Generator | None, size: float = 0.02, order: Order = "fnv"
) -> VoxelSample:
    """Keep one point a voxel: a random one, or the first without a generator.

    Points that have to be kept are, too; the scene is then in the order of its points, and rows may share a voxel.

    Args:
        scene: without voxels.
        generator: of the choice; None in evaluation.
        size: edge of a voxel, meters.
        order: of the voxels, see :func:`voxel_table`.
    """
    table = voxel_table(scene.coordinates, size, order)
    picks = np.zeros_like(table.counts)
    if generator is not None:
        picks = (generator.random(len(table.counts)) * table.counts).astype(np.int64)
    chosen = table.order[table.starts + picks]
    inverse = table.inverse
    if scene.kept is not None:
        chosen, place = np.unique(np.concatenate([chosen, np.flatnonzero(scene.kept)]), return_inverse=True)
        inverse = place[: len(table.counts)][inverse]
    return VoxelSample(replace(scene, voxels=table.voxels).take(chosen), inverse)


def fragments(scene: Scene, size: float = 0.02, order: Order = "fnv") -> Iterator[Scene]:
    """Scenes with one point a voxel that together hold every point.

    There are as many as the fullest voxel has points. Fragment i holds point i mod m of each voxel with m points.
    ``rows`` says which points of the stored scene they are.

    Args:
        scene: without voxels.
        size: edge of a voxel, meters.
        order: of the voxels, see :func:`voxel_table`.
    """
    table = voxel_table(scene.coordinates, size, order)
    gridded = replace(scene, voxels=table.voxels)
    for number in range(int(table.counts.max())):
        yield gridded.take(table.order[table.starts + number % table.counts])


def _unsigned_hash(voxels: Int64) -> npt.NDArray[np.uint64]:
    return fnv_hash(torch.from_numpy(voxels)).numpy().view(np.uint64)
