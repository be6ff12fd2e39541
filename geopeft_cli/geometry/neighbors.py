"""The k nearest neighbors, exact: direct differences in float32, equal distances by the lower index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from geopeft_cli.errors import ShapeError
from geopeft_cli.geometry import compiled
from geopeft_cli.geometry.checks import require_count, require_points

# Distances held at a time: 2 MiB stay in the caches of a CPU core, 256 MiB keep a GPU busy.
_CHUNK = 2**19
_CHUNK_ON_DEVICE = 2**26


class Neighbors(NamedTuple):
    """Nearest first: ``index`` int64 (B, M, k) and ``squared`` distance float32 (B, M, k)."""

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody wants of neighbors
    squared: Tensor


def nearest_neighbors(
    reference: Tensor, query: Tensor, k: int, exclude_self: bool = False, only_earlier: bool = False
) -> Neighbors:
    """Find for every query its ``k`` nearest reference points, ties at any place to the lower index (as KNN_CUDA).

    Squared distances are ((dx^2 + dy^2) + dz^2) in float32, never |q|^2 + |r|^2 - 2qr, which cancels. Memory is
    bounded however many queries there are. Carries no gradient.

    Args:
        reference: (B, N, 3), any unit.
        query: (B, M, 3), the same unit.
        k: how many neighbors, 1..N, or 1..N-1 with ``exclude_self``.
        exclude_self: ``query`` is ``reference``, and no point is its own neighbor; coincident points still are.
        only_earlier: with ``exclude_self``, neighbors have a lower index; where there are fewer than ``k`` of these,
            the distance of the others is infinite.

    Returns:
        Indices into N and squared distances in the unit squared, each (B, M, k), nearest first.

    Raises:
        ShapeError: an argument is not (B, N, 3), batches differ, there are fewer than ``k`` reference points,
            or ``exclude_self`` is given and the two differ in size.
    """
    require_points(reference, "reference")
    require_points(query, "query")
    if reference.shape[0] != query.shape[0]:
        raise ShapeError(f"{reference.shape[0]} reference clouds for {query.shape[0]} query clouds")
    if exclude_self and reference.shape[1] != query.shape[1]:
        raise ShapeError(f"exclude_self needs query = reference: {tuple(query.shape)}, {tuple(reference.shape)}")
    require_count(k, reference.shape[1] - int(exclude_self), "nearest neighbors")
    query = query.detach().float()
    reference = reference.detach().float().transpose(1, 2).contiguous()
    if compiled.tracing(query, reference):
        squared = squared_distances(query, reference)
        return _exact(_allowed(squared, 0, only_earlier) if exclude_self else squared, k)
    if compiled.usable(query, reference) and not only_earlier:
        return Neighbors(*compiled.select(reference, query.contiguous(), k, exclude_self))
    shape = (*query.shape[:2], k)
    index = torch.empty(shape, dtype=torch.int64, device=query.device)
    nearest = torch.empty(shape, dtype=torch.float32, device=query.device)
    for clouds, rows in _chunks(query, reference):
        squared = squared_distances(query[clouds, rows], reference[clouds])
        if exclude_self:
            squared = _allowed(squared, rows.start, only_earlier)
        index[clouds, rows], nearest[clouds, rows] = _fast(squared, k)
    return Neighbors(index, nearest)


def _chunks(query: Tensor, reference: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of clouds and of queries whose distances fit the budget: several clouds, or part of one."""
    batch, queries = query.shape[:2]
    budget = _CHUNK if query.device.type == "cpu" else _CHUNK_ON_DEVICE
    rows = max(1, budget // reference.shape[2])
    clouds = max(1, rows // max(1, queries))
    for first in range(0, batch, clouds):
        for row in range(0, queries, rows):
            yield slice(first, first + clouds), slice(row, row + rows)


def squared_distances(query: Tensor, reference: Tensor) -> Tensor:
    """((dx^2 + dy^2) + dz^2) between query (B, M, 3) and reference (B, 3, N): (B, M, N)."""

    def along(axis: int) -> Tensor:
        delta = query[:, :, axis, None] - reference[:, None, axis]
        return delta.mul_(delta)

    return along(0).add_(along(1)).add_(along(2))


def _allowed(squared: Tensor, first: int, only_earlier: bool) -> Tensor:
    """``squared`` (B, M, N) with infinity where query ``first + i`` meets reference ``first + i``, or a later one."""
    row = torch.arange(squared.shape[1], device=squared.device).unsqueeze(-1) + first
    column = torch.arange(squared.shape[2], device=squared.device)
    return squared.masked_fill(row <= column if only_earlier else row == column, torch.inf)


def _fast(squared: Tensor, k: int) -> Neighbors:
    """``topk``, which leaves the order of ties open, and once more exactly for the rows that have one."""
    nearest, index = squared.topk(k, largest=False)
    rest = squared.scatter_(-1, index, torch.inf).amin(-1)
    tied = rest == nearest[..., -1]
    tied |= (nearest[..., 1:] == nearest[..., :-1]).any(-1)
    rows = tied.nonzero(as_tuple=True)
    if rows[0].numel():
        squared.scatter_(-1, index, nearest)
        index[rows], nearest[rows] = _exact(squared[rows], k)
    return Neighbors(index, nearest)


def _exact(squared: Tensor, k: int) -> Neighbors:
    """The k smallest along the last axis, in two selections: the values decide the set, the indices its ties."""
    size = squared.shape[-1]
    limit = squared.topk(k, largest=False).values[..., -1:]
    place = torch.arange(size, device=squared.device)
    rank = torch.where(squared < limit, place - size, place).masked_fill(squared > limit, size)
    index = rank.topk(k, largest=False).indices
    nearest = squared.gather(-1, index)
    order = _stable_argsort(nearest)
    return Neighbors(index.gather(-1, order), nearest.gather(-1, order))


def _stable_argsort(values: Tensor) -> Tensor:
    """Ascending, equal values in place; without the stable sort, which ONNX lacks, in a traced graph."""
    if not compiled.tracing():
        return values.argsort(stable=True)
    other, own = values.unsqueeze(-2), values.unsqueeze(-1)
    earlier = torch.ones(values.shape[-1], values.shape[-1], dtype=torch.bool, device=values.device).tril(-1)
    return ((other < own) | ((other == own) & earlier)).sum(-1).argsort()
