"""Chamfer distances between small sets of points."""

from __future__ import annotations

import torch
from torch import Tensor

from geopeft_cli.geometry.precision import full_precision

_LEAST = 1e-12  # below it the slope of the square root has no bound


def chamfer_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Squared plus plain Chamfer distance, as PointGPT reconstructs patches (Chen et al., 2023, arXiv 2305.11487).

    With d1 the squared distance from a predicted point to its nearest target and d2 the reverse, over all sets:
    (mean d1 + mean d2) + (mean sqrt d1 + mean sqrt d2) / 2. In float32, also under autocast.

    Args:
        predicted: (M, p, 3), any unit.
        target: (M, q, 3), the same unit.

    Returns:
        A scalar.
    """
    with full_precision(predicted.device):
        predicted, target = predicted.float(), target.float()
        squared = torch.zeros(())
        for own, other in zip(predicted.unbind(-1), target.unbind(-1), strict=True):
            squared = squared.to(own.device) + (own.unsqueeze(2) - other.unsqueeze(1)).square()
        there, back = squared.amin(2), squared.amin(1)
        root = there.clamp(min=_LEAST).sqrt().mean() + back.clamp(min=_LEAST).sqrt().mean()
        return there.mean() + back.mean() + root / 2
