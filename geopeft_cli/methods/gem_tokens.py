"""GEM among the tokens of a cloud: what stands in for voxels and for packed scenes. All of it is ours.

The centers of tokens lie in voxels of a grid that begins at the lowest coordinates of their cloud. Tokens in one voxel
are averaged before the convolution and all get what comes out of it. No shape depends on how many share one, so that
the computation can be recorded.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.contracts import Level, TransformerBlock, Wrapper, current_level
from geopeft_cli.errors import GeometryError
from geopeft_cli.geometry.grouping import take


class TokenNeighbors(NamedTuple):
    """The occupied voxels around the tokens of clouds, offsets numbered as the kernel's positions are.

    Attributes:
        share: (B, G, G), from tokens to the mean over those that share a voxel with a token.
        nearest: int64 (B, G, K), at every offset the lowest token of the voxel there, any where there is none.
        occupied: bool (B, G, K), whether there is one.
    """

    share: Tensor
    nearest: Tensor
    occupied: Tensor


def token_neighbors(centers: Tensor, kernel: int, voxel: float | None) -> TokenNeighbors:
    """Which voxels around the centers (B, G, 3) of tokens are occupied, in every cloud by itself.

    Args:
        centers: of the tokens.
        kernel: voxels along an edge of a kernel, odd; K is its third power.
        voxel: edge of a voxel, in the unit of the coordinates; by default 3 / sqrt(G), so that about as many voxels are
            neighbors whatever G is.
    """
    count, reach = centers.shape[1], kernel // 2
    size = 3 / math.sqrt(count) if voxel is None else voxel
    wide = centers.double()
    places = ((wide - wide.amin(dim=1, keepdim=True)) / size).floor().long()
    steps = places.unsqueeze(1) - places.unsqueeze(2) + reach
    is_near = ((steps >= 0) & (steps < kernel)).all(dim=-1)
    offset = (steps[..., 0] * kernel + steps[..., 1]) * kernel + steps[..., 2]
    offset = torch.where(is_near, offset, kernel**3)
    tokens = torch.arange(count, device=centers.device).expand_as(offset)
    nearest = offset.new_full((*offset.shape[:2], kernel**3 + 1), count).scatter_reduce(2, offset, tokens, "amin")
    nearest = nearest[..., : kernel**3]
    together = (offset == kernel**3 // 2).to(centers.dtype)
    return TokenNeighbors(together / together.sum(dim=-1, keepdim=True), nearest.clamp(max=count - 1), nearest < count)


class TokenConvolution(nn.Module):
    """A submanifold convolution over the voxels of tokens with centers: (B, G, C) -> (B, G, C).

    Args:
        width: C.
        kernel: voxels along an edge, odd.
        level: index of the stage.
        voxel: edge of a voxel, see :func:`token_neighbors`.
    """

    def __init__(self, width: int, kernel: int, level: int, voxel: float | None) -> None:
        super().__init__()
        self.kernel, self.level, self.voxel = kernel, level, voxel
        self.weight = nn.Parameter(torch.empty(width, kernel, kernel, kernel, width))

    def forward(self, x: Tensor) -> Tensor:
        level = current_level(self.level, "a spatial adapter")
        near = level.memo(
            ("token neighbors", self.kernel, self.voxel),
            lambda: token_neighbors(level.centers, self.kernel, self.voxel),
        )
        count, width = near.nearest.shape[2], x.shape[2]
        taps = self.weight.flatten(1, 3).transpose(0, 1).flatten(0, 1)  # (K out, in)
        sent = F.linear(near.share.to(x.dtype) @ x, taps).unflatten(2, (count, width)).flatten(1, 2)
        source = near.nearest * count + torch.arange(count, device=x.device)
        received = take(sent, source.flatten(1)).unflatten(1, source.shape[1:])
        total: Tensor = (received * near.occupied.unsqueeze(-1)).sum(dim=2)
        return total


class GEMTokenBlock(Wrapper):
    """A transformer block with the branches that ``gem`` holds, (B, T, C) -> (B, T, C).

    The spatial one reads what enters the block and is added to it, for tokens with a center; the context one stands
    beside the attention, behind the norm.

    Args:
        base: the block.
        gem: ``spatial``, ``context`` or both.
        level: index of the stage.
    """

    base: TransformerBlock
    unfoldable: ClassVar[str] = "its branches are a convolution and an attention"

    def __init__(self, base: TransformerBlock, gem: nn.ModuleDict, level: int) -> None:
        super().__init__(base)
        self.gem, self.level = gem, level

    def forward(self, x: Tensor) -> Tensor:
        first = first_with_center(x, current_level(self.level, "GEM"))
        if "spatial" in self.gem:
            centered = x[:, first:]
            x = torch.cat([x[:, :first], centered + self.gem["spatial"](centered)], dim=1)
        stream, branch = self.base.attended(x)
        y = stream + self.base.dropped(branch)
        if "context" in self.gem:
            y = y + self.gem["context"](self.base.normalized(x))
        stream, branch = self.base.transformed(y)
        return stream + self.base.dropped(branch)


def first_with_center(x: Tensor, level: Level) -> int:
    """The place in a sequence (B, T, C) at which its tokens with centers begin, all at its end.

    Raises:
        GeometryError: there are fewer tokens than centers.
    """
    first = x.shape[1] - level.centers.shape[1]
    if first < 0:
        raise GeometryError(f"GEM got {x.shape[1]} tokens, the geometry describes {level.described}")
    return first
