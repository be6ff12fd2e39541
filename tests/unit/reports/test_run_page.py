"""The page of a run: complete by itself, well formed, nothing in it that a name could have put there."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser

import numpy as np
import pytest

from geopeft_cli.reports.mistakes import MOST_POINTS, Mistake, scaled
from geopeft_cli.reports.run_page import LARGEST_MATRIX, RunFacts, run_page

Facts = Callable[..., RunFacts]


class Page(HTMLParser):
    """What a browser would make of a page: its tags, the text of its rows, its figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def test_names_stay_names(run_facts: Facts, segmented: RunFacts) -> None:
    for facts in (run_facts(), segmented):
        page = Page(run_page(facts))
        assert [len(page.named(tag)) for tag in ("script", "img", "b", "i", "x", "y")] == [1, 0, 1, 0, 0, 0]
        for name in ('<script>alert("1")</script>', "a & b", "mine <b>", "head <x>", "odd <y>", "a <i>paper</i>"):
            assert name in page.text
    assert "/scans/<1>.ply" in Page(run_page(run_facts())).text


def test_a_page_is_complete_by_itself(run_facts: Facts) -> None:
    text = run_page(run_facts())
    page = Page(text)
    links = [value for _, own in page.tags for key, value in own.items() if key in ("src", "href", "srcset", "data")]
    assert links
    assert all(link is not None and link.startswith("#") for link in links)
    targets = {own.get("id") for _, own in page.tags}
    assert {link.removeprefix("#") for link in links if link} <= targets
    assert not re.search(r"https?:|//\w|@import|url\(", re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    script = text[text.index("<script>") + len("<script>") : text.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = page.named("meta")[2]["content"]
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_figures_of_classes(run_facts: Facts) -> None:
    rows = Page(run_page(run_facts())).rows
    assert ["cup", "2", "100.0 %", "66.7 %", ""] in rows
    assert ['<script>alert("1")</script>', "2", "50.0 %", "100.0 %", "cup 1"] in rows
    assert ['<script>alert("1")</script>', "1", "1", ""] in rows  # of the confusion matrix


def test_figures_of_labels_of_points(segmented: RunFacts) -> None:
    page = Page(run_page(segmented))
    assert ["cup", "2", "66.7 %", "100.0 %", "66.7 %", ""] in page.rows
    assert ["cup", "4", "33.2 %"] in page.rows
    assert "What is taken for what" not in page.text
    assert "not counted" in page.text
    assert [own["data-labels"] is not None for own in page.named("figure") if "data-labels" in own] == [True, True]


def test_what_is_said_of_a_run(run_facts: Facts) -> None:
    page = Page(run_page(run_facts()))
    for words in (
        "Weights kept: last of 3 epochs",
        "10 of 100 parameters train (10.00 %), 0.00 MB on disk",
        "name: mine",
    ):
        assert words in page.text
    assert ["accuracy", "90.5", "a <i>paper</i>", "best on test"] in page.rows
    assert ["device", "cpu"] in page.rows
    assert ["validation: accuracy", "40.00 %"] in page.rows
    assert len([own for own in page.named("svg") if own.get("class") == "chart"]) == 3


def test_selection_on_the_test_split_is_said(run_facts: Facts) -> None:
    recipe = run_facts().recipe
    chosen = run_facts(recipe={**recipe, "training": {**recipe["training"], "select": "best_test"}})
    assert "test (the weights were chosen on it), 5 clouds" in Page(run_page(chosen)).text
    assert "chosen on it" not in Page(run_page(run_facts())).text


def test_how_it_was_measured_is_said(run_facts: Facts) -> None:
    recipe = run_facts().recipe
    voted = run_facts(recipe={**recipe, "evaluation": {**recipe["evaluation"], "voting": "views"}})
    assert "test split (5 clouds), without augmentation: one view, no voting" in Page(run_page(run_facts())).text
    assert "one view; geopeft eval adds voting: views, 10 views with scale_translate" in Page(run_page(voted)).text


def test_points_are_those_of_the_cloud(run_facts: Facts) -> None:
    facts = run_facts()
    (card,) = (own for own in Page(run_page(facts)).named("article"))
    points = np.frombuffer(base64.b64decode(card["data-points"] or ""), dtype="<i2").reshape(-1, 3) / 32767
    assert np.abs(points - scaled(facts.mistakes[0].points)).max() < 1 / 32767
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(1, abs=1e-4)


def test_many_large_clouds_stay_small(run_facts: Facts) -> None:
    rng = np.random.default_rng(0)
    labels = {panel: rng.integers(0, 3, 20000) for panel in ("truth", "prediction")}
    large = [Mistake(f"{i}", "", rng.normal(size=(20000, 3)), labels) for i in range(8)]
    text = run_page(run_facts(is_dense=True, mistakes=large))
    assert len(text) < 1_000_000
    card = Page(text).named("article")[0]
    assert len(base64.b64decode(card["data-points"] or "")) == 6 * MOST_POINTS


def test_odd_runs(run_facts: Facts) -> None:
    gap = [{"epoch": e, "train_loss": value} for e, value in enumerate([1.0, float("nan"), 0.5])]
    assert len(Page(run_page(run_facts(records=gap))).named("circle")) == 2
    assert "Curves" not in Page(run_page(run_facts(records=[]))).text
    assert "everything in the test split is right" in Page(run_page(run_facts(mistakes=[]))).text
    broken = Mistake("broken", "", np.full((4, 3), np.nan))
    single = Mistake("single", "", np.ones((1, 3)))
    assert "broken" in Page(run_page(run_facts(mistakes=[broken, single]))).text
    many = [str(index) for index in range(LARGEST_MATRIX + 1)]
    facts = run_facts(classes=many, confusion=np.eye(len(many), dtype=int).tolist())
    assert "Not drawn for 61 classes" in Page(run_page(facts)).text
