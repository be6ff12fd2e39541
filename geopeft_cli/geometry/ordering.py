"""Orders in which a network reads the groups of a cloud."""

from __future__ import annotations

import torch
from torch import Tensor

from geopeft_cli.geometry.checks import require_points
from geopeft_cli.geometry.grouping import take


def greedy_order(centers: Tensor) -> Tensor:
    """A walk over centers that goes on to the nearest one not yet visited, from the first (PointGPT's order).

    The released code calls it a Morton order; it is none. Distances are direct differences in float32, of equal
    ones the lower index goes first. Carries no gradient.

    Args:
        centers: (B, G, 3), any unit.

    Returns:
        Indices into G in the order of the walk, int64 (B, G).

    Raises:
        ShapeError: ``centers`` is not (B, G, 3).
    """
    require_points(centers, "centers")
    x, y, z = ((axis.unsqueeze(2) - axis.unsqueeze(1)).square() for axis in centers.detach().float().unbind(-1))
    squared = (x + y) + z
    pick = torch.zeros_like(squared[:, :1, 0], dtype=torch.int64)
    visited = torch.zeros_like(squared[:, 0])
    picks = [pick]
    for _ in range(centers.shape[1] - 1):
        visited = visited.scatter(1, pick, torch.inf)
        row = take(squared, pick).squeeze(1)
        pick = (row + visited).argmin(1, keepdim=True)
        picks.append(pick)
    return torch.cat(picks, 1)
