"""Packed scenes of voxels for tests: random ones of given sizes, and the offsets between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def offsets_of(sizes: Sequence[int]) -> Tensor:
    return torch.tensor([0, *sizes]).cumsum(0)


def random_voxels(sizes: Sequence[int], extent: int | Sequence[int] = 8, seed: int = 0) -> Tensor:
    """Distinct voxels of scenes, of one extent or each its own, in random order, with the lowest and highest corner."""
    generator = torch.Generator().manual_seed(seed)
    extents = [extent] * len(sizes) if isinstance(extent, int) else extent
    scenes = []
    for size, edge in zip(sizes, extents, strict=True):
        inner = torch.randperm(edge**3 - 2, generator=generator)[: max(size - 2, 0)] + 1
        number = torch.cat([inner, torch.tensor([edge**3 - 1, 0])])[-size:]
        number = number[torch.randperm(size, generator=generator)]
        scenes.append(torch.stack([number // edge**2, number // edge % edge, number % edge], dim=1))
    return torch.cat(scenes)
