"""Farthest point sampling, to the index the one that the published checkpoints were trained with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from geopeft_cli.geometry import compiled
from geopeft_cli.geometry.checks import require_count, require_points

NearOrigin = Literal["skip", "keep"]

# The CUDA operator skips |p|^2 <= 1e-3, compared in double: this is the smallest float32 above the double 1e-3.
_NEAR = 0.0010000000474974513
_FAR = 1e10
_NEVER = -1.0
_MAX_THREADS = 512


def farthest_point_sample(points: Tensor, count: int, near_origin: NearOrigin = "skip") -> Tensor:
    """Pick ``count`` points, each the farthest from those picked before it (Eldar et al., 1997).

    Starts at index 0 and, unless ``near_origin`` is ``"keep"``, picks no other point within 0.0316 of the
    origin, as the CUDA operator behind the published checkpoints does (pointnet2_ops). Ties are broken as the
    thread blocks of that operator break them. When every point that may be picked has been, one of them is
    repeated. Computed in float32; carries no gradient.

    Args:
        points: (B, N, 3), any unit.
        count: how many to pick, 1..N.
        near_origin: ``"skip"`` as published, or ``"keep"`` to let points near the origin be picked.

    Returns:
        Indices into N, int64 (B, count), in the order they were picked.

    Raises:
        ShapeError: ``points`` is not (B, N, 3), or ``count`` is not in 1..N.
    """
    require_points(points)
    require_count(count, points.shape[1], "farthest point sampling")
    order = _tie_order(points.shape[1], points.device)
    coordinates = points.detach().float()[:, order].permute(2, 0, 1).contiguous()
    distance = _start(coordinates, near_origin)
    walk = compiled.walk if compiled.usable(coordinates) else _walk
    return order[walk(coordinates, distance, count)]


def _tie_order(size: int, device: torch.device) -> Tensor:
    """The order in which equal points win: by (bit reversal of k mod b, k) for b threads in a block.

    Nine bits are always reversed: for a smaller block this only appends zeros. Tensor arithmetic alone, so
    that ``size`` may be symbolic in an exported graph.
    """
    powers = 2 ** torch.arange(_MAX_THREADS.bit_length(), device=device)
    threads = torch.where(powers <= size, powers, 1).amax(0)
    place = torch.arange(size, device=device)
    bits = (place % threads).unsqueeze(-1) // powers[:-1] % 2
    reversed_bits = (bits * powers[:-1].flip(0)).sum(-1)
    return (reversed_bits * size + place).argsort()


def _start(coordinates: Tensor, near_origin: NearOrigin) -> Tensor:
    """The distance to the picked points before any is picked, (B, N); negative for points never to be picked."""
    x, y, z = coordinates * coordinates
    squared_norm = (x + y) + z
    distance = torch.full_like(squared_norm, _FAR)
    return distance.masked_fill(squared_norm < _NEAR, _NEVER) if near_origin == "skip" else distance


def _walk(coordinates: Tensor, distance: Tensor, count: int) -> Tensor:
    """The picks, int64 (B, count): coordinates (3, B, N), ``distance`` (B, N) is used up.

    ``argmax`` returns the first of several maxima and ``max`` does not promise it.
    """
    x, y, z = coordinates
    pick = torch.zeros_like(distance[:, :1], dtype=torch.int64)
    picks = [pick]
    for _ in range(count - 1):
        dx, dy, dz = x - x.gather(1, pick), y - y.gather(1, pick), z - z.gather(1, pick)
        distance = torch.minimum(distance, dx.mul_(dx).add_(dy.mul_(dy)).add_(dz.mul_(dz)))
        pick = distance.argmax(1, keepdim=True)
        picks.append(pick)
    return torch.cat(picks, 1)
