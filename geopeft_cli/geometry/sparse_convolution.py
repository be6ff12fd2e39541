"""Submanifold sparse convolution (Graham & van der Maaten, 2017, arXiv 1706.01307) in plain torch.

Outputs exist where inputs do: y_n = b + sum_o W_o x_(n + o) over the voxels n + o that are occupied. The pairs of
neighbors are found once for a grid and a kernel and shared by all layers; every offset is then one gather, one matrix
product and one scatter over its own pairs, forward and backward, in a fixed order. No layer keeps a gathered tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.contracts import VoxelLevel, current_level
from geopeft_cli.errors import GeometryError, ShapeError
from geopeft_cli.geometry.clusters import Clusters, clusters_of
from geopeft_cli.geometry.spconv_convolution import spconv_convolution
from geopeft_cli.geometry.voxels import voxel_keys

_ROWS = 4096  # gathered at a time on a CPU, whose cache holds them


@dataclass(frozen=True)
class NeighborMap:
    """Which voxels of packed scenes are neighbors under a cubic kernel.

    Offsets are numbered as the kernel's positions are, row-major in x, y and z. Those before the center mirror those
    after it, so that only the latter are stored: pair p of ``bounds[i] : bounds[i + 1]`` says that the voxel
    ``source[p]`` stands at offset ``center + 1 + i`` from ``target[p]``.

    Attributes:
        kernel: voxels along an edge, odd.
        target: int32 (P,).
        source: int32 (P,).
        bounds: where the pairs of every offset begin, and P.
        twins: rows that share voxels, in which case the pairs are of voxels, in the order of the clusters.
    """

    kernel: int
    target: Tensor
    source: Tensor
    bounds: tuple[int, ...]
    twins: Clusters | None = None

    @property
    def center(self) -> int:
        return self.kernel**3 // 2

    def pairs(self, offset: int) -> tuple[Tensor, Tensor]:
        """Targets and sources of an offset other than the center; every voxel occurs at most once in each."""
        index = abs(offset - self.center) - 1
        part = slice(self.bounds[index], self.bounds[index + 1])
        pair = self.target[part], self.source[part]
        return pair if offset > self.center else pair[::-1]


def neighbor_map(voxels: Tensor, offsets: Tensor, kernel: int) -> NeighborMap:
    """Find the occupied neighbors of every voxel in its own scene. Memory is linear in the pairs.

    Where several rows share a voxel, each is its own center and the lowest of them is what neighbors see.

    Args:
        voxels: whole numbers (N, 3).
        offsets: int64 (scenes + 1,), where the scenes begin, and N.
        kernel: voxels along an edge, odd.

    Raises:
        ShapeError: the kernel is even, or ``voxels`` and ``offsets`` are no packed scenes.
        DataError: the scenes extend too far to number their voxels.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ShapeError(f"a kernel of {kernel} voxels, an odd number expected")
    reach = kernel // 2
    keys, steps = voxel_keys(voxels, offsets, margin=reach)
    ordered, order = keys.sort(stable=True)
    twins = None
    if bool((ordered[1:] == ordered[:-1]).any()):
        twins = clusters_of(keys)
        ordered = ordered.unique_consecutive()
        order = torch.arange(len(ordered), device=keys.device)
    targets, sources, bounds = [], [], [0]
    for offset in range(kernel**3 // 2 + 1, kernel**3):
        steps_taken = offset // kernel**2 - reach, offset // kernel % kernel - reach, offset % kernel - reach
        wanted = ordered + sum(count * step for count, step in zip(steps_taken, steps, strict=True))
        place = torch.searchsorted(ordered, wanted).clamp_(max=max(len(ordered) - 1, 0))
        found = (ordered[place] == wanted).nonzero()[:, 0]
        targets.append(order[found].int())
        sources.append(order[place[found]].int())
        bounds.append(bounds[-1] + len(found))
    none = order[:0].int()
    return NeighborMap(kernel, torch.cat([none, *targets]), torch.cat([none, *sources]), tuple(bounds), twins)


def submanifold_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, neighbors: NeighborMap) -> Tensor:
    """Convolve the rows of packed scenes over their occupied neighbors.

    A cross-correlation without a flip, equal to ``conv3d(x, weight.permute(0, 4, 1, 2, 3))`` with padding, read at the
    occupied voxels. Under autocast, products are in its number format and sums in float32.

    Args:
        x: (N, in).
        weight: (out, k, k, k, in), spconv's layout; its axes 1 to 3 follow the columns of the voxels.
        bias: (out,).
        neighbors: of the voxels of the rows, for the same k.

    Returns:
        (N, out).

    Raises:
        ShapeError: the weight is for another kernel or another number of channels.
    """
    k = neighbors.kernel
    if tuple(weight.shape[1:]) != (k, k, k, x.shape[-1]):
        raise ShapeError(f"weight of shape {tuple(weight.shape)}, expected (out, {k}, {k}, {k}, {x.shape[-1]})")
    if torch.is_autocast_enabled(x.device.type):
        precision = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(precision), weight.to(precision)
    own = F.linear(x, weight[:, k // 2, k // 2, k // 2], bias).to(_wide(x.dtype))
    twins = neighbors.twins
    if twins is None:
        return _with_neighbors(own, x, weight, neighbors).to(x.dtype)
    none = own.new_zeros(len(twins.counts), own.shape[1])
    return (own + twins.spread(_with_neighbors(none, x[twins.first], weight, neighbors))).to(x.dtype)


def _with_neighbors(y: Tensor, x: Tensor, weight: Tensor, neighbors: NeighborMap) -> Tensor:
    """``y`` (V, out), changed in place, plus the sum over all offsets but the center."""
    result: Tensor = _Neighbors.apply(y, x, weight, neighbors)  # type: ignore[no-untyped-call]
    return result


class _Neighbors(torch.autograd.Function):
    """Gathers anew in the backward pass what the forward pass gathered, instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, weight: Tensor, neighbors: NeighborMap) -> Tensor:
        _, needs_x, needs_weight, _ = ctx.needs_input_grad
        ctx.mark_dirty(y)
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        ctx.neighbors, ctx.shape, ctx.precision = neighbors, weight.shape, x.dtype
        taps = weight.detach().flatten(1, 3).permute(1, 2, 0).contiguous()
        for offset, target, source in _steps(neighbors, x):
            _add_rows(y, target, x.index_select(0, source) @ taps[offset])
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        whole, gradient = gradient, gradient.to(ctx.precision)
        dx = None if weight is None else gradient.new_zeros(len(gradient), weight.shape[-1], dtype=whole.dtype)
        taps = None if weight is None else weight.flatten(1, 3).transpose(0, 1).contiguous()
        dw = None
        if x is not None:
            outputs, *kernel, inputs = ctx.shape
            dw = x.new_zeros(math.prod(kernel), outputs, inputs, dtype=whole.dtype)
        for offset, target, source in _steps(ctx.neighbors, gradient):
            part = gradient.index_select(0, target)
            if dx is not None and taps is not None:
                _add_rows(dx, source, part @ taps[offset])
            if dw is not None:
                dw[offset] += part.T @ x.index_select(0, source)
        return (
            whole,
            None if dx is None else dx.to(ctx.precision),
            None if dw is None else dw.transpose(0, 1).reshape(ctx.shape).to(ctx.precision),
            None,
        )


def _steps(neighbors: NeighborMap, x: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Offset, targets and sources, all offsets in turn and of each so many pairs as are worked on at a time."""
    size = _ROWS if x.device.type == "cpu" else max(neighbors.target.numel(), 1)
    for offset in range(neighbors.kernel**3):
        if offset != neighbors.center:
            target, source = neighbors.pairs(offset)
            for one, other in zip(target.split(size), source.split(size), strict=True):
                yield offset, one.long(), other.long()


def _add_rows(y: Tensor, rows: Tensor, values: Tensor) -> None:
    """Add ``values`` (P, C) to different rows of ``y``, by whatever is fastest on the device."""
    values = values.to(y.dtype)
    if y.device.type == "cpu":
        y.scatter_add_(0, rows[:, None].expand_as(values), values)
    else:
        y.index_add_(0, rows, values)


def _wide(precision: torch.dtype) -> torch.dtype:
    return torch.promote_types(precision, torch.float32)


class SubmanifoldConvolution(nn.Module):
    """A submanifold convolution over the voxels of a level of the current forward pass: (N, in) -> (N, out).

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: voxels along an edge, odd.
        level: index of the level whose tokens it reads.
        bias: whether to add one.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, level: int, bias: bool = True) -> None:
        super().__init__()
        self.kernel, self.level = kernel, level
        self.weight = nn.Parameter(torch.empty(outputs, kernel, kernel, kernel, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        bound = 1 / math.sqrt(kernel**3 * inputs)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        level = current_level(self.level, "a sparse convolution")
        if not isinstance(level, VoxelLevel) or not level.describes(x):
            raise GeometryError(f"a sparse convolution got {tuple(x.shape)}, the geometry describes {level.described}")
        if level.convolution == "spconv":
            return spconv_convolution(x, self.weight, self.bias, level)
        return submanifold_convolution(x, self.weight, self.bias, level_neighbors(level, self.kernel))


def level_neighbors(level: VoxelLevel, kernel: int) -> NeighborMap:
    """The neighbors of a level's voxels, found at the first call of a forward pass."""
    return level.memo(("voxel neighbors", kernel), lambda: neighbor_map(level.voxels, level.offsets, kernel))
