"""A run as one page: HTML that needs no network, no other file, and for all but turning clouds no script."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from string import Template
from typing import Any

import numpy as np

from geopeft_cli import __version__
from geopeft_cli.reports.console import duration, folded, split_title, taken_for
from geopeft_cli.reports.markup import Cell, facts, paragraph, section, table
from geopeft_cli.reports.mistakes import Mistake, card
from geopeft_cli.reports.overlaps import CategoryScore
from geopeft_cli.reports.parameters import ParameterTable
from geopeft_cli.reports.protocol import augmented_in_words, measured_in_words, prepared_in_words
from geopeft_cli.reports.svg import line_chart

LARGEST_MATRIX = 60
"""Classes; the table by class says what more of them are taken for."""


@dataclass(frozen=True)
class RunFacts:
    """What a page shows.

    Attributes:
        recipe: the resolved recipe, as plain values.
        recipe_text: the same as its file.
        selection: ``epoch``, counted from 0, and ``text``: which epoch's weights were kept and how they were chosen.
        records: of ``metrics.jsonl``, the last one that of the end.
        metrics: figures in percent, by split.
        clouds: how many the test split has.
        classes: the classes of clouds, or the labels of points where ``is_dense``.
        confusion: counts (classes, classes) on the test split, rows are true classes.
        is_dense: whether every point has a label.
        categories: for parts of objects, the score of every category by its name.
        mistakes: the worst ones of the test split, worst first.
        parameters: what trained.
        environment: versions, system and device by name.
    """

    recipe: Mapping[str, Any]
    recipe_text: str
    selection: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Mapping[str, float]]
    clouds: int
    classes: Sequence[str]
    confusion: Sequence[Sequence[int]]
    is_dense: bool
    parameters: ParameterTable
    environment: Mapping[str, str]
    mistakes: Sequence[Mistake] = ()
    categories: Mapping[str, CategoryScore] = field(default_factory=dict)


def run_page(run: RunFacts) -> str:
    """The whole page."""
    sections = {
        "figures": ("Figures", _figures(run)),
        "curves": ("Curves", _curves(run)),
        "categories": ("Intersection over union by category", _categories(run)),
        "confusion": ("What is taken for what", "" if run.is_dense else _matrix(run)),
        "classes": ("Intersection over union by label" if run.is_dense else "By class", _by_class(run)),
        "mistakes": ("The worst mistakes", _mistakes(run)),
        "protocol": ("Protocol", _protocol(run)),
        "parameters": ("Parameters", _parameters(run.parameters)),
        "environment": ("Environment", facts(run.environment)),
        "recipe": ("Recipe", f"<pre>{escape(run.recipe_text)}</pre>"),
    }
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, (title, text) in sections.items() if text)
    header = (
        f"<header><h1>{escape(run.recipe['name'])}</h1>{paragraph(_in_a_line(run), 'soft')}<nav>{links}</nav></header>"
    )
    content = header + "\n".join(section(key, title, text) for key, (title, text) in sections.items())
    page = resources.files("geopeft_cli.reports").joinpath("page")
    template, style, script = (
        page.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
    )
    return Template(template).substitute(
        title=escape(f"{run.recipe['name']}: geopeft run"),
        style=style,
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        content=content,
        footer=f"Written by geopeft {__version__}.",
    )


def _in_a_line(run: RunFacts) -> str:
    described = str(run.recipe.get("description") or "")
    backbone, method = run.recipe["backbone"]["name"], run.recipe["method"]["name"]
    return f"{described}{' · ' if described else ''}{method} on {backbone}, {run.recipe['task']['name']}"


def _noun(run: RunFacts) -> str:
    return "scene" if "grid" in run.recipe["data"] else "cloud"


def _figures(run: RunFacts) -> str:
    select = run.recipe["training"]["select"]
    scores = "".join(
        f"<div><b>{value:.2f} %</b>{escape(name.replace('_', ' '))}</div>"
        for name, value in run.metrics["test"].items()
    )
    rows = [
        [f"{split_title(split, select)}: {name.replace('_', ' ')}", f"{value:.2f} %"]
        for split, values in run.metrics.items()
        if split != "test"
        for name, value in values.items()
    ]
    return "".join(
        (
            paragraph(f"{split_title('test', select)}, {run.clouds:,} {_noun(run)}s", "soft"),
            f'<div class="scores">{scores}</div>',
            paragraph(f"Weights kept: {run.selection['text']}", "warning" if select == "best_test" else ""),
            table(["other figures", ""], rows) if rows else "",
        )
    )


def _curves(run: RunFacts) -> str:
    epochs = [record for record in run.records if "epoch" in record]
    select = run.recipe["training"]["select"]
    measured: dict[str, list[tuple[float, float]]] = {}
    for record in epochs:
        place = record["epoch"] + 1
        if "train_accuracy" in record:
            measured.setdefault("accuracy in training", []).append((place, record["train_accuracy"]))
        for split in ("validation", "test"):
            for name, value in record.get(split, {}).items():
                title = f"{split_title(split, select)}: {name.replace('_', ' ')}"
                measured.setdefault(title, []).append((place, value))
    charts = {
        "Loss in training": {"loss": _column(epochs, "train_loss")},
        "Figures in percent": measured,
        "Learning rate": {"rate": _column(epochs, "lr")},
    }
    kept = run.selection.get("epoch")
    figures = []
    for title, curves in charts.items():
        drawn = line_chart(title, curves, None if kept is None else kept + 1)
        entries = "".join(f'<li><span class="c{i % 6}"></span>{escape(name)}</li>' for i, name in enumerate(curves))
        legend = f'<ul class="legend">{entries}</ul>' if len(curves) > 1 else ""
        if drawn:
            figures.append(f"<figure>{drawn}<figcaption>{escape(title)}</figcaption>{legend}</figure>")
    note = paragraph("The dotted upright line is the epoch whose weights were kept.", "soft")
    return f'<div class="charts">{"".join(figures)}</div>{note}' if figures else ""


def _column(records: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(record["epoch"] + 1, float(record[name])) for record in records if name in record]


def _matrix(run: RunFacts) -> str:
    if len(run.classes) > LARGEST_MATRIX:
        return paragraph(f"Not drawn for {len(run.classes)} classes: see the table by class.", "soft")
    rows: list[list[str | Cell]] = [
        [name, *(Cell(str(count) if count else "", count / max(sum(row), 1) if count else None) for count in row)]
        for name, row in zip(run.classes, run.confusion, strict=True)
    ]
    caption = "Clouds of the test split. Rows are the true classes, columns what they are taken for."
    return table(["", *run.classes], rows, kind="matrix", caption=caption)


def _by_class(run: RunFacts) -> str:
    counts = np.array(run.confusion, dtype=np.float64)
    true, found, right = counts.sum(axis=1), counts.sum(axis=0), counts.diagonal()
    headings = ["label" if run.is_dense else "class", "points" if run.is_dense else "clouds", "recall", "precision"]
    rows: list[list[str | Cell]] = []
    for index, name in enumerate(run.classes):
        shares = [(right[index], true[index]), (right[index], found[index])]
        if run.is_dense:
            shares.insert(0, (right[index], true[index] + found[index] - right[index]))
        rows.append(
            [name, f"{true[index]:,.0f}", *map(_percent, shares), taken_for(run.classes, run.confusion[index], index)]
        )
    if run.is_dense:
        headings.insert(2, "IoU")
    note = "Over all points of the test split together." if run.is_dense else "Clouds of the test split."
    return table([*headings, "taken for"], rows, kind="words", caption=note)


def _percent(share: tuple[float, float]) -> Cell:
    part, whole = share
    return Cell(f"{100 * part / whole:.1f} %", part / whole) if whole else Cell("-")


def _categories(run: RunFacts) -> str:
    rows: list[list[str | Cell]] = [
        [name, f"{score.clouds:,}", Cell(f"{score.miou:.1f} %", score.miou / 100)]
        for name, score in run.categories.items()
    ]
    note = "Mean over the clouds of a category of the mean over its parts."
    return table(["category", "clouds", "mIoU"], rows, caption=note) if rows else ""


def _mistakes(run: RunFacts) -> str:
    if not run.mistakes:
        return paragraph("None: everything in the test split is right.")
    hint = "Drag to turn, double-click to turn back; the arrow keys turn the one in focus."
    cards = "".join(card(mistake, run.classes) for mistake in run.mistakes)
    kind = "clouds double" if run.is_dense else "clouds"
    return f'<p class="soft turnable">{hint}</p><div class="{kind}">{cards}</div>'


def _protocol(run: RunFacts) -> str:
    data, training = run.recipe["data"], run.recipe["training"]
    rows = facts(
        {
            "data": ", ".join(str(data[key]) for key in ("format", "root", "path") if data.get(key)),
            "input": prepared_in_words(data),
            "augmentation in training": augmented_in_words(data),
            "training": f"{training['epochs']} epochs, batch {training['batch_size']}, lr {training['lr']:g}, "
            f"{training['schedule']}, weight decay {training['weight_decay']:g}, {training['precision']}",
            "seed": run.recipe["seed"],
            "weights kept": run.selection["text"],
            "measured": f"test split ({run.clouds:,} {_noun(run)}s), without augmentation: "
            + measured_in_words(data, run.recipe["evaluation"]),
        }
    )
    quoted = [
        [each["metric"], f"{each['value']:g}", each["source"], each["protocol"]]
        for each in run.recipe.get("published", ())
    ]
    caption = "Quoted from the literature; not measured by this code."
    return rows + (table(["metric", "value", "source", "protocol"], quoted, False, caption=caption) if quoted else "")


def _parameters(found: ParameterTable) -> str:
    rows = [[name, f"{row.trainable:,}", f"{row.frozen:,}"] for name, row in folded(found.rows)]
    size = "" if found.adapter_bytes is None else f", {found.adapter_bytes / 1e6:.2f} MB on disk"
    total = (
        f"{found.trainable_parameters:,} of {found.total_parameters:,} parameters train ({found.share:.2f} %){size}."
    )
    warnings = "".join(paragraph(warning, "warning") for warning in found.warnings)
    return paragraph(total) + warnings + table(["site", "trainable", "frozen"], rows)


def cost(summary: Mapping[str, Any]) -> dict[str, str]:
    """What a run took, in words, from the last record of its log."""
    found = {}
    if "seconds" in summary:
        found["time in training"] = (
            f"{duration(summary['seconds'])}, {1000 * summary['seconds_per_step']:.0f} ms a step"
        )
    if summary.get("peak_memory_bytes"):
        found["highest memory"] = f"{summary['peak_memory_bytes'] / 1e6:,.0f} MB"
    return {name: text for name, text in found.items() if math.isfinite(summary.get("seconds", 0.0))}
