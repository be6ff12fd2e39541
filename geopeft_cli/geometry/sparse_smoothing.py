"""K-Rectify on clouds of too many tokens for a dense K^p: K applied p times, each time by the nonzeros of S."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from geopeft_cli.geometry.checks import require_points, require_slots
from geopeft_cli.geometry.smoothing import Eps, smoothing_weights


class Rows(NamedTuple):
    """A sparse matrix (R, R): ``starts``, int64 (R + 1,), of its rows in ``columns`` and ``values`` of its nonzeros."""

    starts: Tensor
    columns: Tensor
    values: Tensor

    def transposed(self) -> Rows:
        size = len(self.starts) - 1
        row = torch.arange(size, device=self.columns.device).repeat_interleave(self.starts.diff())
        columns, order = self.columns.sort(stable=True)
        starts = torch.searchsorted(columns, torch.arange(size + 1, device=columns.device))
        return Rows(starts, row[order], self.values[order])

    def __matmul__(self, x: Tensor) -> Tensor:
        """(R, C) -> (R, C), every row summed in one order on every run."""
        return functional.embedding_bag(
            self.columns,
            x,
            self.starts,
            mode="sum",
            per_sample_weights=self.values.to(x.dtype),
            include_last_offset=True,
        )


class SparseRectifier:
    """K^power for K = I + lam S, the operator of :func:`geopeft_cli.geometry.smoothing.rectifier`, without its matrix.

    Gradients to the tokens pass the transpose, which is as sparse and is summed in a fixed order as well.

    Args:
        centers: (B, G, 3), any unit.
        slots: int64 (T,) or (B, T), for every place in the sequence the index of its center, -1 for tokens without.
        neighbors: see :func:`geopeft_cli.geometry.smoothing.smoothing_matrix`.
        eps: see there.
        lam: strength of the smoothing.
        power: how often K is applied, 0 or more.
        causal: see :func:`geopeft_cli.geometry.smoothing.smoothing_weights`.

    Raises:
        ShapeError: as ``rectifier`` does.
    """

    def __init__(
        self,
        centers: Tensor,
        slots: Tensor,
        neighbors: int,
        eps: Eps,
        lam: float,
        power: int,
        causal: bool = False,
    ) -> None:
        require_points(centers, "centers")
        require_slots(slots, centers)
        self.lam, self.power = lam, power
        batch, size, _ = centers.shape
        slots = slots.expand(batch, -1)
        copy = _copies(slots)
        copies = int(copy.max()) + 1 if copy.numel() else 1
        # every copy of the centers of every cloud has its rows, those that the sequence lacks included
        row = (torch.arange(batch, device=slots.device)[:, None] * copies + copy) * size + slots
        self.places = torch.arange(slots.numel(), device=slots.device)[slots.flatten() >= 0]
        self.rows = row.flatten()[self.places]
        self.sources = torch.full((batch * copies * size,), slots.numel(), device=slots.device)
        self.sources[self.rows] = self.places

        index, weight = smoothing_weights(centers, neighbors, eps, causal)
        first = torch.arange(batch * copies, device=slots.device).view(batch, copies, 1, 1) * size
        columns = (index.unsqueeze(1) + first).flatten()
        starts = torch.arange(batch * copies * size + 1, device=slots.device) * index.shape[-1]
        self.forward = Rows(starts, columns, weight.unsqueeze(1).expand(-1, copies, -1, -1).flatten())
        self.backward = self.forward.transposed()

    def __call__(self, x: Tensor) -> Tensor:
        """Tokens (B, T, C) -> (B, T, C)."""
        result: Tensor = _Product.apply(x, self, False)  # type: ignore[no-untyped-call]
        return result

    def product(self, x: Tensor, transposed: bool) -> Tensor:
        """K^p x or its transpose times x, without a gradient."""
        smoothing = self.backward if transposed else self.forward
        flat = x.flatten(0, 1)
        wide = flat.to(torch.promote_types(x.dtype, torch.float32))
        field = torch.cat([wide, wide.new_zeros(1, wide.shape[1])])[self.sources]
        for _ in range(self.power):
            field = field + self.lam * (smoothing @ field)
        result = flat.clone()
        result[self.places] = field[self.rows].to(x.dtype)
        return result.view_as(x)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: SparseRectifier, transposed: bool) -> Tensor:
        ctx.operator, ctx.transposed = operator, transposed
        return operator.product(x, transposed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        product: Tensor = _Product.apply(gradient, ctx.operator, not ctx.transposed)  # type: ignore[no-untyped-call]
        return product, None, None


def _copies(slots: Tensor) -> Tensor:
    """How many places before it hold the same center, (B, T)."""
    ordered, order = slots.sort(dim=1, stable=True)
    first = torch.searchsorted(ordered, ordered)
    rank = torch.arange(slots.shape[1], device=slots.device) - first
    return torch.zeros_like(slots).scatter_(1, order, rank) * (slots >= 0)
