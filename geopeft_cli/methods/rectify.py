"""K-Rectify in a forward pass: K^p on the tokens of a level, computed once for all layers that read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from geopeft_cli.contracts import Level, PackedLevel
from geopeft_cli.errors import GeometryError, UsageError
from geopeft_cli.geometry.compiled import tracing
from geopeft_cli.geometry.smoothing import Eps, RelativeEps, rectifier
from geopeft_cli.geometry.sparse_smoothing import SparseRectifier

DENSE_TOKENS = 1024  # a cloud, up to which one matrix product is faster than p sparse ones

Operator = Callable[[Tensor], Tensor]


class Rectify:
    """K^p on the tokens of a level: x (B, T, C) -> (B, T, C), or (N, C) -> (N, C) on a packed level.

    Parameter-free; tokens without a center pass by.

    Args:
        neighbors: k of S.
        eps: added to a distance before inverting it: a length, or ``{"relative": factor}`` of the cloud's mean
            distance to the nearest other center.
        lam: weight of S in K = I + lam S.
        sides: p.
        causal: whether only tokens that stand earlier are neighbors.
    """

    def __init__(
        self, neighbors: int, eps: float | Mapping[str, float], lam: float, sides: int, causal: bool = False
    ) -> None:
        self.neighbors, self.lam, self.sides, self.causal = neighbors, lam, sides, causal
        self.eps: Eps = RelativeEps(**eps) if isinstance(eps, Mapping) else eps

    @property
    def is_identity(self) -> bool:
        return self.lam == 0.0 or self.sides == 0

    @property
    def gain(self) -> float:
        """What K^p multiplies a locally constant field by."""
        return (1.0 + self.lam) ** self.sides

    def __call__(self, x: Tensor, level: Level, reader: str) -> Tensor:
        require_tokens(x, level, reader)
        key = self._settings
        operator = level.memo(key, lambda: self._operator(level))
        if x.is_inference():  # has no version that would tell of changes in place
            return operator(x)
        # Layers that read the same tensor follow each other: remembering the last one is enough and holds no more.
        last: dict[Any, tuple[Tensor, Tensor]] = level.memo("rectified", dict)
        entry = (id(x), x._version, key)
        if entry not in last:
            last.clear()
            last[entry] = (x, operator(x))
        return last[entry][1]

    @property
    def _settings(self) -> tuple[int, Eps, float, int, bool]:
        return (self.neighbors, self.eps, self.lam, self.sides, self.causal)

    def _operator(self, level: Level) -> Operator:
        if self.causal:
            require_order(level)
        if not isinstance(level, PackedLevel):
            return self._of_clouds(level.centers, level.slots)
        sizes = level.sizes
        centers, slots = level.centers.split(sizes), level.slots.split(sizes)
        scenes = [self._of_clouds(own[None], places - places[:1]) for own, places in zip(centers, slots, strict=True)]

        def each(x: Tensor) -> Tensor:
            parts = zip(scenes, x.split(sizes), strict=True)
            return torch.cat([operator(part[None])[0] for operator, part in parts])

        return each

    def _of_clouds(self, centers: Tensor, slots: Tensor) -> Operator:
        settings = self._settings
        if slots.shape[-1] > DENSE_TOKENS and not tracing(centers):
            return SparseRectifier(centers, slots, *settings)
        matrix = rectifier(centers, slots, *settings)
        return lambda x: torch.bmm(matrix.to(x.dtype), x)


def require_tokens(x: Tensor, level: Level, reader: str) -> None:
    """Stop tokens that a level does not describe.

    Raises:
        GeometryError: x has not the shape of the level's tokens.
    """
    if not level.describes(x):
        raise GeometryError(f"{reader} got tokens of shape {tuple(x.shape)}, the geometry describes {level.described}")


def require_order(level: Level) -> None:
    """Stop a causal graph where "earlier" is not the order of the centers.

    Raises:
        UsageError: the tokens of a level have no order, or another one.
    """
    slots = level.slots
    packed = isinstance(level, PackedLevel)
    if packed or (not tracing(slots) and bool(_steps_back(slots).any())):
        raise UsageError("method.graph: causal needs tokens in the order of their centers", "Use method.graph=full.")


def _steps_back(slots: Tensor) -> Tensor:
    """Where (..., T) a center does not come behind all before it, (..., T - 1)."""
    return (slots[..., 1:] >= 0) & (slots[..., 1:] <= slots.cummax(dim=-1).values[..., :-1])
