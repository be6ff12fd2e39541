"""Axes and pictures of the page of a run."""

from __future__ import annotations

import re

import numpy as np
import pytest

from geopeft_cli.reports.mistakes import PITCH, YAW, turned
from geopeft_cli.reports.svg import cloud_picture, line_chart, ticks


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (61.3, 88.9, [60, 70, 80, 90]),
        (0.0, 5e-4, [0, 1e-4, 2e-4, 3e-4, 4e-4, 5e-4]),
        (-3.0, 3.0, [-4, -2, 0, 2, 4]),
        (5.0, 5.0, [4.4, 4.6, 4.8, 5, 5.2, 5.4, 5.6]),
        (0.0, 0.0, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, found: list[float]) -> None:
    assert ticks(low, high) == found


def test_a_curve_goes_through_its_values() -> None:
    chart = line_chart("loss", {"loss": [(1, 0.0), (2, 1.0), (3, float("inf")), (4, 0.5)]}, marked=2)
    assert 'd="M56.0 196.0L193.3 12.0M468.0 104.0"' in chart
    assert '<path class="mark" d="M193.3 12V196"/>' in chart
    assert "<title>loss, epoch 2: 1</title>" in chart
    assert line_chart("loss", {"loss": [(1, float("nan"))]}) == ""
    assert chart.count("<circle") == 3
    long = line_chart("loss", {"loss": [(x, x) for x in range(300)]}, marked=900)
    assert "<circle" not in long
    assert 'class="mark"' not in long


def test_points_are_drawn_once_in_their_color() -> None:
    points = np.array([[0, 0, 0], [0, 0, 0.5], [1, 1, 0], [-1, -1, 0]])
    picture = cloud_picture(points, "<cup>", np.array([0, 0, 1, 1]), ["red", "blue"])
    assert 'aria-label="&lt;cup&gt;"' in picture
    assert re.findall(r'stroke="(\w+)" d="([^"]*)"', picture) == [("red", "M120 120h0"), ("blue", "M0 240h0M240 0h0")]


def test_what_is_near_is_to_the_front() -> None:
    up = turned(np.array([[0.0, 1.0, 0.0]]))[0]
    assert up == pytest.approx([0, np.cos(PITCH), np.sin(PITCH)])
    assert turned(np.array([[np.sin(YAW), 0.0, np.cos(YAW)]]))[0, 0] == pytest.approx(np.sin(2 * YAW))
    basis = turned(np.eye(3))
    assert basis @ basis.T == pytest.approx(np.eye(3))
    assert np.linalg.det(basis) == pytest.approx(1)
