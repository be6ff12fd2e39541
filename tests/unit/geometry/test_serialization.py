"""Space-filling curves by their defining properties, and what cannot be numbered."""

from __future__ import annotations

import pytest
import torch

from geometry.packed import offsets_of, random_voxels
from geopeft_cli.errors import DataError, UsageError
from geopeft_cli.geometry.ordering import hilbert_code
from geopeft_cli.geometry.serialization import CURVES, curve_codes, curve_depths, with_scene

GRID = torch.cartesian_prod(*[torch.arange(8)] * 3)


@pytest.mark.parametrize("curve", CURVES)
def test_a_curve_visits_every_voxel_once(curve: str) -> None:
    assert curve_codes(GRID, 3, curve).sort().values.tolist() == list(range(512))


@pytest.mark.parametrize("curve", ["hilbert", "hilbert-trans"])
def test_hilbert_curves_go_from_neighbor_to_neighbor(curve: str) -> None:
    walk = GRID[curve_codes(GRID, 3, curve).argsort()]
    assert (walk.diff(dim=0).abs().sum(dim=1) == 1).all()


def test_the_z_curve_interleaves_bits_with_x_first() -> None:
    voxels = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 0, 1]])
    assert curve_codes(voxels, 2, "z").tolist() == [4, 2, 1, 33]
    assert curve_codes(voxels, 2, "z-trans").tolist() == [2, 4, 1, 17]


@pytest.mark.parametrize("curve", CURVES)
def test_a_coarser_grid_has_the_leading_bits(curve: str) -> None:
    assert torch.equal(curve_codes(GRID, 3, curve) >> 3, curve_codes(GRID // 2, 2, curve))


@pytest.mark.parametrize("curve", CURVES)
def test_every_voxel_may_have_its_own_depth(curve: str) -> None:
    voxels = random_voxels([20, 30], [4, 30])
    depths = curve_depths(voxels, offsets_of([20, 30]))
    assert depths.tolist() == [3, 5]
    together = curve_codes(voxels, depths.repeat_interleave(torch.tensor([20, 30])), curve)
    alone = [curve_codes(part, int(depth), curve) for part, depth in zip(voxels.split([20, 30]), depths, strict=True)]
    assert torch.equal(together, torch.cat(alone))


def test_the_hilbert_curve_is_that_of_object_networks() -> None:
    voxels = random_voxels([40], 30)
    assert torch.equal(curve_codes(voxels, 6, "hilbert"), hilbert_code(voxels, torch.tensor(6)))


def test_hilbert_codes_depend_on_the_depth() -> None:
    assert not torch.equal(curve_codes(GRID, 3, "hilbert"), curve_codes(GRID, 4, "hilbert"))


@pytest.mark.parametrize(("highest", "depth"), [(0, 1), (1, 2), (2, 2), (3, 3), (126, 7), (127, 8), (2**20 - 3, 20)])
def test_depth_leaves_room_for_one_more(highest: int, depth: int) -> None:
    assert curve_depths(torch.tensor([[0, highest, 0]]), offsets_of([1])).tolist() == [depth]


def test_large_codes_are_exact() -> None:
    voxel = torch.tensor([[2**20 - 1, 0, 2**19]])
    assert curve_codes(voxel, 20, "z").item() == sum(2 ** (3 * i + 2) for i in range(20)) + 2**57


def test_the_scene_is_above_the_code() -> None:
    assert with_scene(torch.tensor([5, 5]), torch.tensor([0, 3]), 2).tolist() == [5, 3 * 64 + 5]


@pytest.mark.parametrize(
    ("voxel", "reason"),
    [
        ([0, -1, 0], "lowest voxel number is -1"),
        ([25_000_000, 0, 0], "scene 0 of the batch reaches voxel number 25000000"),
    ],
)
def test_numbers_out_of_range_are_refused(voxel: list[int], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        curve_depths(torch.tensor([voxel]), offsets_of([1]))


def test_too_many_scenes_for_63_bits_are_refused() -> None:
    with pytest.raises(DataError, match="9 scenes of 20 bits"):
        with_scene(torch.zeros(9, dtype=torch.int64), torch.arange(9), 20)


def test_an_unknown_curve_is_refused() -> None:
    with pytest.raises(UsageError, match="no curve 'peano'"):
        curve_codes(GRID, 3, "peano")
