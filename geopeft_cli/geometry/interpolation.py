"""Carrying features from a few points to many, by inverse squared distance (PointNet++, Qi et al., 2017)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from geopeft_cli.errors import ShapeError
from geopeft_cli.geometry.compiled import tracing
from geopeft_cli.geometry.neighbors import nearest_neighbors


def inverse_distance_weights(targets: Tensor, sources: Tensor, k: int = 3, eps: float = 1e-8) -> tuple[Tensor, Tensor]:
    """Find the ``k`` sources nearest to every target and their weights, 1 / (d^2 + eps) normalized to sum to 1.

    The published code takes d^2 from |a|^2 + |b|^2 - 2ab, which can be negative and then gives huge weights; here
    it is the sum of squared differences. Computed in float32; carries no gradient.

    Args:
        targets: (B, N, 3), any unit.
        sources: (B, S, 3), the same unit. With S < k all S are used.
        k: how many sources a target draws from.
        eps: added to the squared distance, in the unit squared; more than 0.

    Returns:
        Indices into S, int64, and weights, float32, each (B, N, min(k, S)), nearest first.

    Raises:
        ShapeError: an argument is not (B, N, 3), batches differ, or there is no source.
    """
    index, squared = nearest_neighbors(sources, targets, min(k, sources.shape[1]))
    weight = 1 / (1 + squared / eps)  # up to scale, 1 / (squared + eps): graph optimizers take a bare 1e-8 for zero
    return index, weight / weight.sum(-1, keepdim=True)


def interpolate(features: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Sum the ``features`` at ``index`` times ``weight``, in float32 or wider; gradients flow to ``features``.

    Args:
        features: (B, S, C), any unit.
        index: int64 (B, N, k), into S.
        weight: (B, N, k).

    Returns:
        (B, N, C), in the unit of ``features``.

    Raises:
        ShapeError: batches differ, or ``index`` and ``weight`` differ in shape.
    """
    if features.ndim != 3 or index.ndim != 3 or features.shape[0] != index.shape[0] or index.shape != weight.shape:
        raise ShapeError(
            f"features {tuple(features.shape)}, index {tuple(index.shape)}, weight {tuple(weight.shape)}: "
            "expected (B, S, C), (B, N, k), (B, N, k)"
        )
    batch, size, channels = features.shape
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    weight = weight.to(features.dtype)
    row = index + (torch.arange(batch, device=index.device) * size).view(-1, 1, 1)
    if tracing():  # embedding_bag, many times faster, does not survive the export to ONNX
        return (features.flatten(0, 1)[row] * weight.unsqueeze(-1)).sum(2)
    sums: Tensor = functional.embedding_bag(
        row.flatten(0, 1), features.flatten(0, 1), per_sample_weights=weight.flatten(0, 1), mode="sum"
    )
    return sums.view(batch, index.shape[1], channels)
