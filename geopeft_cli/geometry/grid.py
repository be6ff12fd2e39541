"""The k nearest neighbors in large clouds: a hashed grid instead of all pairs, the same answer to the last index.

A cloud is cut into cubes; a query looks at the cubes around its own and is settled once its k-th neighbor is nearer
than everything outside them can be. Cubes start as small as the densest parts of the cloud allow and double for the
queries that are not settled, so that dense and sparse parts each find their size and outliers cost no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from geopeft_cli.errors import ShapeError
from geopeft_cli.geometry.checks import require_count, require_points
from geopeft_cli.geometry.neighbors import Neighbors, nearest_neighbors

_CANDIDATES = 2**20  # looked at at a time
_PROBES = 128  # queries whose neighbors tell how dense the cloud is
_FEW = 64  # so few queries are compared with every point
_AXIS = 2**20  # half the cubes along an axis: three numbers of 21 bits fit into an integer
_UNDERFLOW = 1e-36  # squares below it are not exact to a relative error
_LEAST = 1e-17  # a length whose square is well above it
_NONE = torch.iinfo(torch.int64).max


def grid_neighbors(reference: Tensor, query: Tensor, k: int, exclude_self: bool = False) -> Neighbors:
    """What :func:`geopeft_cli.geometry.neighbors.nearest_neighbors` returns, in far less than N M steps.

    Equal distances go to the lower index, also among many. Memory is bounded however the points lie. Carries no
    gradient.

    Args:
        reference: (B, N, 3), any unit.
        query: (B, M, 3), the same unit.
        k: how many neighbors, 1..N, or 1..N-1 with ``exclude_self``.
        exclude_self: ``query`` is ``reference``, and no point is its own neighbor; coincident points still are.

    Raises:
        ShapeError: as ``nearest_neighbors`` does.
    """
    require_points(reference, "reference")
    require_points(query, "query")
    if reference.shape[0] != query.shape[0] or (exclude_self and reference.shape[1] != query.shape[1]):
        raise ShapeError(f"reference {tuple(reference.shape)} and query {tuple(query.shape)} do not go together")
    require_count(k, reference.shape[1] - int(exclude_self), "nearest neighbors")
    reference, query = reference.detach().float(), query.detach().float()
    clouds = [_Search(*pair, k, exclude_self).run() for pair in zip(reference, query, strict=True)]
    return Neighbors(torch.stack([one.index for one in clouds]), torch.stack([one.squared for one in clouds]))


class _Points(NamedTuple):
    """The reference points in the order of their cubes: coordinates (N, 3) and index (N,)."""

    coordinates: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index


class _Search:
    """The search in one cloud: reference (N, 3) and query (M, 3), float32."""

    def __init__(self, reference: Tensor, query: Tensor, k: int, exclude_self: bool) -> None:
        self.query, self.k, self.exclude_self = query, k, exclude_self
        self.kept = _without_surplus_copies(reference, k + int(exclude_self))
        self.reference = reference[self.kept]
        self.origin = reference.median(0).values.double()
        self.extent = float((reference.amax(0) - reference.amin(0)).max())
        spread = (reference - reference.median(0).values).abs().amax(1)
        self.spread = float(spread.kthvalue(1 + (len(spread) - 1) * 19 // 20).values)
        # a neighbor's squared distance as float32 bits, which sort as the distances do, and its index
        self.keys = torch.full((len(query), k), _NONE, device=query.device)

    def run(self) -> Neighbors:
        """(M, k), nearest first."""
        pending = torch.arange(len(self.query), device=self.query.device)
        size = self._first_size()
        while len(pending) > _FEW and 0 < size < self.extent:
            pending = self._settle(pending, size)
            size *= 2
        if len(pending):
            self._compare_with_all(pending)
        bits = (self.keys >> 32).to(torch.int32)
        return Neighbors(self.keys & 0xFFFFFFFF, bits.view(torch.float32))

    def _first_size(self) -> float:
        """Within which distance the densest parts of the cloud have their k neighbors; 0 for a single place.

        Not so little that more than a few points lie beyond the numbers of cubes.
        """
        size = len(self.query)
        probes = torch.arange(min(size, _PROBES), device=self.query.device) * size // min(size, _PROBES)
        count = min(self.k + 1, len(self.reference))
        squared = nearest_neighbors(self.reference[None], self.query[None, probes], count).squared[0, :, -1]
        reach = squared[squared > 0].double().sqrt()
        return max(float(reach.min()), self.spread / _AXIS, _LEAST) if len(reach) else 0.0

    def _settle(self, pending: Tensor, size: float) -> Tensor:
        """Find the neighbors that cubes of one size can guarantee; the queries that are left."""
        cube, order = _number(self._cubes(self.reference, size)).sort()
        points = _Points(self.reference[order], self.kept[order])
        own = self._cubes(self.query[pending], size)
        number, by_cube = _number(own).sort()  # what is near in space is then near in memory
        pending, own = pending[by_cube], own[by_cube]
        unique, inverse = number.unique_consecutive(return_inverse=True)
        first, last = _runs(cube, unique)
        count = (last - first).sum(1)[inverse]
        hopeless = count > len(self.reference) // 4
        if hopeless.any():
            self._compare_with_all(pending[hopeless])
        left = ~hopeless
        chosen = (left & (count >= self.k + int(self.exclude_self))).nonzero()[:, 0]
        width = torch.pow(2, count[chosen].log2().ceil()).long()
        width, by_width = width.sort(stable=True)
        chosen = chosen[by_width]
        # how far the nearest border of the 3 x 3 x 3 cubes is, less what rounding can hide
        inside = (self.query[pending].double() - self.origin) / size - own
        bound = ((1 + torch.minimum(inside, 1 - inside).amin(1) - 1e-6) * size) ** 2 * (1 - 1e-6) - _UNDERFLOW
        for rows in _chunks(width):
            part = chosen[rows]
            keys = self._nearest(pending[part], first[inverse[part]], last[inverse[part]], points)
            settled = (keys[:, -1] >> 32).to(torch.int32).view(torch.float32) < bound[part]
            self.keys[pending[part[settled]]] = keys[settled]
            left[part] = ~settled
        return pending[left]

    def _cubes(self, points: Tensor, size: float) -> Tensor:
        """Which cube points are in, float64 whole numbers (n, 3)."""
        return ((points.double() - self.origin) / size).floor()

    def _nearest(self, rows: Tensor, first: Tensor, last: Tensor, points: _Points) -> Tensor:
        """Keys (n, k) of the nearest among candidates that stand in nine runs of ``points``, each (n, 9)."""
        lengths = (last - first).flatten()
        count = lengths.view(first.shape).sum(1)
        column = torch.arange(int(count.sum()), device=rows.device)
        row = torch.arange(len(rows), device=rows.device).repeat_interleave(count)
        place = column + (first.flatten() - lengths.cumsum(0) + lengths).repeat_interleave(lengths)
        index = points.index[place]
        key = _keys(self.query[rows].index_select(0, row), points.coordinates.index_select(0, place), index)
        if self.exclude_self:
            key.masked_fill_(index == rows[row], _NONE)
        widest = int(count.max())
        table = torch.full((len(rows) * widest,), _NONE, device=rows.device)
        table[column + (torch.arange(len(rows), device=rows.device) * widest - count.cumsum(0) + count)[row]] = key
        return table.view(-1, widest).topk(self.k, largest=False).values

    def _compare_with_all(self, rows: Tensor) -> None:
        count = self.k + int(self.exclude_self)
        index, squared = nearest_neighbors(self.reference[None], self.query[None, rows], count)
        key = squared[0].view(torch.int32).long() << 32 | self.kept[index[0]]
        if self.exclude_self:  # itself, or the last where so many coincide with it that it is not among them
            own = self.kept[index[0]] == rows[:, None]
            own[:, -1] |= ~own.any(1)
            key = key[~own].view(-1, self.k)
        self.keys[rows] = key


def _keys(query: Tensor, reference: Tensor, index: Tensor) -> Tensor:
    """Squared distance, in float32 and in the order of ``nearest_neighbors``, above the index."""
    dx, dy, dz = (query - reference).square_().unbind(-1)
    return ((dx + dy) + dz).view(torch.int32).long() << 32 | index


def _number(cubes: Tensor) -> Tensor:
    """One number for every cube, consecutive along z; there is room for a neighbor on every side.

    Cubes far out count as those of the border, which only adds candidates.
    """
    x, y, z = (cubes.clamp(-_AXIS + 2, _AXIS - 2).long() + _AXIS).unbind(1)
    return (x * (_AXIS * 2) + y) * (_AXIS * 2) + z


def _runs(cube: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Where the 3 x 3 x 3 cubes around ``centers`` (n,) stand in the sorted ``cube``: nine runs, each three along z."""
    step = torch.arange(-1, 2, device=cube.device)
    middle = centers[:, None] + ((step[:, None] * (_AXIS * 2) + step) * (_AXIS * 2)).flatten()
    return torch.searchsorted(cube, middle - 1), torch.searchsorted(cube, middle + 1, right=True)


def _chunks(width: Tensor) -> Iterator[slice]:
    """Slices of queries, of one table width each, that fit the budget."""
    first = 0
    for each, rows in zip(*(part.tolist() for part in width.unique_consecutive(return_counts=True)), strict=True):
        step = max(1, _CANDIDATES // each)
        for start in range(first, first + rows, step):
            yield slice(start, min(start + step, first + rows))
        first += rows


def _without_surplus_copies(points: Tensor, copies: int) -> Tensor:
    """Indices, ascending, of (N, 3) points without those that have as many coincident ones before them."""
    order = torch.arange(len(points), device=points.device)
    for axis in range(3):
        order = order[points[order, axis].argsort(stable=True)]
    ordered = points[order]
    differs = (ordered[1:] != ordered[:-1]).any(1)
    place = torch.arange(len(points), device=points.device)
    start = torch.zeros_like(place)
    start[1:] = torch.where(differs, place[1:], 0)
    return order[place - start.cummax(0).values < copies].sort().values
