"""Nearest neighbors: exact distances, ties by index at every place, memory in bounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.spatial import cKDTree
from torch import Tensor

from geopeft_cli.errors import ShapeError
from geopeft_cli.geometry import neighbors as module
from geopeft_cli.geometry.neighbors import nearest_neighbors


def random_cloud(points: int, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, points, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("case", ["unit_1024_64", "unit_2048_128", "scaled0.1_1024_128", "start_at_origin_128_32"])
def test_golden(parity_root: Path, case: str) -> None:
    recorded = load_file(parity_root / "ops_fps_knn" / "io.safetensors")
    points, picks = recorded[f"{case}.input"], recorded[f"{case}.fps"].long()
    result = nearest_neighbors(points, torch.stack([one[pick] for one, pick in zip(points, picks, strict=True)]), 32)
    assert torch.equal(result.index, recorded[f"{case}.knn32"].long())
    if f"{case}.knn32_dist" in recorded:
        assert torch.equal(result.squared.sqrt(), recorded[f"{case}.knn32_dist"])


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("k", [1, 2, 7, 32, 10**6])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_agrees_with_sorting(
    cloud: Tensor, k: int, exclude_self: bool, naive_neighbors: Callable[..., tuple[np.ndarray, np.ndarray]]
) -> None:
    """Every k up to all points, so that ties fall inside, at and outside the boundary."""
    size = cloud.shape[1]
    k = min(k, size - exclude_self, 130)
    if k == 0:
        return
    query = cloud if exclude_self else cloud.flip(1)[:, :40]
    index, squared = nearest_neighbors(cloud, query, k, exclude_self)
    assert index.dtype == torch.int64
    for one in range(len(cloud)):
        expected = naive_neighbors(cloud[one].numpy(), query[one, :40].numpy(), k, exclude_self)
        np.testing.assert_array_equal(index[one, :40], expected[0])
        np.testing.assert_array_equal(squared[one, :40], expected[1])


@pytest.mark.usefixtures("loops")
def test_agrees_with_a_tree() -> None:
    reference, query = random_cloud(3000), random_cloud(200, seed=1)
    index = nearest_neighbors(reference, query, 20).index
    for one in range(2):
        _, expected = cKDTree(reference[one].numpy()).query(query[one].numpy(), 20)
        np.testing.assert_array_equal(index[one].sort(-1).values, np.sort(expected, -1))


@pytest.mark.parametrize("budget", [1, 100, 700, 2000, 10**9])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    reference, query = random_cloud(90, batch=5), random_cloud(11, batch=5, seed=1)
    expected = nearest_neighbors(reference, query, 4)
    own = nearest_neighbors(reference, reference, 4, exclude_self=True)
    monkeypatch.setattr(module, "_CHUNK", budget)
    with module.compiled.disabled():
        for chunk in module._chunks(query, reference.transpose(1, 2)):
            assert query[chunk][..., 0].numel() * 90 <= max(budget, 90)
        for ours, theirs in (
            (nearest_neighbors(reference, query, 4), expected),
            (nearest_neighbors(reference, reference, 4, exclude_self=True), own),
        ):
            assert torch.equal(ours.index, theirs.index)
            assert torch.equal(ours.squared, theirs.squared)


@pytest.mark.usefixtures("loops")
def test_self_is_excluded_by_index_not_by_distance() -> None:
    cloud = torch.tensor([[[0.0, 0, 0], [0, 0, 0], [1, 0, 0]]])
    assert nearest_neighbors(cloud, cloud, 2, exclude_self=True).index.tolist() == [[[1, 2], [0, 2], [0, 1]]]
    assert nearest_neighbors(cloud, cloud, 1).index.tolist() == [[[0], [0], [2]]]


@pytest.mark.usefixtures("loops")
def test_no_gradient_and_other_dtypes() -> None:
    cloud = random_cloud(30)
    expected = nearest_neighbors(cloud, cloud, 5)
    ours = nearest_neighbors(cloud.double().requires_grad_(), cloud.clone().requires_grad_(), 5)
    assert torch.equal(ours.index, expected.index)
    assert ours.squared.dtype == torch.float32
    assert not ours.squared.requires_grad
    assert nearest_neighbors(cloud, cloud[:, :0], 5).index.shape == (2, 0, 5)


@pytest.mark.parametrize(
    ("reference", "query", "k", "exclude_self"),
    [
        ((4, 3), (1, 4, 3), 1, False),
        ((1, 4, 3), (1, 4, 2), 1, False),
        ((1, 4, 3), (2, 4, 3), 1, False),
        ((1, 4, 3), (1, 2, 3), 5, False),
        ((1, 4, 3), (1, 2, 3), 0, False),
        ((1, 4, 3), (1, 4, 3), 4, True),
        ((1, 4, 3), (1, 3, 3), 1, True),
    ],
)
def test_errors(reference: tuple[int, ...], query: tuple[int, ...], k: int, exclude_self: bool) -> None:
    with pytest.raises(ShapeError):
        nearest_neighbors(torch.zeros(reference), torch.zeros(query), k, exclude_self)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_on_a_gpu() -> None:
    """Whole coordinates, so that no rounding can differ, and many ties."""
    cloud = torch.randint(-5, 5, (4, 2000, 3), generator=torch.Generator().manual_seed(3)).float()
    ours, expected = nearest_neighbors(cloud.cuda(), cloud.cuda(), 32), nearest_neighbors(cloud, cloud, 32)
    assert torch.equal(ours.index.cpu(), expected.index)
    assert torch.equal(ours.squared.cpu(), expected.squared)
