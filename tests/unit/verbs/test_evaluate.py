"""Measuring what was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from geopeft_cli.cli.app import app
from geopeft_cli.recipe.problems import RecipeError
from geopeft_cli.reports.records import read_records
from geopeft_cli.verbs.evaluate import evaluate_trained
from geopeft_cli.verbs.opening import check_clouds, open_trained


@pytest.mark.parametrize("split", ["test", "validation"])
def test_gives_the_figures_of_the_run(most_run: Path, split: str) -> None:
    found = evaluate_trained(most_run, [f"evaluation.split={split}"])
    assert found.metrics == read_records(most_run / "metrics.jsonl")[-1][split]
    assert (found.split, found.clouds) == (split, sum(map(sum, found.confusion)))


def test_the_training_split_is_prepared_as_for_testing(most_run: Path) -> None:
    found = evaluate_trained(most_run, ["evaluation.split=train", "data.augment=[jitter, rotate_y]"])
    assert found.metrics == evaluate_trained(most_run, ["evaluation.split=train"]).metrics
    assert found.clouds == 3 * len(found.classes)


def test_the_batch_size_does_not_matter(most_run: Path) -> None:
    whole = evaluate_trained(most_run)
    assert evaluate_trained(most_run, ["evaluation.batch_size=5"]) == whole
    assert evaluate_trained(most_run, ["evaluation.batch_size=1"]) == whole


def test_an_adapter_directory_is_enough(most_run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(most_run / "adapter", tmp_path / "elsewhere"))
    assert evaluate_trained(moved) == evaluate_trained(most_run)


def test_other_clouds_of_the_same_classes(most_run: Path) -> None:
    found = evaluate_trained(most_run, ["data.seed=9", "data.test_per_class=3"])
    assert found.clouds == 3 * len(found.classes)


def test_the_precision_of_the_recipe_is_used(most_run: Path) -> None:
    assert evaluate_trained(most_run, ["training.precision=bf16"]).clouds > 0


def test_clouds_for_checks_are_those_of_the_test_split(most_run: Path) -> None:
    opened = open_trained(most_run)
    clouds, note = check_clouds(opened, count=20)
    assert [len(part) for part in clouds] == [16, 4]
    assert note == "20 clouds of the training split"
    assert torch.cat(clouds).shape == (20, 128, 3)


def test_votes_stand_beside_the_figures_of_one_view(most_run: Path) -> None:
    few = ["data.test_per_class=1", "evaluation.views=2"]
    plain = evaluate_trained(most_run, few[:1])
    assert (plain.voting, plain.votes) == ("none", None)
    views = evaluate_trained(most_run, [*few, "evaluation.voting=views"])
    assert (views.metrics, views.voting) == (plain.metrics, "views")
    assert views.votes is not None
    assert views.votes.figures.keys() == {"views"}
    few += ["evaluation.voting=published", "evaluation.rounds=2", "evaluation.view_augment=[]"]
    published = evaluate_trained(most_run, few).votes
    assert published is not None
    assert (published.rounds, published.augment) == (2, ())
    assert published.figures["maximum_over_rounds"]["accuracy"] >= published.figures["mean_over_rounds"]["accuracy"]


def test_a_maximum_over_rounds_is_told_as_such(most_run: Path) -> None:
    small = ["data.test_per_class=1", "evaluation.voting=published", "evaluation.views=1", "evaluation.rounds=2"]
    lines = CliRunner().invoke(app, ["eval", str(most_run), *small]).stdout.splitlines()
    start = lines.index("voting: none, one view of each cloud")
    assert lines[start + 1] == "voting: published, 1 views with scale_translate, mean of the logits, 2 rounds"
    best = next(line for line in lines if "maximum over rounds" in line)
    assert "the best round on the test split: not an unbiased figure" in best


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.rounds=3"], "has no meaning with voting: none"),
        (["evaluation.voting=views", "evaluation.rounds=3"], "has no meaning with voting: views"),
        (["evaluation.voting=views", "evaluation.view_augment=[rotate_y_batch]"], "is for whole batches"),
    ],
)
def test_settings_of_voting_that_would_not_be_used(most_run: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        evaluate_trained(most_run, overrides)


def test_points_are_not_voted_on(parts_run: Path) -> None:
    with pytest.raises(RecipeError, match=r"evaluation\.voting is for classification, not for part_segmentation"):
        evaluate_trained(parts_run, ["evaluation.voting=views"])


def test_parts_have_tables_of_overlap(parts_run: Path) -> None:
    text, as_json = (CliRunner().invoke(app, ["eval", str(parts_run), *flag]).stdout for flag in ([], ["--json"]))
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["label", "points", "IoU", "accuracy", "taken", "for"]
    assert lines[5] == ["category", "clouds", "mIoU"]
    assert [line[:2] for line in lines[6:8]] == [["cube", "1"], ["plate", "1"]]
    found = json.loads(as_json)
    assert [label["name"] for label in found["labels"]] == found["classes"] == ["lower", "upper", "left", "right"]
    assert sum(score["miou"] for score in found["categories"].values()) / 2 == found["metrics"]["class_miou"]
