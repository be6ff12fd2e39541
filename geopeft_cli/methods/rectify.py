"""K-Rectify in a forward pass: K^p on the tokens of a level, computed once for all layers that read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from geopeft_cli.contracts import Level
from geopeft_cli.errors import GeometryError
from geopeft_cli.geometry.smoothing import Eps, RelativeEps, rectifier


class Rectify:
    """K^p on the tokens of a level: x (B, T, C) -> (B, T, C). Parameter-free; tokens without a center pass by.

    Args:
        neighbors: k of S.
        eps: added to a distance before inverting it: a length, or ``{"relative": factor}`` of the cloud's mean
            distance to the nearest other center.
        lam: weight of S in K = I + lam S.
        sides: p.
    """

    def __init__(self, neighbors: int, eps: float | Mapping[str, float], lam: float, sides: int) -> None:
        self.neighbors, self.lam, self.sides = neighbors, lam, sides
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
        key = (self.neighbors, self.eps, self.lam, self.sides)
        operator = level.memo(key, lambda: rectifier(level.centers, level.slots, *key))
        if x.is_inference():  # has no version that would tell of changes in place
            return torch.bmm(operator.to(x.dtype), x)
        # Layers that read the same tensor follow each other: remembering the last one is enough and holds no more.
        last: dict[Any, tuple[Tensor, Tensor]] = level.memo("rectified", dict)
        entry = (id(x), x._version, key)
        if entry not in last:
            last.clear()
            last[entry] = (x, torch.bmm(operator.to(x.dtype), x))
        return last[entry][1]


def require_tokens(x: Tensor, level: Level, reader: str) -> None:
    """Stop tokens that a level does not describe.

    Raises:
        GeometryError: x is not (B, T, C) with the T of the level.
    """
    if x.ndim != 3 or x.shape[1] != level.slots.shape[-1]:
        raise GeometryError(
            f"{reader} got tokens of shape {tuple(x.shape)}, the geometry describes {level.slots.shape[-1]} a cloud"
        )
