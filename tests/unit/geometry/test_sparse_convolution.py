"""Submanifold convolution against a dense one, its hand-written backward, duplicates, and scenes kept apart."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from geometry.packed import offsets_of, random_voxels
from geopeft_cli.contracts import Geometry, PackedLevel, VoxelLevel, published
from geopeft_cli.errors import GeometryError, ShapeError
from geopeft_cli.geometry.sparse_convolution import (
    SubmanifoldConvolution,
    level_neighbors,
    neighbor_map,
    submanifold_convolution,
)

SIZES, EXTENT = [30, 1, 70], 5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense(x: Tensor, voxels: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The definition: a dense convolution of a scene on an empty grid, read at its voxels."""
    grid = x.new_zeros(1, x.shape[1], EXTENT, EXTENT, EXTENT)
    grid[0, :, voxels[:, 0], voxels[:, 1], voxels[:, 2]] = x.T
    y = F.conv3d(grid, weight.permute(0, 4, 1, 2, 3), bias, padding=weight.shape[1] // 2)
    return y[0, :, voxels[:, 0], voxels[:, 1], voxels[:, 2]].T


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_equals_a_dense_convolution_of_every_scene(kernel: int) -> None:
    voxels, offsets = random_voxels(SIZES, EXTENT), offsets_of(SIZES)
    x, weight, bias = drawn(sum(SIZES), 2), drawn(3, kernel, kernel, kernel, 2, seed=1), drawn(3, seed=2)
    y = submanifold_convolution(x, weight, bias, neighbor_map(voxels, offsets, kernel))
    scenes = zip(x.split(SIZES), voxels.split(SIZES), strict=True)
    torch.testing.assert_close(y, torch.cat([dense(*scene, weight, bias) for scene in scenes]))


def test_a_full_grid() -> None:
    voxels = torch.cartesian_prod(*[torch.arange(4)] * 3)
    x, weight = drawn(64, 3), drawn(2, 3, 3, 3, 3, seed=1)
    neighbors = neighbor_map(voxels, offsets_of([64]), 3)
    assert 64 + 2 * len(neighbors.source) == (4 + 3 + 3) ** 3  # 10 pairs a line, themselves included
    torch.testing.assert_close(submanifold_convolution(x, weight, None, neighbors), dense(x, voxels, weight, None))


def test_gradients() -> None:
    voxels, offsets = random_voxels([12, 6], 3), offsets_of([12, 6])
    voxels[5] = voxels[1]  # rows that share a voxel
    neighbors = neighbor_map(voxels, offsets, 3)
    x, weight, bias = drawn(18, 2), drawn(2, 3, 3, 3, 2, seed=1), drawn(2, seed=2)
    for tensor in (x, weight, bias):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: submanifold_convolution(*inputs, neighbors), (x, weight, bias))


@pytest.mark.parametrize("trained", list(itertools.product([True, False], repeat=2)))
def test_only_what_trains_gets_a_gradient(trained: tuple[bool, bool]) -> None:
    voxels, offsets = random_voxels(SIZES, EXTENT), offsets_of(SIZES)
    x, weight = drawn(sum(SIZES), 2).requires_grad_(trained[0]), drawn(3, 3, 3, 3, 2).requires_grad_(trained[1])
    y = submanifold_convolution(x, weight, None, neighbor_map(voxels, offsets, 3))
    assert y.requires_grad == any(trained)
    if any(trained):
        y.square().sum().backward()
    assert (x.grad is not None, weight.grad is not None) == trained


def test_large_inputs_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    voxels, offsets = random_voxels(SIZES, EXTENT), offsets_of(SIZES)
    neighbors = neighbor_map(voxels, offsets, 3)
    x, weight = drawn(sum(SIZES), 2).requires_grad_(), drawn(3, 3, 3, 3, 2, seed=1).requires_grad_()
    results = []
    for rows in (4096, 3):
        monkeypatch.setattr("geopeft_cli.geometry.sparse_convolution._ROWS", rows)
        y = submanifold_convolution(x, weight, None, neighbors)
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, weight))))
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(whole, parts)


def test_rows_that_share_a_voxel() -> None:
    """Each is its own center; neighbors see the lowest."""
    voxels = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1]])
    x = torch.tensor([[1.0], [10.0], [100.0], [1000.0]])
    weight = torch.zeros(1, 3, 3, 3, 1)
    weight[0, 1, 1, :, 0] = torch.tensor([2.0, 1.0, 3.0])  # of z - 1, z, z + 1
    y = submanifold_convolution(x, weight, None, neighbor_map(voxels, offsets_of([4]), 3))
    assert y.flatten().tolist() == [1 + 30, 10 + 2, 100 + 30, 1000 + 2]


def test_the_map_is_linear_in_the_pairs_and_scenes_stay_apart() -> None:
    line = torch.stack([torch.arange(1000), torch.zeros(1000).long(), torch.zeros(1000).long()], dim=1)
    assert len(neighbor_map(line, offsets_of([1000]), 3).source) == 999
    assert len(neighbor_map(line, offsets_of([500, 500]), 3).source) == 998
    assert len(neighbor_map(line[:1], offsets_of([1]), 5).source) == 0


def test_autocast_sums_in_float32() -> None:
    voxels = torch.cartesian_prod(*[torch.arange(4)] * 3)
    x, weight = drawn(64, 8).float().requires_grad_(), drawn(4, 3, 3, 3, 8, seed=1).float().requires_grad_()
    neighbors = neighbor_map(voxels, offsets_of([64]), 3)
    exact = submanifold_convolution(x, weight, None, neighbors)
    with torch.autocast("cpu", torch.bfloat16):
        y = submanifold_convolution(x, weight, None, neighbors)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), exact, rtol=0.02, atol=0.2)
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_layers_of_a_pass_share_their_neighbors() -> None:
    voxels, offsets = random_voxels(SIZES, EXTENT), offsets_of(SIZES)
    level = VoxelLevel(voxels.float(), offsets, voxels)
    layer = SubmanifoldConvolution(2, 3, kernel=3, level=0)
    with published(Geometry([level])):
        y = layer(drawn(sum(SIZES), 2).float())
    assert level_neighbors(level, 3) is level_neighbors(level, 3)
    assert level_neighbors(level, 5) is not level_neighbors(level, 3)
    expected = submanifold_convolution(
        drawn(sum(SIZES), 2).float(), layer.weight, layer.bias, level_neighbors(level, 3)
    )
    assert torch.equal(y, expected)


def test_what_does_not_fit_is_refused() -> None:
    voxels, offsets = random_voxels(SIZES, EXTENT), offsets_of(SIZES)
    with pytest.raises(ShapeError, match="odd number"):
        neighbor_map(voxels, offsets, 2)
    with pytest.raises(ShapeError, match=r"expected \(out, 3, 3, 3, 2\)"):
        submanifold_convolution(drawn(101, 2), drawn(3, 3, 3, 2, 3), None, neighbor_map(voxels, offsets, 3))
    layer = SubmanifoldConvolution(2, 2, kernel=3, level=0)
    wrong_level, wrong_size = PackedLevel(voxels.float(), offsets), VoxelLevel(voxels[:5].float(), offsets, voxels[:5])
    for level in (wrong_level, wrong_size):
        with published(Geometry([level])), pytest.raises(GeometryError, match="the geometry describes"):
            layer(drawn(sum(SIZES), 2).float())
