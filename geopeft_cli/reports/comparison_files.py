"""A comparison as files: ``comparison.csv`` for programs, ``.tex`` for papers, ``.html`` for a browser."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from geopeft_cli.reports.comparison import Row, compare, justification, protocol
from geopeft_cli.storage import new_file

LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left }
.right { text-align: right; font-variant-numeric: tabular-nums }
.failed { color: #a00; white-space: pre-wrap }
"""


def write_comparison(rows: Sequence[Row], folder: Path) -> None:
    """Write all of them into a folder, each in place of a former one.

    Raises:
        GeopeftError: they cannot be written.
    """
    for suffix, text in WRITERS.items():
        with new_file(folder / f"comparison.{suffix}") as partial:
            partial.write_text(text(rows), encoding="utf-8", newline="")


def to_csv(rows: Sequence[Row]) -> str:
    """A line a recipe, with plain numbers: percent, seconds, bytes."""
    text = io.StringIO()
    lines = [_record(row) for row in rows]
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _record(row: Row) -> Mapping[str, object]:
    quoted = row.published
    return {
        "recipe": row.name,
        "backbone": row.recipe.backbone.name,
        "method": row.recipe.method.name,
        "metric": row.score,
        "runs": len(row.members),
        "done": len(row.summaries),
        "failed": len(row.failed),
        "mean": row.mean,
        "standard_deviation": row.deviation,
        "scores": "; ".join(f"{title}: {score:.4f}" for title, score in row.scores.items()),
        "published": quoted.value if quoted else None,
        "published_source": quoted.source if quoted else None,
        "published_protocol": quoted.protocol if quoted else None,
        "trainable_parameters": row.highest("trainable_parameters"),
        "total_parameters": row.highest("total_parameters"),
        "seconds_per_step": row.median("seconds_per_step"),
        "peak_memory_bytes": row.highest("peak_memory_bytes"),
        "adapter_bytes": row.highest("adapter_bytes"),
        "protocol": protocol(row.recipe),
    }


def to_latex(rows: Sequence[Row]) -> str:
    """A ``table`` that needs no package; notes stand below it."""
    headings, lines, notes = compare(rows)
    columns = "".join(justification(index)[0] for index in range(len(headings)))
    body = [" & ".join(cell.translate(LATEX) for cell in line) + r" \\" for line in (headings, *lines)]
    below = [rf"\par {' '.join(note.split()).translate(LATEX)}" for note in notes]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\hline",
            body[0],
            r"\hline",
            *body[1:],
            r"\hline",
            r"\end{tabular}",
            r"\footnotesize",
            *below,
            r"\end{table}",
            "",
        ]
    )


def to_html(rows: Sequence[Row]) -> str:
    """A page that needs nothing beside itself: the table, its notes, and every run."""
    headings, lines, notes = compare(rows)
    sides = [justification(index) for index in range(len(headings))]
    runs = [
        _html_line([row.name, member.title, *_outcome(row, member.title)], ["left", "left", "right", "failed"])
        for row in rows
        for member in row.members
    ]
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Comparison</title>',
            f"<style>{STYLE}</style></head><body>",
            "<h1>Comparison</h1>",
            "<p>Mean ± sample standard deviation over the runs of a recipe. Published numbers are quotations, with the "
            "protocol that their source states; they were not measured by these runs.</p>",
            "<table><thead>",
            _html_line(headings, sides, "th"),
            "</thead><tbody>",
            *(_html_line(line, sides) for line in lines),
            "</tbody></table>",
            *(f"<p>{escape(note)}</p>" for note in notes if not note.startswith("failed: ")),
            "<h2>Runs</h2>",
            "<table><tbody>",
            *runs,
            "</tbody></table>",
            "</body></html>",
            "",
        ]
    )


def _html_line(cells: Sequence[str], classes: Sequence[str], tag: str = "td") -> str:
    columns = zip(cells, classes, strict=True)
    return "<tr>" + "".join(f'<{tag} class="{kind}">{escape(cell)}</{tag}>' for cell, kind in columns) + "</tr>"


def _outcome(row: Row, title: str) -> tuple[str, str]:
    """The score of a run and, where there is none, why."""
    member = next(member for member in row.members if member.title == title)
    if member.summary is not None:
        return f"{row.scores[title]:.2f}", ""
    return "-", f"failed: {member.failure}" if member.failure is not None else "not done"


WRITERS: Mapping[str, Callable[[Sequence[Row]], str]] = {"csv": to_csv, "tex": to_latex, "html": to_html}
