"""Neighbors by a hashed grid: those of all pairs to the last index, ties and outliers included, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from geopeft_cli.errors import ShapeError
from geopeft_cli.geometry import grid
from geopeft_cli.geometry.grid import grid_neighbors
from geopeft_cli.geometry.neighbors import nearest_neighbors

GENERATOR = torch.Generator().manual_seed(0)


def uniform(points: int) -> Tensor:
    return torch.rand(1, points, 3, generator=GENERATOR)


LARGE = {
    "uniform": uniform(3000),
    "surface": torch.nn.functional.normalize(uniform(3000) - 0.5, dim=-1),
    "full lattice": torch.cartesian_prod(*(torch.arange(14.0),) * 3)[torch.randperm(14**3, generator=GENERATOR)][None],
    "crowded lattice": (4 * uniform(3000)).floor(),
    "halves of halves": (uniform(3000) * 32).round() / 32,
    "half at one place": torch.cat([uniform(1500), torch.zeros(1, 1500, 3)], 1),
    "outliers": torch.cat([uniform(2900), 1e6 * uniform(100)], 1),
    "two places": torch.cat([uniform(1500), 1e7 + uniform(1500)], 1),
    "density falls": (uniform(3000) - 0.5) * 100 ** (4 * uniform(3000)[..., :1] - 2),
    "plane far away": uniform(3000) * torch.tensor([1.0, 1, 0]) + 3e4,
    "squares underflow": uniform(3000) * 1e-20 + torch.tensor([1.0, 0, 0]),
    "signed zeros": (uniform(3000) * 5 - 2.5).round() * 0.5,
}


def assert_same(reference: Tensor, query: Tensor, k: int, exclude_self: bool) -> None:
    ours = grid_neighbors(reference, query, k, exclude_self)
    expected = nearest_neighbors(reference, query, k, exclude_self)
    assert torch.equal(ours.index, expected.index)
    assert torch.equal(ours.squared, expected.squared)


@pytest.mark.parametrize("k", [1, 4, 17])
@pytest.mark.parametrize("cloud", LARGE.values(), ids=LARGE.keys())
def test_agrees_with_all_pairs(cloud: Tensor, k: int) -> None:
    assert_same(cloud, cloud, k, exclude_self=True)


@pytest.mark.parametrize("cloud", LARGE.values(), ids=LARGE.keys())
def test_agrees_at_queries_inside_and_outside(cloud: Tensor) -> None:
    query = torch.cat([cloud[:, ::7], 3 * cloud[:, :200] - 1, -1e3 * uniform(100)], 1)
    assert_same(cloud, query, 5, exclude_self=False)


@pytest.mark.parametrize("exclude_self", [False, True])
def test_agrees_on_small_awkward_clouds(
    cloud: Tensor, exclude_self: bool, naive_neighbors: Callable[..., tuple[np.ndarray, np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(grid, "_FEW", 0)
    k = min(6, cloud.shape[1] - exclude_self)
    if k == 0:
        return
    index, squared = grid_neighbors(cloud, cloud, k, exclude_self)
    for one in range(len(cloud)):
        expected = naive_neighbors(cloud[one].numpy(), cloud[one, :40].numpy(), k, exclude_self)
        np.testing.assert_array_equal(index[one, :40], expected[0])
        np.testing.assert_array_equal(squared[one, :40], expected[1])


@pytest.mark.parametrize("candidates", [1, 300, 10**4])
def test_chunks_change_nothing_and_bound_the_tables(monkeypatch: pytest.MonkeyPatch, candidates: int) -> None:
    cloud = LARGE["density falls"][:, :600]
    expected = nearest_neighbors(cloud, cloud, 4, exclude_self=True)
    monkeypatch.setattr(grid, "_CANDIDATES", candidates)
    nearest, tables = grid._Search._nearest, []

    def spy(self: grid._Search, rows: Tensor, first: Tensor, last: Tensor, points: grid._Points) -> Tensor:
        counts = (last - first).sum(1)
        tables.append((len(rows), int(counts.max())))
        return nearest(self, rows, first, last, points)

    monkeypatch.setattr(grid._Search, "_nearest", spy)
    assert torch.equal(grid_neighbors(cloud, cloud, 4, exclude_self=True).index, expected.index)
    assert tables
    assert all(rows == 1 or rows * widest <= candidates for rows, widest in tables)


def test_most_queries_never_meet_most_points(monkeypatch: pytest.MonkeyPatch) -> None:
    met = 0
    keys = grid._keys

    def spy(query: Tensor, reference: Tensor, index: Tensor) -> Tensor:
        nonlocal met
        met += index.numel()
        return keys(query, reference, index)

    monkeypatch.setattr(grid, "_keys", spy)
    for name in ("uniform", "surface", "full lattice", "outliers"):
        met = 0
        grid_neighbors(LARGE[name], LARGE[name], 4, exclude_self=True)
        assert 0 < met < 300 * LARGE[name].shape[1], name


def test_a_scan(real_data: Path) -> None:
    scene = torch.from_numpy(np.load(real_data / "mosd_8192.npz")["points"][:8192]).float()[None]
    assert_same(scene, scene, 4, exclude_self=True)


def test_no_gradient_and_other_dtypes() -> None:
    cloud = LARGE["uniform"]
    result = grid_neighbors(cloud.double().requires_grad_(), cloud, 4)
    assert torch.equal(result.index, nearest_neighbors(cloud, cloud, 4).index)
    assert result.squared.dtype == torch.float32
    assert not result.squared.requires_grad


@pytest.mark.parametrize(
    ("reference", "query", "k", "exclude_self"),
    [
        ((4, 3), (1, 4, 3), 1, False),
        ((1, 4, 3), (2, 4, 3), 1, False),
        ((1, 4, 3), (1, 2, 3), 5, False),
        ((1, 4, 3), (1, 4, 3), 4, True),
        ((1, 4, 3), (1, 3, 3), 1, True),
    ],
)
def test_errors(reference: tuple[int, ...], query: tuple[int, ...], k: int, exclude_self: bool) -> None:
    with pytest.raises(ShapeError):
        grid_neighbors(torch.zeros(reference), torch.zeros(query), k, exclude_self)
