"""Tables of labels of points."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from geopeft_cli.reports.overlaps import CategoryScore, LabelScore, print_categories, print_labels


def shown(print_it: Any, *arguments: Any) -> list[list[str]]:
    stream = io.StringIO()
    print_it(*arguments, Console(file=stream, markup=False, highlight=False, width=100))
    return [line.split() for line in stream.getvalue().splitlines()]


def test_labels_of_points() -> None:
    labels = [
        LabelScore("floor", 4000, 75.04, 80.0),
        LabelScore("[wall]", 0, 0.0, None),
        LabelScore("x", 0, None, None),
    ]
    assert shown(print_labels, labels, [[3200, 800, 0], [0, 0, 0], [0, 0, 0]]) == [
        ["label", "points", "IoU", "accuracy", "taken", "for"],
        ["floor", "4,000", "75.0", "%", "80.0", "%", "[wall]", "800"],
        ["[wall]", "0", "0.0", "%", "-"],
        ["x", "0", "-", "-"],
    ]


def test_categories() -> None:
    assert shown(print_categories, {"cup": CategoryScore(1500, 33.25)}) == [
        ["category", "clouds", "mIoU"],
        ["cup", "1,500", "33.2", "%"],
    ]
