"""Cutting a cloud into groups: farthest point centers and the nearest neighbors of each."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from geopeft_cli.geometry.neighbors import nearest_neighbors
from geopeft_cli.geometry.sampling import NearOrigin, farthest_point_sample


class Groups(NamedTuple):
    """G groups of k points each, in the order in which their centers were picked.

    Attributes:
        neighborhoods: (B, G, k, 3), coordinates relative to the center, nearest first.
        centers: (B, G, 3).
        center_index: int64 (B, G), into N.
        neighbor_index: int64 (B, G, k), into N.
    """

    neighborhoods: Tensor
    centers: Tensor
    center_index: Tensor
    neighbor_index: Tensor


def group(points: Tensor, groups: int, size: int, near_origin: NearOrigin = "skip") -> Groups:
    """Cut every cloud into ``groups`` overlapping groups of ``size`` points (the group divider of Point-BERT).

    A center is its own first neighbor unless a coincident point has a lower index. The coordinates, not the
    indices, carry gradients back to ``points``.

    Args:
        points: (B, N, 3), any unit.
        groups: how many groups, 1..N.
        size: points in a group, 1..N.
        near_origin: see :func:`~geopeft_cli.geometry.sampling.farthest_point_sample`.

    Returns:
        The groups, in the unit and dtype of ``points``.

    Raises:
        ShapeError: ``points`` is not (B, N, 3), or N is less than ``groups`` or ``size``.
    """
    center_index = farthest_point_sample(points, groups, near_origin)
    centers = take(points, center_index)
    neighbor_index = nearest_neighbors(points, centers, size).index
    members = take(points, neighbor_index.flatten(1)).view(-1, groups, size, 3)
    neighborhoods = members - centers.unsqueeze(2)
    return Groups(neighborhoods, centers, center_index, neighbor_index)


def take(rows: Tensor, index: Tensor) -> Tensor:
    """The rows of (B, N, C) at ``index`` (B, M): (B, M, C)."""
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))
