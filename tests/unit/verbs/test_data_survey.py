"""What ``inspect --data`` finds: counts that are those of the files, without a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from geopeft_cli.cli.app import app
from geopeft_cli.errors import DataError
from geopeft_cli.verbs.data_survey import survey_data

LABELS = np.array([[0, 0, 1, 2], [1, 1, 1, -1], [2, 2, 2, 2], [0, 0, 0, 0]])


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Four labelled clouds of two classes, the last of which is for testing, and no checkpoint."""
    points = np.random.default_rng(0).normal(size=(4, 4, 3)).astype(np.float32)
    arrays = {
        "label": np.array([0, 1, 0, 0]),
        "point_labels": LABELS,
        "is_test": np.arange(4) == 3,
        "is_late": np.arange(4) > 1,
    }
    names = {"classes": np.array(["tree", "car"]), "part_names": np.array(["leaf", "wood", "metal"])}
    np.savez(tmp_path / "clouds.npz", points=points, **arrays, **names)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: x\ndata: {{format: packed, path: {tmp_path / 'clouds.npz'}, split: {{by: field}}}}\n"
        "backbone: {checkpoint: gone.pth}\nmethod: {name: full}\n"
    )
    return path


def test_counts_of_labelled_points(recipe: Path) -> None:
    survey = survey_data(str(recipe))
    assert (survey.format, survey.terms, list(survey.parts)) == ("packed", None, ["train", "test"])
    train = survey.parts["train"]
    assert (train.clouds, train.classes, train.points) == (3, {"tree": 2, "car": 1}, (4, 4, 4))
    assert train.point_labels == {"leaf": 2, "wood": 4, "metal": 5}
    assert (train.ignored, survey.parts["test"].ignored) == (1, 0)
    first_and_last = survey_data(str(recipe), (), clouds=2).parts["train"]
    assert (first_and_last.read, first_and_last.point_labels) == (2, {"leaf": 2, "wood": 1, "metal": 5})


def test_a_set_without_labels_of_points_and_its_terms() -> None:
    survey = survey_data("quickstart", ["data.validation_per_class=0", "data.points=32"], clouds=3)
    assert list(survey.parts) == ["train", "test"]
    assert survey.parts["train"].points == (32, 32, 32)
    assert survey.parts["train"].point_labels == {}
    assert survey.terms is not None


def test_on_the_command_line(recipe: Path) -> None:
    runner = CliRunner()
    result = runner.invoke(app, ["inspect", str(recipe), "--data", "data.split.field=is_late"])
    assert result.exit_code == 0, result.stderr
    assert "train: 2 clouds, points in each: 4" in result.stdout
    assert "test: 2 clouds, points in each: 4" in result.stdout
    assert "ignored points: train 1" in result.stdout
    result = runner.invoke(app, ["inspect", str(recipe), "--data", "--json", "--clouds", "1"])
    assert json.loads(result.stdout)["parts"]["train"]["read"] == 1


@pytest.mark.parametrize("arguments", [["--data"], ["quickstart", "--data", "--local-distance"]])
def test_what_does_not_go_together(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["inspect", *arguments])
    assert result.exit_code == 2
    assert "--data needs a recipe" in result.stderr


def test_a_missing_set_is_named_with_its_terms(recipe: Path, tmp_path: Path) -> None:
    data = f"data={{format: shapenetpart, root: {tmp_path}}}"
    result = CliRunner().invoke(app, ["inspect", str(recipe), "--data", data])
    assert result.exit_code == 2
    words = " ".join(result.stderr.split())
    assert "has no synsetoffset2category.txt, train_test_split/shuffled_train_file_list.json" in words
    assert "non-commercial research" in words


def test_an_empty_part_is_refused(recipe: Path, tmp_path: Path) -> None:
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    for area in (1, 5):
        np.save(rooms / f"Area_{area}_office_1.npy", np.zeros((9, 7)))
    with pytest.raises(DataError, match="the train set has no clouds"):
        survey_data(str(recipe), [f"data={{format: s3dis_blocks, root: {rooms}}}"])
