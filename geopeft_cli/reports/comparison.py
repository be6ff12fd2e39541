"""What several runs of several recipes come to: a row a recipe, with mean and standard deviation over its runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table as RichTable

from geopeft_cli.recipe.schema import Published, Recipe
from geopeft_cli.reports.protocol import augmented_in_words, measured_in_words, prepared_in_words

SELECTIONS = {
    "last": "weights of the last epoch",
    "best_validation": "best epoch on the validation split",
    "best_test": "best epoch on the TEST split, not an unbiased figure",
}


@dataclass
class Member:
    """One run of a row.

    Attributes:
        recipe: resolved, with the run's own seed and fold.
        folder: the run folder.
        summary: the last record of ``metrics.jsonl``, once the run is finished.
        failure: why it is not, where it was tried.
    """

    recipe: Recipe
    folder: Path
    summary: Mapping[str, Any] | None = None
    failure: str | None = None

    @property
    def title(self) -> str:
        """``seed 0``, and ``seed 0, fold 3`` where the data has folds."""
        fold = getattr(self.recipe.data, "fold", None)
        return f"seed {self.recipe.seed}" if fold is None else f"seed {self.recipe.seed}, fold {fold}"


@dataclass
class Row:
    """The runs of one recipe.

    Attributes:
        name: of the recipe.
        score: the metric by which its task is compared, such as ``accuracy``.
        members: its runs, done or not.
    """

    name: str
    score: str
    members: list[Member]

    @property
    def recipe(self) -> Recipe:
        """That of the first run; the others differ in seed and fold only."""
        return self.members[0].recipe

    @property
    def summaries(self) -> list[Mapping[str, Any]]:
        return [member.summary for member in self.members if member.summary is not None]

    @property
    def failed(self) -> list[Member]:
        return [member for member in self.members if member.failure is not None]

    @property
    def scores(self) -> dict[str, float]:
        """Percent on the test split, by title of the run."""
        return {m.title: float(m.summary["test"][self.score]) for m in self.members if m.summary is not None}

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores.values()) if self.scores else None

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation (n - 1); ``None`` for fewer than two runs."""
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else None

    @property
    def published(self) -> Published | None:
        """The first published number of the score itself: ``overall accuracy, ...``, but no difference of two."""
        words = self.score.replace("_", " ")
        heads = {entry.metric.partition(",")[0].lower(): entry for entry in reversed(self.recipe.published)}
        return heads.get(words) or heads.get(f"overall {words}")

    def median(self, key: str) -> float | None:
        """Of a figure of the runs that are done."""
        return statistics.median(summary[key] for summary in self.summaries) if self.summaries else None

    def highest(self, key: str) -> int | None:
        """Of a figure of the runs that are done."""
        return max((int(summary[key]) for summary in self.summaries), default=None)


class Comparison(NamedTuple):
    """A table for people: headings, a line of cells a recipe, and the notes that its marks lead to."""

    headings: tuple[str, ...]
    lines: list[tuple[str, ...]]
    notes: list[str]


def protocol(recipe: Recipe) -> str:
    """How a recipe trains, prepares its clouds and selects, in a line."""
    data, training = recipe.data.model_dump(), recipe.training
    return (
        f"{data['format']}, {prepared_in_words(data)}, "
        f"augmentation {augmented_in_words(data)}; {training.epochs} epochs, {training.schedule}, "
        f"batch {training.batch_size * training.accumulation}, lr {training.lr:g}, "
        f"weight decay {training.weight_decay:g}; {SELECTIONS[training.select]}; "
        f"{measured_in_words(data, recipe.evaluation.model_dump())}"
    )


def published_in_words(entry: Published) -> str:
    """A number of the literature with its metric, its source and its own protocol, in a line."""
    return f"published: {entry.value:g}, {entry.metric}; {entry.source}; {entry.protocol}"


def compare(rows: Sequence[Row]) -> Comparison:
    """The rows as text: ``91.20 ± 0.35``, sizes in MB, times in milliseconds, protocols as letters."""
    scores = " / ".join(dict.fromkeys(row.score.replace("_", " ") for row in rows))
    headings = (
        "recipe",
        "runs",
        f"test {scores} (%)",
        "published",
        "trained parameters",
        "step (ms)",
        "peak memory (MB)",
        "adapter (MB)",
        "protocol",
    )
    protocols = list(dict.fromkeys(protocol(row.recipe) for row in rows))
    quotations = list(dict.fromkeys(entry for row in rows for entry in row.recipe.published))
    lines: list[tuple[str, ...]] = [
        (
            row.name,
            f"{len(row.summaries)} of {len(row.members)}" + (f", {len(row.failed)} failed" if row.failed else ""),
            score_text(row),
            _published(row, quotations),
            _text(row.highest("trainable_parameters"), "{:,}"),
            _text(row.median("seconds_per_step"), "{:.1f}", 1e3),
            _text(row.highest("peak_memory_bytes"), "{:.0f}", 1e-6),
            _text(row.highest("adapter_bytes"), "{:.2f}", 1e-6),
            _letter(protocols.index(protocol(row.recipe))),
        )
        for row in rows
    ]
    notes = [f"protocol {_letter(index)}: {text}" for index, text in enumerate(protocols)]
    notes += [f"[{index}] {published_in_words(entry)}" for index, entry in enumerate(quotations, start=1)]
    notes += [f"failed: {row.name}, {member.title}: {member.failure}" for row in rows for member in row.failed]
    return Comparison(headings, lines, notes)


def print_comparison(rows: Sequence[Row], out: Console) -> None:
    """The table and its notes."""
    headings, lines, notes = compare(rows)
    view = RichTable(box=None, pad_edge=False)
    for index, heading in enumerate(headings):
        view.add_column(heading, justify=justification(index))
    for line in lines:
        view.add_row(*line)
    if not out.is_terminal:
        out.width = 1000  # nothing to fit into: the table has its own width
    out.print(view)
    for note in notes:
        out.print(note)


def justification(column: int) -> Any:
    """``left`` for the words of a comparison, ``right`` for its figures."""
    return "right" if 2 <= column <= 7 else "left"


def score_text(row: Row) -> str:
    """``91.20 ± 0.35``; without deviation for one run, ``-`` for none."""
    figures = [f"{value:.2f}" for value in (row.mean, row.deviation) if value is not None]
    return " ± ".join(figures) or "-"


def _published(row: Row, quotations: Sequence[Published]) -> str:
    entry = row.published
    marks = [entry] if entry else row.recipe.published
    text = "".join(f"[{quotations.index(mark) + 1}]" for mark in marks)
    return f"{entry.value:g} {text}" if entry else text or "-"


def _text(value: float | None, form: str, unit: float = 1) -> str:
    return "-" if value is None else form.format(value * unit if unit != 1 else value)


def _letter(index: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)
