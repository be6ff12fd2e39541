"""What the data of a recipe is: a record, and tables for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class PartSurvey:
    """One part of a split.

    Attributes:
        clouds: how many.
        classes: name of a class -> its clouds.
        read: of how many clouds points were counted.
        points: fewest, median and most points of those.
        point_labels: name of a label of points -> its points in those; empty where points have none.
        ignored: points of those that do not count.
    """

    clouds: int
    classes: dict[str, int]
    read: int
    points: tuple[int, int, int]
    point_labels: dict[str, int]
    ignored: int


@dataclass(frozen=True)
class DataSurvey:
    """A data set.

    Attributes:
        format: of the recipe.
        classes: names; none of scenes, whose points alone have labels.
        part_names: of the labels of points.
        parts: by name.
        terms: under which a published set is given out; None for the user's own files.
    """

    format: str
    classes: list[str]
    part_names: list[str]
    parts: dict[str, PartSurvey]
    terms: str | None

    def to_json(self) -> dict[str, Any]:
        return {"kind": "data", **asdict(self)}


def print_data_survey(survey: DataSurvey, out: Console) -> None:
    """Counts by part of the split and by class, and where points have labels, their shares."""
    out.print(f"format  {survey.format}")
    if survey.terms:
        out.print(f"terms   {survey.terms}")
    out.print()
    for name, part in survey.parts.items():
        fewest, median, most = part.points
        counted = f"{part.read:,} of them" if part.read < part.clouds else "each"
        sizes = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,} (median {median:,})"
        what = "cloud" if survey.classes else "scene"
        out.print(f"{name}: {part.clouds:,} {what}{'s' * (part.clouds != 1)}, points in {counted}: {sizes}")
    out.print()
    if survey.classes:
        out.print(_table("class", "clouds", survey, survey.classes, lambda part, name: f"{part.classes[name]:,}"))
        out.print()
    if survey.part_names:
        out.print(_table("label", "points", survey, survey.part_names, _share))
        ignored = {name: part.ignored for name, part in survey.parts.items() if part.ignored}
        if ignored:
            out.print(f"ignored points: {', '.join(f'{name} {count:,}' for name, count in ignored.items())}")


def _share(part: PartSurvey, name: str) -> str:
    return f"{100 * part.point_labels[name] / max(1, sum(part.point_labels.values())):.2f} %"


def _table(
    first: str, what: str, survey: DataSurvey, names: list[str], cell: Callable[[PartSurvey, str], str]
) -> Table:
    view = Table(box=None, pad_edge=False)
    view.add_column(first)
    for part in survey.parts:
        view.add_column(f"{part} {what}", justify="right")
    for name in names:
        view.add_row(name, *(cell(part, name) for part in survey.parts.values()))
    return view
