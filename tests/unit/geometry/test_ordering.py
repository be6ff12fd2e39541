"""Orders of group centers: the greedy walk, and Hilbert curves."""

from __future__ import annotations

import pytest
import torch

from geopeft_cli.errors import GeometryError, ShapeError
from geopeft_cli.geometry.ordering import CELL, greedy_order, hilbert_code, hilbert_order


def walk(points: list[list[float]]) -> list[int]:
    """The definition, one step at a time; ``min`` takes the first of equal ones."""
    order, left = [0], list(range(1, len(points)))
    while left:
        here = points[order[-1]]
        nearest = min(left, key=lambda i: sum((a - b) ** 2 for a, b in zip(here, points[i], strict=True)))
        order.append(nearest)
        left.remove(nearest)
    return order


def test_agrees_with_the_definition() -> None:
    centers = torch.randint(-3, 4, (4, 40, 3), generator=torch.Generator().manual_seed(0)).float()  # with many ties
    assert greedy_order(centers).tolist() == [walk(one.tolist()) for one in centers]


def test_it_goes_on_from_the_last_and_not_from_the_first() -> None:
    line = torch.tensor([0.0, -1.5, 1.0, 2.0]).view(1, 4, 1) * torch.tensor([1.0, 0.0, 0.0])
    assert greedy_order(line).tolist() == [[0, 2, 3, 1]]


def test_coincident_centers_are_each_visited_once() -> None:
    assert greedy_order(torch.zeros(1, 5, 3)).tolist() == [[0, 1, 2, 3, 4]]


def test_centers_have_three_coordinates() -> None:
    with pytest.raises(ShapeError):
        greedy_order(torch.zeros(5, 3))


XYZ, YXZ = (0, 1, 2), (1, 0, 2)


def grid(depth: int) -> torch.Tensor:
    axis = torch.arange(2**depth)
    return torch.cartesian_prod(axis, axis, axis)


def cells(count: int, below: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, below, (count, 3), generator=torch.Generator().manual_seed(seed))


def order(*clouds: torch.Tensor, of_batch: bool = False) -> list[list[int]]:
    """Along x, y, z, for clouds given as cells (G, 3)."""
    return hilbert_order((torch.stack(clouds) + 0.5) * CELL, [XYZ], of_batch)[:, 0].tolist()  # type: ignore[no-any-return]


def test_codes_that_were_recorded() -> None:
    recorded = {(0, 0, 0): 0, (0, 1, 0): 1, (1, 0, 0): 3, (0, 0, 1): 7, (1, 2, 3): 22, (3, 3, 3): 45}
    assert hilbert_code(torch.tensor([*recorded]), torch.tensor(2)).tolist() == [*recorded.values()]


def test_a_curve_passes_every_cell_in_unit_steps() -> None:
    code = hilbert_code(grid(3), torch.tensor(3))
    assert code.sort().values.tolist() == [*range(512)]
    path = grid(3)[code.argsort()]
    assert path[:4].tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]]
    assert set(path.diff(dim=0).abs().sum(1).tolist()) == {1}


def test_three_bits_more_leave_the_order_one_and_two_turn_it() -> None:
    orders = [hilbert_code(grid(2), torch.tensor(depth)).argsort().tolist() for depth in (2, 3, 4, 5, 8, 14)]
    assert orders[0] == orders[3] == orders[4] == orders[5]
    assert len({tuple(one) for one in orders[:3]}) == 3


def test_the_deepest_curve_has_48_bits() -> None:
    corners = torch.tensor([[0, 0, 0], [2**16 - 1] * 3, [2**16 - 1, 0, 0], [0, 2**16 - 1, 0], [0, 0, 2**16 - 1]])
    code = hilbert_code(corners, torch.tensor(16)).tolist()
    assert len({*code}) == 5
    assert max(code) == 2**48 - 1


def test_cells_count_from_the_lowest_of_the_cloud() -> None:
    centers = torch.rand(1, 40, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    lowest = (centers / CELL).floor().amin(1, keepdim=True)
    inner = ((centers / CELL).floor() - lowest).long()
    assert 2**6 <= int(inner.max()) < 2**7
    for curve in (XYZ, YXZ, (2, 1, 0)):
        expected = hilbert_code(inner[0][:, [*curve]], torch.tensor(7)).argsort().tolist()
        assert hilbert_order(centers, [curve]).tolist() == [[expected]]
    assert hilbert_order(centers, [XYZ, YXZ]).shape == (1, 2, 40)
    assert hilbert_order(centers.double(), [XYZ]).tolist() == hilbert_order(centers, [XYZ]).tolist()


@pytest.mark.parametrize(("widest", "same"), [(2**3, True), (2**4, False), (2**5, False), (2**6, True)])
def test_a_wider_cloud_in_the_batch_matters_only_if_asked_for(widest: int, same: bool) -> None:
    small, large = cells(30, 2**3), cells(30, widest, seed=1)
    small[0], small[1], large[0], large[1] = torch.zeros(3), torch.full((3,), 7), torch.zeros(3), widest - 1
    assert order(small, large) == [*order(small), *order(large)]
    assert (order(small, large, of_batch=True)[0] == order(small)[0]) == same


def test_centers_of_one_cell_keep_their_order() -> None:
    centers = torch.rand(1, 100, 3, generator=torch.Generator().manual_seed(0)) * CELL
    assert hilbert_order(centers, [XYZ]).tolist() == [[[*range(100)]]]
    twice = cells(20, 50).repeat(2, 1)
    found = order(twice)[0]
    assert [index for index in found if index < 20] == [index - 20 for index in found if index >= 20]
    assert all(found.index(index) + 1 == found.index(index + 20) for index in range(20))


@pytest.mark.parametrize("value", [1400.0, 1e30, torch.inf, torch.nan])
def test_clouds_too_wide_for_a_curve_are_refused(value: float) -> None:
    centers = torch.zeros(2, 4, 3)
    centers[1, 2, 1] = value
    with pytest.raises(GeometryError, match=r"reaches 1310\.72 at most"):
        hilbert_order(centers, [XYZ])


def test_centers_on_a_curve_have_three_coordinates_and_a_number() -> None:
    with pytest.raises(ShapeError):
        hilbert_order(torch.zeros(5, 3), [XYZ])
    with pytest.raises(ShapeError, match="32769 asked for"):
        hilbert_order(torch.zeros(1, 2**15 + 1, 3), [XYZ])
