"""Voxels of packed scenes: numbering, keys, and pooling to a coarser grid.

Scenes stand one after the other, without padding; ``offsets`` says where each begins. Nothing here lets one scene see
another.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geopeft_cli.errors import DataError, ShapeError
from geopeft_cli.geometry.clusters import Clusters, clusters_of

_FNV_START, _FNV_PRIME = 14695981039346656037, 1099511628211


def scene_index(offsets: Tensor) -> Tensor:
    """The scene of every row, int64 (N,); ``offsets`` (scenes + 1,) says where the scenes begin, and N."""
    return torch.arange(len(offsets) - 1, device=offsets.device).repeat_interleave(offsets.diff())


def require_voxels(voxels: Tensor, offsets: Tensor) -> None:
    """Stop what are no voxels of packed scenes.

    Raises:
        ShapeError: ``voxels`` is not (N, 3), of whole numbers, or ``offsets`` do not rise from 0 to N.
    """
    if voxels.ndim != 2 or voxels.shape[1] != 3 or voxels.is_floating_point():
        raise ShapeError(
            f"voxels of shape {tuple(voxels.shape)} and type {voxels.dtype}, expected whole numbers (N, 3)"
        )
    if offsets.ndim != 1 or len(offsets) < 2 or int(offsets[0]) != 0 or int(offsets[-1]) != len(voxels):
        raise ShapeError(
            f"offsets {offsets.tolist()[:8]} do not lead from 0 to the {len(voxels)} voxels",
            "Give where every scene begins, and the number of all voxels at the end.",
        )
    if bool((offsets.diff() < 0).any()):
        raise ShapeError(f"offsets {offsets.tolist()[:8]} do not rise")


def voxelized(coordinates: Tensor, offsets: Tensor, size: float) -> Tensor:
    """The voxel of every point, counted from the lowest of its scene along each axis, int64 (N, 3).

    Divides in float64, so that coordinates far from the origin keep their voxels.

    Args:
        coordinates: (N, 3).
        offsets: int64 (scenes + 1,).
        size: edge of a voxel, in the unit of the coordinates.
    """
    voxels = (coordinates.double() / size).floor().long()
    return voxels - lowest_voxels(voxels, offsets)


class VoxelKeys(NamedTuple):
    """One number for every voxel, sorted as (scene, x, y, z) is.

    Attributes:
        keys: int64 (N,).
        steps: what a step along x, y or z adds to a key.
    """

    keys: Tensor
    steps: tuple[int, int, int]


def voxel_keys(voxels: Tensor, offsets: Tensor, margin: int = 0) -> VoxelKeys:
    """Keys of voxels (N, 3); steps of up to ``margin`` voxels lead to no key of another row, line or scene.

    Raises:
        ShapeError: as :func:`require_voxels` does.
        DataError: the scenes extend so far that 63 bits do not number their voxels.
    """
    require_voxels(voxels, offsets)
    voxels = voxels.long()
    inside = voxels - lowest_voxels(voxels, offsets) + margin
    x, y, z = (int(extent) + 1 + margin for extent in inside.amax(0)) if len(inside) else (1, 1, 1)
    if (len(offsets) - 1) * x * y * z >= 2**63:
        raise DataError(
            f"scenes of up to {x} x {y} x {z} voxels are too large to number",
            "Use a coarser grid, or remove outliers far from the scene.",
        )
    first = scene_index(offsets) * x + inside[:, 0]
    return VoxelKeys((first * y + inside[:, 1]) * z + inside[:, 2], (y * z, z, 1))


def lowest_voxels(voxels: Tensor, offsets: Tensor) -> Tensor:
    """The lowest voxel of every row's scene along each axis, (N, 3)."""
    scene = scene_index(offsets)[:, None].expand(-1, 3)
    lowest = voxels.new_zeros(len(offsets) - 1, 3).scatter_reduce_(0, scene, voxels, "amin", include_self=False)
    return lowest.gather(0, scene)


def fnv_hash(voxels: Tensor) -> Tensor:
    """FNV-1 of every row, whole coordinates at a time, its 64 bits as int64 (N,): the order of Pointcept's voxels."""
    prime = _FNV_PRIME
    key = torch.full(voxels.shape[:1], _FNV_START - 2**64, dtype=torch.int64, device=voxels.device)
    for column in voxels.long().unbind(1):
        key = key * prime ^ column
    return key


class PooledVoxels(NamedTuple):
    """A coarser grid.

    Attributes:
        voxels: int64 (M, 3).
        offsets: int64 (scenes + 1,).
        clusters: which voxels of the finer grid lie in which of the coarser one.
    """

    voxels: Tensor
    offsets: Tensor
    clusters: Clusters


def grid_pool(voxels: Tensor, offsets: Tensor, stride: int = 2, keys: Tensor | None = None) -> PooledVoxels:
    """Join the voxels of packed scenes that lie in one voxel of a grid ``stride`` times as coarse.

    Args:
        voxels: whole numbers (N, 3), 0 or more.
        offsets: int64 (scenes + 1,).
        stride: how many voxels along an axis become one.
        keys: int64 (N,), equal where voxels are to be joined and rising from scene to scene; the pooled voxels are
            sorted by them, otherwise by scene, x, y and z.

    Raises:
        ShapeError, DataError: as :func:`voxel_keys` does.
    """
    require_voxels(voxels, offsets)
    coarse = voxels.long().div(stride, rounding_mode="floor")
    clusters = clusters_of(voxel_keys(coarse, offsets).keys if keys is None else keys)
    first = clusters.first
    sizes = torch.bincount(scene_index(offsets)[first], minlength=len(offsets) - 1)
    pooled = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    return PooledVoxels(coarse[first], pooled, clusters)
