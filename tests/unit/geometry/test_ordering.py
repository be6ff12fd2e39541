"""The greedy walk over group centers."""

from __future__ import annotations

import pytest
import torch

from geopeft_cli.errors import ShapeError
from geopeft_cli.geometry.ordering import greedy_order


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
