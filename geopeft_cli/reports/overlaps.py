"""Tables of how well labels of points overlap the truth, by label and by category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from geopeft_cli.reports.console import taken_for


@dataclass(frozen=True)
class LabelScore:
    """One label over all points of a split together.

    Attributes:
        name: of the label.
        points: that truly have it.
        iou: intersection over union in percent; None where neither truth nor prediction has it.
        accuracy: share of its points that are right, in percent; None where it has none.
    """

    name: str
    points: int
    iou: float | None
    accuracy: float | None


@dataclass(frozen=True)
class CategoryScore:
    """One category of objects.

    Attributes:
        clouds: of it, with a point that counts.
        miou: mean over them of the mean over its parts of intersection over union, in percent.
    """

    clouds: int
    miou: float


def print_labels(labels: Sequence[LabelScore], counts: Sequence[Sequence[int]], out: Console) -> None:
    """Overlap and accuracy of every label, and what its points are taken for most often.

    Args:
        labels: in the order of the confusion matrix.
        counts: that matrix, rows are true labels.
        out: where to.
    """
    names = [label.name for label in labels]
    view = _table("label", "points", "IoU", "accuracy")
    view.add_column("taken for")
    for index, label in enumerate(labels):
        figures = (f"{label.points:,}", _percent(label.iou), _percent(label.accuracy))
        view.add_row(label.name, *figures, taken_for(names, counts[index], index))
    out.print(view)


def print_categories(categories: Mapping[str, CategoryScore], out: Console) -> None:
    """The mean intersection over union of every category."""
    view = _table("category", "clouds", "mIoU")
    for name, score in categories.items():
        view.add_row(name, f"{score.clouds:,}", _percent(score.miou))
    out.print(view)


def _table(first: str, *figures: str) -> Table:
    view = Table(box=None, pad_edge=False)
    view.add_column(first)
    for heading in figures:
        view.add_column(heading, justify="right")
    return view


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"
