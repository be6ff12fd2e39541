"""Rows that belong together: reduced to one row each, and spread to all rows again, in one order on every run."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor


class Clusters(NamedTuple):
    """A partition of N rows into M clusters.

    Attributes:
        inverse: int64 (N,), the cluster of every row.
        order: int64 (N,), the rows, cluster after cluster, in their own order inside each.
        counts: int64 (M,), how many rows every cluster has.
    """

    inverse: Tensor
    order: Tensor
    counts: Tensor

    @property
    def first(self) -> Tensor:
        """int64 (M,), the lowest row of every cluster."""
        return self.order[self.counts.cumsum(0) - self.counts]

    def maximum(self, x: Tensor) -> Tensor:
        """(N, C) -> (M, C). At ties the gradient is split."""
        return self._reduced(x, "max")

    def mean(self, x: Tensor) -> Tensor:
        """(N, C) -> (M, C)."""
        return self._reduced(x, "mean")

    def total(self, x: Tensor) -> Tensor:
        """(N, C) -> (M, C), the sums."""
        return self._reduced(x, "sum")

    def spread(self, x: Tensor) -> Tensor:
        """(M, C) -> (N, C): every row gets that of its cluster. Gradients are summed in a fixed order."""
        result: Tensor = _Spread.apply(x, self)  # type: ignore[no-untyped-call]
        return result

    def _reduced(self, x: Tensor, how: Literal["max", "mean", "sum"]) -> Tensor:
        return torch.segment_reduce(x[self.order], how, lengths=self.counts, axis=0, unsafe=True)


def clusters_of(keys: Tensor) -> Clusters:
    """The rows with equal keys, int64 (N,), as clusters in the order of the keys."""
    _, inverse, counts = keys.unique(return_inverse=True, return_counts=True)
    return Clusters(inverse, inverse.argsort(stable=True), counts)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, clusters: Clusters) -> Tensor:
        ctx.clusters = clusters
        return x[clusters.inverse]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.clusters.total(gradient), None
