"""Awkward clouds, both ways of computing on them, and the operators as slow loops over numpy scalars.

The slow loops are written from the CUDA kernels and not from our code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from geopeft_cli.geometry import compiled


def _random(points: int, scale: float = 1.0) -> Tensor:
    return torch.randn(2, points, 3, generator=torch.Generator().manual_seed(points)) * scale


def _lattice(points: int) -> Tensor:
    return torch.randint(-2, 3, (2, points, 3), generator=torch.Generator().manual_seed(points)).float()


CLOUDS = {
    "one point": _random(1),
    "two points": _random(2),
    "five points": _random(5),
    "random 33": _random(33),
    "random 600": _random(600),
    "random 1100": _random(1100),
    "lattice 40": _lattice(40),
    "lattice 1100": _lattice(1100),
    "twice": _random(150).repeat(1, 2, 1),
    "line": torch.arange(64.0).view(1, -1, 1) * torch.ones(1, 1, 3),
    "zeros": torch.zeros(2, 70, 3),
    "zero padded": torch.cat([_random(40), torch.zeros(2, 30, 3)], 1),
    "near the origin": _random(90, 0.02),
    "first at the origin": torch.cat([torch.zeros(2, 1, 3), _random(20)], 1),
    "wide": _random(50, 2e5),
    "far away": _random(50) + 3e5,
    "tiny": _random(50, 1e-20) + torch.tensor([1.0, 0, 0]),
}


@pytest.fixture(params=CLOUDS.values(), ids=CLOUDS.keys())
def cloud(request: pytest.FixtureRequest) -> Tensor:
    result: Tensor = request.param
    return result.clone()


@pytest.fixture(params=["compiled", "tensors"])
def loops(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on the compiled loops and on the tensor code."""
    compiled_loops = request.param == "compiled"
    if compiled_loops:
        pytest.importorskip("numba")
    with nullcontext() if compiled_loops else compiled.disabled():
        assert compiled.usable(torch.zeros(1)) is compiled_loops
        yield request.param


def kernel_picks(cloud: np.ndarray, count: int, skip: bool = True) -> list[int]:
    """One thread block of the sampling kernel: strided scans, each keeping its first maximum, then a tree reduction."""
    size = len(cloud)
    threads = 1
    while threads * 2 <= min(size, 512):
        threads *= 2
    x, y, z = cloud.T
    eligible = ((x * x + y * y) + z * z).astype(np.float64) > 1e-3
    if not skip:
        eligible[:] = True
    nearest = np.full(size, 1e10, np.float32)
    picks = [0]
    while len(picks) < count:
        dx, dy, dz = (cloud - cloud[picks[-1]]).T
        nearest = np.minimum(nearest, (dx * dx + dy * dy) + dz * dz)
        slots = []
        for thread in range(threads):
            best, place = np.float32(-1), 0
            for k in range(thread, size, threads):
                if eligible[k] and nearest[k] > best:
                    best, place = nearest[k], k
            slots.append((best, place))
        while len(slots) > 1:
            half = len(slots) // 2
            slots = [high if high[0] > low[0] else low for low, high in zip(slots[:half], slots[half:], strict=True)]
        picks.append(slots[0][1])
    return picks


def sorted_neighbors(
    reference: np.ndarray, query: np.ndarray, k: int, exclude_self: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Index and squared distance, (M, k), by sorting (distance, index)."""
    index, squared = [], []
    for place, point in enumerate(query):
        dx, dy, dz = (point - reference).T
        distance = (dx * dx + dy * dy) + dz * dz
        others = [i for i in range(len(reference)) if not (exclude_self and i == place)]
        chosen = sorted(others, key=lambda i: (distance[i], i))[:k]
        index.append(chosen)
        squared.append(distance[chosen])
    return np.array(index), np.array(squared)


@pytest.fixture
def farthest_points() -> Callable[..., list[int]]:
    return kernel_picks


@pytest.fixture
def naive_neighbors() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return sorted_neighbors
