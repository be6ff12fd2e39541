"""Carrying features from a few centers to more points (PointNet++; Point-BERT), under the official names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geopeft_cli.geometry.grouping import take
from geopeft_cli.geometry.interpolation import interpolate, inverse_distance_weights
from geopeft_cli.geometry.neighbors import nearest_neighbors

NEIGHBORS = 4


class FeaturePropagation(nn.Module):
    """What targets know of themselves, joined to what the three nearest sources know, through two layers.

    The first layer is linear and the weights of the sources sum to 1, so it is applied to the few sources before they
    are carried to the many targets.

    Args:
        inputs: channels of both together.
        hidden, outputs: channels of the layers.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.mlp_convs = nn.ModuleList([nn.Conv1d(inputs, hidden, 1), nn.Conv1d(hidden, outputs, 1)])
        self.mlp_bns = nn.ModuleList([nn.BatchNorm1d(hidden), nn.BatchNorm1d(outputs)])

    def forward(self, targets: Tensor, sources: Tensor, features: Tensor, own: Tensor) -> Tensor:
        """(B, outputs, N).

        Args:
            targets: (B, N, 3).
            sources: (B, S, 3).
            features: (B, S, C), of the sources.
            own: (B, N, c), of the targets.
        """
        first, second = self.mlp_convs
        assert isinstance(first, nn.Conv1d)
        of_own, of_sources = first.weight.squeeze(-1).split([own.shape[-1], features.shape[-1]], dim=1)
        carried = interpolate(F.linear(features, of_sources), *inverse_distance_weights(targets, sources))
        x = (carried + F.linear(own, of_own, first.bias)).transpose(1, 2)
        x = self.mlp_bns[0](x).relu()
        return self.mlp_bns[1](second(x)).relu()  # type: ignore[no-any-return]


class GraphPropagation(nn.Module):
    """Two edge convolutions with four neighbors: from sources to targets, then among the targets.

    Args:
        width: channels of sources and targets, a multiple of 4; 384 as published, with 512 between the two.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = width // 3 * 4 // 4 * 4
        self.layer1 = _edge_layer(2 * width, hidden)
        self.layer2 = _edge_layer(2 * hidden, width)

    def forward(self, sources: Tensor, features: Tensor, targets: Tensor, own: Tensor) -> Tensor:
        """(B, N, C).

        Args:
            sources: (B, S, 3).
            features: (B, S, C), of the sources.
            targets: (B, N, 3).
            own: (B, N, C), of the targets.
        """
        x = _convolved(self.layer1, sources, features, targets, own)
        return _convolved(self.layer2, targets, x, targets, x)


def _edge_layer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(4, outputs), nn.LeakyReLU(negative_slope=0.2)
    )


def _convolved(layer: nn.Module, sources: Tensor, features: Tensor, targets: Tensor, own: Tensor) -> Tensor:
    """The maximum over the neighbors of a layer on [neighbor - own, own]: (B, N, outputs)."""
    index = nearest_neighbors(sources, targets, min(NEIGHBORS, sources.shape[1])).index
    around = take(features, index.flatten(1)).unflatten(1, index.shape[1:])
    center = own.unsqueeze(2).expand_as(around)
    edges = torch.cat([around - center, center], dim=-1).permute(0, 3, 1, 2)
    return layer(edges).amax(dim=3).transpose(1, 2)  # type: ignore[no-any-return]


def one_hot(categories: Tensor | None, count: int, like: Tensor) -> Tensor:
    """(B, count) in the dtype of ``like`` (B, ...); zeros where the categories are not known."""
    if categories is None:
        return like.new_zeros(like.shape[0], count)
    return (categories.unsqueeze(1) == torch.arange(count, device=categories.device)).to(like.dtype)
