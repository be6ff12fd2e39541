"""Groups: made of the two operators, centered, differentiable, independent of the batch."""

from __future__ import annotations

import pytest
import torch

from geopeft_cli.errors import ShapeError
from geopeft_cli.geometry.grouping import group
from geopeft_cli.geometry.neighbors import nearest_neighbors
from geopeft_cli.geometry.sampling import farthest_point_sample

CLOUD = torch.rand(3, 200, 3, generator=torch.Generator().manual_seed(0)) - 0.5


@pytest.mark.usefixtures("loops")
def test_groups_are_the_two_operators() -> None:
    neighborhoods, centers, center_index, neighbor_index = group(CLOUD, 16, 8)
    assert torch.equal(center_index, farthest_point_sample(CLOUD, 16))
    for one in range(3):
        assert torch.equal(centers[one], CLOUD[one, center_index[one]])
        assert torch.equal(neighborhoods[one], CLOUD[one, neighbor_index[one]] - centers[one][:, None])
    assert torch.equal(neighbor_index, nearest_neighbors(CLOUD, centers, 8).index)
    assert torch.equal(neighbor_index[..., 0], center_index)


@pytest.mark.usefixtures("loops")
def test_a_cloud_alone_and_among_others() -> None:
    together = group(CLOUD, 16, 8)
    for one in range(3):
        for ours, theirs in zip(group(CLOUD[one : one + 1], 16, 8), together, strict=True):
            assert torch.equal(ours[0], theirs[one])


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, 1e30])
def test_indices_stay_in_range_for_clouds_that_are_not_finite(value: float) -> None:
    cloud = CLOUD.repeat(1, 3, 1)
    cloud[0, ::7] = value
    cloud[1] = value
    groups = group(cloud, 16, 8)
    for index in (groups.center_index, groups.neighbor_index):
        assert ((index >= 0) & (index < 600)).all()


def test_near_origin_reaches_the_sampler() -> None:
    cloud = CLOUD * 0.1
    assert torch.equal(group(cloud, 16, 8, "keep").center_index, farthest_point_sample(cloud, 16, "keep"))
    assert not torch.equal(group(cloud, 200, 8, "keep").center_index, group(cloud, 200, 8).center_index)


def test_coordinates_carry_gradients() -> None:
    points = CLOUD.double().requires_grad_()
    groups = group(points, 4, 5)
    assert groups.neighborhoods.dtype == torch.float64
    (groups.neighborhoods.sum() + groups.centers.sum()).backward()
    expected = torch.zeros_like(CLOUD, dtype=torch.float64)
    for one in range(3):
        expected[one].index_put_((groups.neighbor_index[one].flatten(),), torch.ones(()).double(), accumulate=True)
        expected[one].index_put_((groups.center_index[one],), torch.tensor(1 - 5.0).double(), accumulate=True)
    assert torch.equal(points.grad, expected)


@pytest.mark.parametrize(("groups", "size"), [(201, 1), (1, 201), (0, 1), (1, 0)])
def test_errors(groups: int, size: int) -> None:
    with pytest.raises(ShapeError):
        group(CLOUD, groups, size)
