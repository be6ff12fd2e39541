"""K-Rectify: smoothing over neighboring tokens, K = I + lam S (MoST, arXiv 2503.18368)."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

from geopeft_cli.errors import ShapeError
from geopeft_cli.geometry.checks import require_points, require_slots
from geopeft_cli.geometry.compiled import tracing
from geopeft_cli.geometry.grid import grid_neighbors
from geopeft_cli.geometry.grouping import take
from geopeft_cli.geometry.interpolation import interpolate
from geopeft_cli.geometry.neighbors import nearest_neighbors

ALL_PAIRS = 2**14  # centers up to which all distances are taken, which is faster


@dataclass(frozen=True)
class RelativeEps:
    """An eps of ``relative`` times the mean distance from a center of the cloud to its nearest other."""

    relative: float


Eps = float | RelativeEps


def smoothing_matrix(centers: Tensor, neighbors: int, eps: Eps) -> Tensor:
    """S: every center's average over its nearest others, weighted by 1 / (distance + eps).

    A center is excluded from its own neighbors by index, so that coincident centers weigh 1 / eps. Computed in
    float32; carries no gradient.

    Args:
        centers: (B, G, 3), any unit.
        neighbors: how many others to average over; with fewer, all of them.
        eps: added to the Euclidean distance, in the same unit, or relative to the cloud.

    Returns:
        Dense float32 (B, G, G) with rows that sum to 1; zeros if there is one center only.

    Raises:
        ShapeError: ``centers`` is not (B, G, 3), or ``neighbors`` is less than 1.
    """
    return _dense(*smoothing_weights(centers, neighbors, eps))


def rectifier(
    centers: Tensor, slots: Tensor, neighbors: int, eps: Eps, lam: float, power: int, causal: bool = False
) -> Tensor:
    """K^power for K = I + lam S over a sequence that holds the centers in any order, and other tokens as well.

    The binomial expansion I + p lam S + p(p-1)/2 lam^2 S^2 + ... over the centers, put in their places. Tokens
    without a center pass unchanged. Where a sequence holds every center several times, as PointMamba's does, each
    copy is smoothed by itself.

    Args:
        centers: (B, G, 3), any unit.
        slots: int64 (T,), for every place in the sequence the index of its center, -1 for tokens without one; or
            (B, T), for every cloud its own.
        neighbors: see :func:`smoothing_matrix`.
        eps: see :func:`smoothing_matrix`.
        lam: strength of the smoothing; 0 gives the identity.
        power: how often K is applied, 0 or more.
        causal: see :func:`smoothing_weights`.

    Returns:
        Dense float32 (B, T, T), to be applied from the left to tokens (B, T, C).

    Raises:
        ShapeError: ``centers`` is not (B, G, 3), ``slots`` is not (T,) or (B, T), or ``neighbors`` is less than 1.
    """
    require_points(centers, "centers")
    require_slots(slots, centers)
    identity = torch.eye(slots.shape[-1], device=centers.device).expand(centers.shape[0], -1, -1)
    if lam == 0 or power == 0 or centers.shape[1] < 2:
        return identity
    index, weight = smoothing_weights(centers, neighbors, eps, causal)
    smoothed = _dense(index, weight)
    update = power * lam * smoothed
    for order in range(2, power + 1):
        smoothed = interpolate(smoothed, index, weight)
        update = update + comb(power, order) * lam**order * smoothed
    place = slots.clamp(min=0)
    if slots.ndim == 1:
        update = update[:, place][:, :, place]
    else:
        rows = take(update, place)
        update = rows.gather(2, place.unsqueeze(1).expand(-1, rows.shape[1], -1))
    return identity + update * _coupled(slots)


def laplacian(centers: Tensor, slots: Tensor, neighbors: int, eps: Eps, causal: bool = False) -> Tensor:
    """S - I over a sequence as in :func:`rectifier`: a token's average over its nearest others, less the token itself.

    Args:
        centers: (B, G, 3), any unit.
        slots: int64 (T,), for every place in the sequence the index of its center, -1 for tokens without one; or
            (B, T), for every cloud its own.
        neighbors: see :func:`smoothing_matrix`.
        eps: see :func:`smoothing_matrix`.
        causal: see :func:`smoothing_weights`.

    Returns:
        Dense float32 (B, T, T), to be applied from the left to tokens (B, T, C). Rows sum to 0; those of tokens
        without a center, and of a center without neighbors, are zero.

    Raises:
        ShapeError: ``centers`` is not (B, G, 3), ``slots`` is not (T,) or (B, T), or ``neighbors`` is less than 1.
    """
    smoothing = rectifier(centers, slots, neighbors, eps, lam=1.0, power=1, causal=causal)
    smoothing = smoothing - torch.eye(smoothing.shape[1], device=centers.device)
    return smoothing - torch.diag_embed(smoothing.sum(-1))


def smoothing_weights(centers: Tensor, neighbors: int, eps: Eps, causal: bool = False) -> tuple[Tensor, Tensor]:
    """The nonzeros of S, see :func:`smoothing_matrix`: column, int64, and value, float32, each (B, G, k).

    With ``causal`` only centers of a lower index are neighbors. Where there are fewer than k of these, the weights of
    the others are zero, so that the first row of S is zero.
    """
    require_points(centers, "centers")
    if neighbors < 1:
        raise ShapeError(f"smoothing over {neighbors} neighbors, at least 1 expected")
    batch, size, _ = centers.shape
    if size < 2:
        empty = torch.zeros(batch, size, 0, device=centers.device)
        return empty.long(), empty
    count = min(neighbors, size - 1)
    find = nearest_neighbors if size <= ALL_PAIRS or tracing(centers) else grid_neighbors
    if not causal:
        index, squared = find(centers, centers, count, exclude_self=True)
        distance = squared.sqrt()
        weight = 1 / (distance + _length(eps, distance))
        return index, weight / weight.sum(-1, keepdim=True)
    index, squared = nearest_neighbors(centers, centers, count, exclude_self=True, only_earlier=True)
    relative = isinstance(eps, RelativeEps)
    nearest = find(centers, centers, 1, exclude_self=True).squared.sqrt() if relative else squared
    weight = 1 / (squared.sqrt() + _length(eps, nearest))
    return index, weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)


def _length(eps: Eps, distance: Tensor) -> float | Tensor:
    """eps in the unit of the distances (B, G, k), nearest first; above 0 where all centers coincide."""
    if not isinstance(eps, RelativeEps):
        return eps
    return (eps.relative * distance[..., :1].mean(1, keepdim=True)).clamp(min=1e-30)


def _dense(index: Tensor, weight: Tensor) -> Tensor:
    batch, size, _ = index.shape
    return torch.zeros(batch, size, size, device=weight.device).scatter_(-1, index, weight)


def _coupled(slots: Tensor) -> Tensor:
    """Which places may mix, (T, T) or (B, T, T): those that hold centers of the same copy."""
    same = slots.unsqueeze(-1) == slots.unsqueeze(-2)
    copy = same.tril(-1).sum(-1)
    spatial = slots >= 0
    return (copy.unsqueeze(-1) == copy.unsqueeze(-2)) & spatial.unsqueeze(-1) & spatial.unsqueeze(-2)
