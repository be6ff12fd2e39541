"""The diagonal blocks of a Monarch factor: dense, of low rank, or Kronecker products.

Every structure maps (b, rows, in) to (b, rows, out), block by block. One that starts at zero has exactly one zero
leaf, since with two of them no gradient would ever reach either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from geopeft_cli.errors import UsageError

Blocks = nn.Parameter | nn.Module
DENSE: Mapping[str, Any] = {"type": "dense"}


def make_blocks(factor: Mapping[str, Any], shape: tuple[int, int, int], zero: bool) -> Blocks:
    """Blocks of the structure that the recipe's ``method.factor`` names.

    Args:
        factor: ``{"type": "dense"}``, ``{"type": "low_rank", "rank": r}`` or
            ``{"type": "kronecker", "sizes": (a1, a2)}`` with or without sizes.
        shape: (b, out, in).
        zero: whether the product is zero at the start.

    Raises:
        UsageError: the sizes of Kronecker factors do not divide those of the block.
    """
    if factor["type"] == "low_rank":
        return LowRankBlocks(shape, factor["rank"], zero)
    if factor["type"] == "kronecker":
        return KroneckerBlocks(shape, factor.get("sizes"), zero)
    return nn.Parameter(torch.zeros(shape)) if zero else _uniform(*shape)


def multiply(x: Tensor, blocks: Blocks) -> Tensor:
    """(b, rows, in) -> (b, rows, out)."""
    product: Tensor = torch.bmm(x, blocks.mT) if isinstance(blocks, Tensor) else blocks(x)
    return product


class LowRankBlocks(nn.Module):
    """Block U V with U (b, out, r) and V (b, r, in); r is at most min(out, in). b r (out + in) parameters."""

    def __init__(self, shape: tuple[int, int, int], rank: int, zero: bool) -> None:
        super().__init__()
        b, outputs, inputs = shape
        rank = min(rank, outputs, inputs)
        self.u = nn.Parameter(torch.zeros(b, outputs, rank)) if zero else _uniform(b, outputs, rank)
        self.v = _uniform(b, rank, inputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(torch.bmm(x, self.v.mT), self.u.mT)


class KroneckerBlocks(nn.Module):
    """Block A kron B with A (b, a1, a2) and B (b, out / a1, in / a2), in the convention of ``torch.kron``.

    b (a1 a2 + out in / (a1 a2)) parameters.

    Args:
        shape: (b, out, in).
        sizes: (a1, a2); by default the largest divisors of out and of in that are not above their square roots.
        zero: whether B starts at zero.

    Raises:
        UsageError: a1 does not divide out, or a2 does not divide in.
    """

    def __init__(self, shape: tuple[int, int, int], sizes: tuple[int, int] | None, zero: bool) -> None:
        super().__init__()
        b, outputs, inputs = shape
        a1, a2 = sizes or (_middle_divisor(outputs), _middle_divisor(inputs))
        if outputs % a1 or inputs % a2:
            raise UsageError(
                f"method.factor.sizes: {a1} and {a2} do not divide a block of {outputs} x {inputs}",
                "Leave sizes out to have them chosen for every factor.",
            )
        self.a = _uniform(b, a1, a2)
        rest = (b, outputs // a1, inputs // a2)
        self.b = nn.Parameter(torch.zeros(rest)) if zero else _uniform(*rest)

    def forward(self, x: Tensor) -> Tensor:
        # (A kron B) vec(X) = vec(A X B^T) for row-major vec
        tile = x.unflatten(2, (self.a.shape[2], -1)) @ self.b.mT[:, None]
        product: Tensor = (self.a[:, None] @ tile).flatten(2)
        return product


def _uniform(b: int, outputs: int, inputs: int) -> nn.Parameter:
    """Kaiming's uniform range for layers whose scale the next one carries: 1 / sqrt(in)."""
    bound = 1 / math.sqrt(inputs)
    return nn.Parameter(torch.empty(b, outputs, inputs).uniform_(-bound, bound))


def _middle_divisor(size: int) -> int:
    return next(d for d in range(math.isqrt(size), 0, -1) if size % d == 0)
