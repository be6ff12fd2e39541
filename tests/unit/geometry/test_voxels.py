"""Voxel keys, hashes and pooling against plain Python, and scenes that are no scenes."""

from __future__ import annotations

import pytest
import torch

from geometry.packed import offsets_of, random_voxels
from geopeft_cli.errors import DataError, ShapeError
from geopeft_cli.geometry.voxels import fnv_hash, grid_pool, scene_index, voxel_keys, voxelized

SIZES = [40, 1, 60]


def test_keys_sort_as_scene_x_y_z_and_steps_lead_to_neighbors() -> None:
    voxels, offsets = random_voxels(SIZES, extent=5), offsets_of(SIZES)
    keys, steps = voxel_keys(voxels, offsets, margin=1)
    rows = [(scene, *voxel) for scene, voxel in zip(scene_index(offsets).tolist(), voxels.tolist(), strict=True)]
    assert keys.argsort().tolist() == sorted(range(len(rows)), key=rows.__getitem__)
    known = dict(zip(keys.tolist(), rows, strict=True))
    for key, (scene, *voxel) in known.items():
        for axis, step in enumerate(steps):
            neighbor = [value + int(axis == place) for place, value in enumerate(voxel)]
            assert known.get(key + step) == ((scene, *neighbor) if (scene, *neighbor) in rows else None)


def test_keys_do_not_depend_on_where_a_scene_lies() -> None:
    voxels, offsets = random_voxels(SIZES), offsets_of(SIZES)
    moved = voxels + torch.tensor([10**7, -(10**9), 3])
    assert torch.equal(voxel_keys(moved, offsets).keys, voxel_keys(voxels, offsets).keys)


def test_pooling_joins_and_sorts() -> None:
    voxels, offsets = random_voxels(SIZES, extent=6), offsets_of(SIZES)
    pooled = grid_pool(voxels, offsets)
    rows = [
        (s, *(v // 2 for v in voxel)) for s, voxel in zip(scene_index(offsets).tolist(), voxels.tolist(), strict=True)
    ]
    expected = sorted(set(rows))
    assert pooled.voxels.tolist() == [list(row[1:]) for row in expected]
    assert pooled.clusters.inverse.tolist() == [expected.index(row) for row in rows]
    assert pooled.clusters.counts.tolist() == [rows.count(row) for row in expected]
    assert pooled.offsets.tolist() == offsets_of([sum(row[0] == s for row in expected) for s in range(3)]).tolist()


def test_the_hash_is_that_of_exact_integers() -> None:
    voxels = torch.tensor([[0, 0, 0], [3, 70, 1_000_000]])
    for voxel, found in zip(voxels.tolist(), fnv_hash(voxels).tolist(), strict=True):
        expected = 14695981039346656037
        for value in voxel:
            expected = expected * 1099511628211 % 2**64 ^ value
        assert found % 2**64 == expected


def test_voxels_far_from_the_origin() -> None:
    near = torch.rand(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    far = near + torch.tensor([500_000.0, 4_000_000.0, 0.0])
    offsets = offsets_of([20, 30])
    assert torch.equal(voxelized(far, offsets, 2**-6), voxelized(near, offsets, 2**-6))
    assert voxelized(near, offsets, 2**-6)[20:].amin(0).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("voxels", "offsets", "reason"),
    [
        (torch.zeros(4, 3), [0, 4], "whole numbers"),
        (torch.zeros(4, 2, dtype=torch.int64), [0, 4], "whole numbers"),
        (torch.zeros(4, 3, dtype=torch.int64), [0, 3], "do not lead from 0 to the 4 voxels"),
        (torch.zeros(4, 3, dtype=torch.int64), [4], "do not lead from 0"),
        (torch.zeros(4, 3, dtype=torch.int64), [0, 5, 4], "do not rise"),
    ],
)
def test_what_is_no_scene_is_refused(voxels: torch.Tensor, offsets: list[int], reason: str) -> None:
    with pytest.raises(ShapeError, match=reason):
        voxel_keys(voxels, torch.tensor(offsets))


def test_scenes_that_cannot_be_numbered_are_refused() -> None:
    with pytest.raises(DataError, match="too large to number"):
        voxel_keys(torch.tensor([[0, 0, 0], [2**22, 2**22, 2**22]]), offsets_of([2]))
