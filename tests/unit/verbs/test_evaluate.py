"""Measuring what was trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

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
