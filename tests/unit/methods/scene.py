"""Tokens with centers, a reference K on them, and Monarch layers whose factors have moved."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geopeft_cli.contracts import Geometry, Level
from geopeft_cli.geometry.smoothing import smoothing_matrix
from geopeft_cli.methods.monarch import MonarchFactors
from geopeft_cli.methods.monarch_update import MonarchUpdate
from geopeft_cli.methods.rectify import Rectify

BYPASS, CENTERS = 2, 16
TOKENS = BYPASS + CENTERS
NEIGHBORS, EPS, LAM = 4, 0.05, 0.5
WIDE, NARROW = (12, 20), (20, 12)  # (in, out): K acts on the input of the one and on the output of the other


def geometry(batch: int = 2, seed: int = 0) -> Geometry:
    """Two tokens without a center, then one for each of 16 centers."""
    centers = torch.randn(batch, CENTERS, 3, generator=torch.Generator().manual_seed(seed))
    return Geometry([Level(centers, torch.arange(-BYPASS, CENTERS).clamp(min=-1))])


def tokens(channels: int, batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(batch, TOKENS, channels, generator=torch.Generator().manual_seed(seed))


def kernel(where: Geometry, lam: float = LAM) -> Tensor:
    """K = I + lam S in float64, (B, T, T), identity on the tokens without a center."""
    smoothing = smoothing_matrix(where.levels[0].centers, NEIGHBORS, EPS).double()
    result = torch.eye(TOKENS, dtype=torch.float64).repeat(len(smoothing), 1, 1)
    result[:, BYPASS:, BYPASS:] += lam * smoothing
    return result


def monarch_layer(
    sizes: tuple[int, int], *, lam: float = LAM, sides: int = 2, bias: bool = False, base_bias: bool = True,
    fresh: bool = False, dropout: float = 0.0, seed: int = 0,
) -> MonarchUpdate:  # fmt: skip
    torch.manual_seed(seed)
    factors = MonarchFactors(*sizes, blocks=4, bias=bias)
    if not fresh:
        nn.init.normal_(factors.blkdiag2)
        if factors.bias is not None:
            nn.init.normal_(factors.bias)
    base = nn.Linear(*sizes, bias=base_bias)
    return MonarchUpdate(base, factors, Rectify(NEIGHBORS, EPS, lam, sides), 0, "some.layer", dropout)
