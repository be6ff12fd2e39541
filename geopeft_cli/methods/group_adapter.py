"""The local step of Point-PEFT's Geometry-aware Adapter: tokens of a neighborhood hear of each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.methods.group_maximum import group_maximum

Pooling = Literal["max", "maxmean"]
FLOOR = 1e-8  # of a squared distance, in the unit of the clouds squared


@dataclass(frozen=True)
class Grouping:
    """S groups of k tokens of each cloud, for tokens (B, L, C) as rows (B L, C).

    Attributes:
        members: int64 (B S, k), into B L.
        picks: int64 (B S,), the token at the center of each group.
        weights: (B, L, S), how much of each group every token gets; rows sum to 1, or are 0 for tokens
            without a center.
    """

    members: Tensor
    picks: Tensor
    weights: Tensor


def inverse_square_weights(tokens: Tensor, groups: Tensor, before: int = 0) -> Tensor:
    """1 / (d^2 + 1e-8) over all groups, normalized, carrying gradients: (B, T, 3), (B, S, 3) -> (B, before + T, S).

    The first ``before`` rows are zero.
    """
    squared = (tokens.unsqueeze(2) - groups.unsqueeze(1)).square().sum(-1)
    weight = 1 / (squared + FLOOR)
    return F.pad(weight / weight.sum(-1, keepdim=True), (0, 0, before, 0))


class GroupAttention(nn.Module):
    """Multi-head attention within groups, narrower than the tokens, and what it adds to them.

    Args:
        width: channels C of a token.
        inner: channels of query, key and value together over all heads; the scores are divided by its square root.
        heads: how many.
    """

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, inner**-0.5
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.proj = nn.Linear(inner, width)

    def forward(self, rows: Tensor, members: Tensor) -> Tensor:
        """What every member of a group mixes of the others, before ``proj``: (M, C), (Q, k) -> (Q, k, inner)."""
        q, k, v = self.qkv(rows)[members].unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return mixed.transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class LocalStep:
    """X <- X + share sum_j w_ij v_j with v = transform(pooled group) + center * token at its center.

    A group is pooled over g + attention(norm(g)) of its members g.

    Attributes:
        center: weight of the token at the center of a group.
        share: weight of what comes back from the groups.
        pooling: ``maxmean`` adds the mean to the maximum.
        drop_rate: how often the attention in a group is dropped in training.
    """

    center: float
    share: float
    pooling: Pooling
    drop_rate: float

    def __call__(
        self, x: Tensor, grouping: Grouping, norm: nn.Module, attention: GroupAttention, transform: nn.Module,
        gate: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Tokens (B, L, C) -> (B, L, C); ``gate`` multiplies what is added."""
        rows = x.reshape(-1, x.shape[-1])
        pooled = transform(self.pooled(rows, grouping.members, norm, attention))
        values = torch.add(pooled, rows.index_select(0, grouping.picks), alpha=self.center)
        values, weights = values.unflatten(0, (x.shape[0], -1)).to(x.dtype), grouping.weights.to(x.dtype)
        if gate is not None:
            return x + self.share * gate * torch.bmm(weights, values)
        return torch.baddbmm(x, weights, values, alpha=self.share)

    def pooled(self, rows: Tensor, members: Tensor, norm: nn.Module, attention: GroupAttention) -> Tensor:
        """(M, C) and (Q, k) -> (Q, C)."""
        mixed = attention(norm(rows), members)
        ones = mixed.new_ones(mixed.shape[0], 1, 1)
        if attention.training and self.drop_rate:
            ones = ones.bernoulli_(1 - self.drop_rate).div_(1 - self.drop_rate)
            mixed = mixed * ones
        mixed = torch.cat([mixed, ones.expand(-1, mixed.shape[1], -1)], dim=2)  # the bias is dropped as well
        weight = torch.cat([attention.proj.weight, attention.proj.bias.unsqueeze(1)], dim=1)
        found = group_maximum(rows, members, mixed, weight)
        if self.pooling == "maxmean":
            found = found + rows[members].mean(dim=1) + mixed.mean(dim=1) @ weight.t()
        return found
