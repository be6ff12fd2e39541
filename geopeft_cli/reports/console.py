"""Tables for people, on a rich console. Everything a program wants is JSON instead."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.console import Console
from rich.table import Table

from geopeft_cli.reports.parameters import ParameterTable, Row
from geopeft_cli.reports.protocol import votes_in_words


def console(stderr: bool = False) -> Console:
    """A console that prints user text as it is."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


def print_parameters(table: ParameterTable, out: Console) -> None:
    """The per-site table, its totals and its warnings. Runs of like sites are folded into one row."""
    view = Table(box=None, pad_edge=False)
    view.add_column("site")
    for heading in ("trainable", "frozen"):
        view.add_column(heading, justify="right")
    for name, row in folded(table.rows):
        view.add_row(name, f"{row.trainable:,}", f"{row.frozen:,}")
    out.print(view)
    size = "" if table.adapter_bytes is None else f", {table.adapter_bytes / 1e6:.2f} MB on disk"
    out.print(
        f"{table.trainable_parameters:,} of {table.total_parameters:,} parameters train ({table.share:.2f} %){size}"
    )
    for warning in table.warnings:
        out.print(f"warning: {warning}")


def folded(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """Sites that differ only in the index of their block and count the same, as one row ``(x 12)``."""
    groups: dict[tuple[str, int, int], list[Row]] = {}
    for row in rows:
        pattern = ".".join("*" if part.isdigit() else part for part in row.site.split("."))
        pattern = row.site if row.site.startswith(("cls_head", "encoder", "pos_embed")) else pattern
        groups.setdefault((pattern, row.trainable, row.frozen), []).append(row)
    return [
        (members[0].site, members[0])
        if len(members) == 1
        else (
            f"{pattern} (x {len(members)})",
            Row(pattern, sum(row.trainable for row in members), sum(row.frozen for row in members)),
        )
        for (pattern, _, _), members in groups.items()
    ]


def split_title(split: str, select: str) -> str:
    """A split's name, which says so where the weights were chosen by their score on that split.

    Args:
        split: ``train``, ``validation`` or ``test``.
        select: ``training.select`` of the recipe.
    """
    return f"{split} (the weights were chosen on it)" if select == f"best_{split}" else split


def print_metrics(metrics: Mapping[str, float], title: str, out: Console) -> None:
    """``title: accuracy 91.67 %, mean class accuracy 90.10 %``."""
    figures = ", ".join(f"{name.replace('_', ' ')} {value:.2f} %" for name, value in metrics.items())
    out.print(f"{title}: {figures}")


class VoteFigures(Protocol):
    """What a vote found; see ``evaluation.voting.Votes``."""

    @property
    def voting(self) -> str: ...
    @property
    def views(self) -> int: ...
    @property
    def rounds(self) -> int: ...
    @property
    def augment(self) -> Sequence[str]: ...
    @property
    def figures(self) -> Mapping[str, Mapping[str, float]]: ...


def print_votes(votes: VoteFigures, split: str, out: Console) -> None:
    """The figures of a vote, each under its own name, the maximum with a warning."""
    out.print(f"voting: {votes_in_words(votes.voting, votes.augment, votes.views, votes.rounds)}")
    for name, metrics in votes.figures.items():
        warning = f" (the best round on the {split} split: not an unbiased figure)" if "maximum" in name else ""
        print_metrics(metrics, f"  {name.replace('_', ' ')}{warning}", out)


def print_confusions(classes: Sequence[str], counts: Sequence[Sequence[int]], out: Console) -> None:
    """Recall by class, and what each class is taken for most often.

    Args:
        classes: names.
        counts: confusion matrix of clouds, rows are true classes.
        out: where to.
    """
    view = Table(box=None, pad_edge=False)
    view.add_column("class")
    view.add_column("clouds", justify="right")
    view.add_column("recall", justify="right")
    view.add_column("taken for")
    for index, (name, row) in enumerate(zip(classes, counts, strict=True)):
        total = sum(row)
        recall = f"{100 * row[index] / total:.1f} %" if total else "-"
        view.add_row(name, str(total), recall, taken_for(classes, row, index))
    out.print(view)


def taken_for(classes: Sequence[str], row: Sequence[int], index: int) -> str:
    """What a class is taken for most often, with counts: ``cup 3, bowl 1``.

    Args:
        classes: names.
        row: of the confusion matrix.
        index: of the class.
    """
    wrong = sorted(((count, classes[j]) for j, count in enumerate(row) if j != index and count), reverse=True)
    return ", ".join(f"{other} {count}" for count, other in wrong[:3])


def duration(seconds: float) -> str:
    """``2 min 05 s``."""
    minutes, rest = divmod(math.floor(seconds + 0.5), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
