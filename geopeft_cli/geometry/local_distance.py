"""How much token features differ between neighbors in space: the diagnosis of MoST (CVPR 2025, arXiv 2503.18368).

The paper speaks of the L2 distance of features within the neighborhood of the k nearest tokens; the two figures
here are our reading of that.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geopeft_cli.errors import ShapeError
from geopeft_cli.geometry.checks import require_points
from geopeft_cli.geometry.neighbors import nearest_neighbors


class LocalDistance(NamedTuple):
    """A figure per cloud, float64 (B,), NaN for clouds of fewer than two tokens.

    Attributes:
        lfd: mean distance of a token's features to those of a neighbor, in the unit of the features.
        lfd_rel: root mean square of these distances over that of all pairs of different tokens: 0 for features that
            are constant over neighborhoods, 1 where neighbors differ as much as tokens drawn at random.
    """

    lfd: Tensor
    lfd_rel: Tensor


class Spread(NamedTuple):
    """Mean and standard deviation (of the clouds, not of a population behind them) of finite values."""

    mean: float
    std: float


def neighborhoods(centers: Tensor, neighbors: int) -> Tensor:
    """Every token's nearest other tokens, itself excluded by index, ties to the lower index.

    Args:
        centers: (B, N, 3), any unit.
        neighbors: how many; with fewer others, all of them.

    Returns:
        int64 (B, N, min(neighbors, N - 1)), nearest first.

    Raises:
        ShapeError: ``centers`` is not (B, N, 3), or ``neighbors`` is less than 1.
    """
    require_points(centers, "centers")
    if neighbors < 1:
        raise ShapeError(f"neighborhoods of {neighbors} tokens, at least 1 expected")
    batch, size, _ = centers.shape
    if size < 2:
        return torch.zeros(batch, size, 0, dtype=torch.int64, device=centers.device)
    return nearest_neighbors(centers, centers, min(neighbors, size - 1), exclude_self=True).index


def local_distance(features: Tensor, neighbors: Tensor) -> LocalDistance:
    """The local feature distance of every cloud by itself, in float64.

    With d_ij = ||f_i - f_j||_2 over the k neighbors j of each of the N tokens i:
    lfd = sum d_ij / (N k), and lfd_rel = sqrt(sum d_ij^2 / (N k)) / sqrt(2 / (N - 1) sum_i ||f_i - mean f||^2). The
    denominator is the root mean square distance of all pairs i != j; where it is 0, so is lfd_rel.

    Args:
        features: (B, N, C), finite.
        neighbors: int64 (B, N, k), as from :func:`neighborhoods`.

    Raises:
        ShapeError: the two do not belong together.
    """
    if features.ndim != 3 or neighbors.ndim != 3 or features.shape[:2] != neighbors.shape[:2]:
        raise ShapeError(
            f"features {tuple(features.shape)} and neighbors {tuple(neighbors.shape)} "
            "are not (B, N, C) and (B, N, k) of the same tokens"
        )
    features = features.double()
    batch, size, channels = features.shape
    if size < 2:
        nothing = features.new_full((batch,), torch.nan)
        return LocalDistance(nothing, nothing)
    squared = torch.stack(
        [
            (features - features.gather(1, column.unsqueeze(-1).expand(-1, -1, channels))).square().sum(-1)
            for column in neighbors.unbind(-1)
        ]
    )
    pairs = 2 / (size - 1) * (features - features.mean(1, keepdim=True)).square().sum((1, 2))
    near = squared.mean((0, 2))
    return LocalDistance(squared.sqrt().mean((0, 2)), torch.where(pairs > 0, near / pairs, 0.0).sqrt())


def spread(values: Tensor) -> Spread:
    """Mean and standard deviation of (clouds,), each cloud with weight 1.

    Raises:
        ShapeError: there is none.
    """
    if values.ndim != 1 or not len(values):
        raise ShapeError(f"values of clouds have shape {tuple(values.shape)}, expected (clouds,) with at least one")
    values = values.double()
    return Spread(float(values.mean()), float(values.std(correction=0)))
