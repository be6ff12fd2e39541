"""Orders in which a network reads the groups of a cloud."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geopeft_cli.errors import GeometryError
from geopeft_cli.geometry.checks import require_count, require_points
from geopeft_cli.geometry.compiled import tracing
from geopeft_cli.geometry.grouping import take

CELL = 0.02  # edge of PointMamba's cells
DEEPEST = 16  # bits an axis at most
MOST = 2**15  # centers, whose index and place on the deepest curve fit into an integer together


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


def hilbert_order(centers: Tensor, curves: Sequence[Sequence[int]], of_batch: bool = False) -> Tensor:
    """The orders in which Hilbert curves through cells of edge 0.02 pass centers (PointMamba's orders).

    The cells count from the lowest of the cloud, and the curves are as deep as its widest axis needs. Of centers in
    one cell the lower index goes first. Carries no gradient.

    Args:
        centers: (B, G, 3), in units of the prepared cloud.
        curves: for each of n curves the coordinates that it takes first, second and third: (0, 1, 2) is x, y, z.
        of_batch: curves are as deep as the widest cloud of the batch needs. One or two bits more turn a curve (three
            do not), so that the order then depends on the other clouds.

    Returns:
        Indices into G in the order of each curve, int64 (B, n, G).

    Raises:
        ShapeError: ``centers`` is not (B, G, 3), or G is more than 2^15.
        GeometryError: a cloud is wider than 2^16 cells, or not finite.
    """
    require_points(centers, "centers")
    require_count(centers.shape[1], MOST, "centers on a curve")
    centers = centers.detach().float()
    # by a tensor: division by a number becomes a product on some devices, and centers on a border change cells
    cells = (centers / torch.full_like(centers, CELL)).floor()
    if not tracing(centers):
        _require_depth(cells)
    cells = cells.to(torch.int64)
    cells = cells - cells.amin(1, keepdim=True)
    widest = cells.amax((0, 1, 2), keepdim=True) if of_batch else cells.amax((1, 2), keepdim=True)
    depth = (widest >= 2 ** torch.arange(DEEPEST, device=cells.device)).sum(2, keepdim=True).clamp(min=1)
    code = hilbert_code(torch.stack([cells[..., [*axes]] for axes in curves], dim=1), depth)
    # no two keys are equal, for the stable sort of equal ones does not translate to ONNX
    count = centers.shape[1]
    return (code * count + torch.arange(count, device=cells.device)).argsort(-1)


def hilbert_code(cells: Tensor, depth: Tensor) -> Tensor:
    """How far along a Hilbert curve cells lie (Skilling, Programming the Hilbert curve, 2004).

    Args:
        cells: int64 (..., 3), from 0 to below 2^depth.
        depth: int64 of a shape that broadcasts to (...), bits an axis, 1..16.

    Returns:
        int64 (...), from 0 to below 8^depth.
    """
    bits = DEEPEST if tracing(cells, depth) else int(depth.max())
    x = [*cells.unbind(-1)]
    for bit in reversed(range(1, bits)):
        # above the curve's first bit all bits are 0, and nothing is to change
        below = torch.where(bit < depth, 2**bit - 1, 0)
        for axis in range(3):
            is_set = (x[axis] & 2**bit) != 0
            exchanged = torch.where(is_set, 0, (x[0] ^ x[axis]) & below)
            x[axis] = x[axis] ^ exchanged
            x[0] = x[0] ^ torch.where(is_set, below, exchanged)
    powers = 2 ** torch.arange(3 * bits, device=cells.device).flip(0)
    gray = (torch.stack(x, dim=-1).unsqueeze(-2) & powers[-bits:, None]) != 0
    return ((gray.flatten(-2).cumsum(-1) & 1) * powers).sum(-1)


def _require_depth(cells: Tensor) -> None:
    width = cells.amax(1) - cells.amin(1)
    if not bool((width < 2**DEEPEST).all()):
        raise GeometryError(
            f"a cloud is {float(width.max()) * CELL:.6g} wide, and the Hilbert curve of PointMamba reaches "
            f"{CELL * 2**DEEPEST:.6g} at most",
            "Prepare the clouds in the units of the pre-training, as data.normalize=unit_sphere does.",
        )
