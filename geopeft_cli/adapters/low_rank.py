"""The matrix of a given rank that is nearest to another (Eckart and Young, 1936), as LoRA factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """Factors of B A, and how far it is from the matrix that it stands for.

    Attributes:
        down: A, float32 (rank, in).
        up: B, float32 (out, rank).
        error: |matrix - B A| / |matrix| in the Frobenius norm, 0 for a matrix of zeros.
    """

    down: Tensor
    up: Tensor
    error: float


@torch.no_grad()
def nearest_of_rank(matrix: Tensor, rank: int) -> LowRank:
    """Truncated singular value decomposition in float64, the roots of the singular values on both sides.

    Args:
        matrix: (out, in).
        rank: at most min(out, in).
    """
    exact = matrix.double()
    u, values, vh = torch.linalg.svd(exact, full_matrices=False)
    root = values[:rank].sqrt()
    up, down = (u[:, :rank] * root).float(), (root[:, None] * vh[:rank]).float()
    norm = float(exact.norm())
    error = float((exact - up.double() @ down.double()).norm()) / norm if norm > 0 else 0.0
    return LowRank(down, up, error)
