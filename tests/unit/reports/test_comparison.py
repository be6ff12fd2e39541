"""The figures of a comparison, and the files that show them."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from geopeft_cli.recipe.load import parse_recipe
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.reports.comparison import Member, Row, compare, print_comparison, protocol
from geopeft_cli.reports.comparison_files import to_csv, to_html, to_latex, write_comparison
from geopeft_cli.reports.protocol import measured_in_words

RECIPE = """\
name: {name}
seed: {seed}
data: {{format: shapes, augment: [scale_translate, rotate_y]}}
backbone: {{checkpoint: "embedded:point_mae_tiny"}}
method: {{name: lora}}
training: {{select: {select}, accumulation: 2}}
published:
  - {{metric: "overall accuracy above that of full, X", value: 3.1, source: "A & B_1", protocol: "a difference"}}
  - {{metric: "{metric}", value: 92.5, source: "C <2>", protocol: "best epoch"}}
"""


def row(
    name: str,
    scores: list[float | None],
    select: str = "last",
    metric: str = "overall accuracy, X",
    score: str = "accuracy",
) -> Row:
    """A row with a run a score; ``None`` is a run that failed."""
    members = []
    for seed, value in enumerate(scores):
        recipe = parse_recipe(RECIPE.format(name=name, seed=seed, select=select, metric=metric), "text")
        summary = {
            "finished": True,
            "test": {score: value, "other": 0.0},
            "trainable_parameters": 1200,
            "total_parameters": 5000,
            "seconds_per_step": 0.01 * (seed + 1) ** 2,
            "peak_memory_bytes": 250_000_000 + 10_000_000 * seed,
            "adapter_bytes": 5_004_000,
        }
        done = value is not None
        members.append(
            Member(recipe, Path(name) / f"seed{seed}", summary if done else None, None if done else "a_b <c>")
        )
    return Row(name, score, members)


def test_a_row_is_the_mean_over_its_runs() -> None:
    comparison = compare([row("small", [80.0, 81.0, 84.0])])
    (line,) = comparison.lines
    assert dict(zip(comparison.headings, line, strict=True)) == {
        "recipe": "small",
        "runs": "3 of 3",
        "test accuracy (%)": "81.67 ± 2.08",
        "published": "92.5 [2]",
        "trained parameters": "1,200",
        "step (ms)": "40.0",
        "peak memory (MB)": "270",
        "adapter (MB)": "5.00",
        "protocol": "A",
    }


@pytest.mark.parametrize(("scores", "text"), [([None], "-"), ([80.0], "80.00"), ([80.0, None, 82.0], "81.00 ± 1.41")])
def test_runs_that_are_missing_are_left_out(scores: list[float | None], text: str) -> None:
    assert compare([row("small", scores)]).lines[0][2] == text


def test_what_failed_is_named() -> None:
    comparison = compare([row("small", [80.0, None])])
    assert comparison.lines[0][1] == "1 of 2, 1 failed"
    assert comparison.notes[-1] == "failed: small, seed 1: a_b <c>"


def test_only_a_number_of_the_same_metric_stands_beside_the_score() -> None:
    beside = {
        metric: compare([row("a", [1.0], metric=metric, score=score)]).lines[0][3]
        for metric, score in [
            ("Accuracy, X", "accuracy"),
            ("instance mIoU, X", "instance_miou"),
            ("class mIoU, X", "instance_miou"),
        ]
    }
    assert beside == {"Accuracy, X": "92.5 [2]", "instance mIoU, X": "92.5 [2]", "class mIoU, X": "[1][2]"}


def test_notes_name_each_protocol_and_source_once() -> None:
    rows = [row("a", [1.0]), row("b", [2.0]), row("c", [3.0], select="best_test")]
    comparison = compare(rows)
    assert [line[-1] for line in comparison.lines] == ["A", "A", "B"]
    assert comparison.notes == [
        f"protocol A: {protocol(rows[0].recipe)}",
        f"protocol B: {protocol(rows[2].recipe)}",
        "[1] published: 3.1, overall accuracy above that of full, X; A & B_1; a difference",
        "[2] published: 92.5, overall accuracy, X; C <2>; best epoch",
    ]
    assert protocol(rows[0].recipe) == (
        "shapes, 1024 points, sampling random, normalize unit_sphere, augmentation scale_translate + rotate_y; "
        "300 epochs, cosine_lag, batch 64, lr 0.0005, weight decay 0.05; weights of the last epoch; one view, no voting"
    )
    assert "best epoch on the TEST split, not an unbiased figure" in comparison.notes[1]


VIEWS = "10 views with scale_translate, mean of the logits"


@pytest.mark.parametrize(
    ("key", "section", "words"),
    [
        ("evaluation", {"voting": "none"}, "one view, no voting"),
        ("evaluation", {"voting": "views"}, f"one view; geopeft eval adds voting: views, {VIEWS}"),
        (
            "evaluation",
            {"voting": "published", "views": 3, "rounds": 7, "view_augment": []},
            "voting: published, 3 views with no augmentation, mean of the logits, 7 rounds",
        ),
        (
            "data",
            {"format": "s3dis_blocks", "root": "x", "test": "rooms", "passes": 2},
            "every point of whole rooms, votes of overlapping blocks in 2 passes",
        ),
    ],
)
def test_the_protocol_says_who_decides(key: str, section: dict[str, Any], words: str) -> None:
    values = {**row("a", [1.0]).recipe.model_dump(), key: section}
    if key == "data":
        values["task"] = {"name": "scene_segmentation"}
    assert protocol(Recipe(**values)).endswith(words)


def test_fragments_of_scenes_are_no_views_of_clouds() -> None:
    evaluation = {"voting": "fragments", "views": 10, "rounds": 299, "view_augment": ["x"], "scene_views": "tta13"}
    assert measured_in_words({"grid": 0.02, "test_grid": None}, evaluation) == (
        "one view of every scene; geopeft eval adds voting: fragments, tta13, sum of the probabilities"
    )
    assert measured_in_words({"test_grid": 0.01}, evaluation).endswith("probabilities, on a point a voxel of 0.01 m")


def test_a_table_in_a_file_is_not_broken() -> None:
    out = Console(file=io.StringIO(), width=40, soft_wrap=True)
    print_comparison([row("a_rather_long_name", [80.0, 82.0])], out)
    lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].split()[0] == "recipe"
    assert "a_rather_long_name  2 of 2" in lines[1]
    assert lines[1].rstrip().endswith("5.00  A")


def test_csv_has_plain_numbers() -> None:
    first, second = csv.DictReader(io.StringIO(to_csv([row("a", [80.0, 82.0]), row("b", [None])])))
    assert (float(first["mean"]), float(first["standard_deviation"])) == pytest.approx((81.0, 2**0.5))
    assert first["scores"] == "seed 0: 80.0000; seed 1: 82.0000"
    assert (first["seconds_per_step"], first["peak_memory_bytes"]) == ("0.025", "260000000")
    assert (first["published"], first["published_source"]) == ("92.5", "C <2>")
    assert first["protocol"].startswith("shapes, 1024 points")
    assert (second["runs"], second["done"], second["failed"], second["mean"]) == ("1", "0", "1", "")


def test_latex_escapes_and_closes() -> None:
    text = to_latex([row("a_b", [80.0, 82.0, None])])
    assert r"a\_b & 2 of 3, 1 failed & 81.00 $\pm$ 1.41 & 92.5 [2] & 1,200 &" in text
    assert r"test accuracy (\%)" in text
    assert r"A \& B\_1" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [line.count(" & ") for line in rows] == [8, 8]
    assert r"\begin{tabular}{llrrrrrrl}" in text


class Page(HTMLParser):
    """Cells of all tables, and whether every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.attributes |= {name for name, _ in attributes}
        if tag not in ("meta", "!doctype"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def test_html_is_one_page_with_every_run() -> None:
    page = Page()
    page.feed(to_html([row("a", [80.0, None])]))
    assert page.open == []
    assert page.attributes == {"lang", "charset", "class"}  # nothing is fetched
    assert page.cells[-8:] == ["a", "seed 0", "80.00", "", "a", "seed 1", "-", "failed: a_b <c>"]


def test_files_take_the_place_of_former_ones(tmp_path: Path) -> None:
    for scores in ([None], [80.0]):
        write_comparison([row("a", scores)], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.csv", "comparison.html", "comparison.tex"]
    assert all("80.0" in path.read_text(encoding="utf-8") for path in tmp_path.iterdir())
