"""Recipes of scenes: what they may leave out, and what does not go together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from geopeft_cli.recipe.dump import dump_recipe
from geopeft_cli.recipe.load import load_recipe, parse_recipe
from geopeft_cli.recipe.locations import resolve_paths
from geopeft_cli.recipe.problems import RecipeError
from geopeft_cli.recipe.schema import VoxelSegmentationTask

HEAD = """\
name: x
data: {format: rooms}
backbone: {name: sonata, checkpoint: a.pth}
method: {name: gem}
"""


@pytest.fixture
def problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    monkeypatch.chdir(tmp_path)

    def of(text: str) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            parse_recipe(text, "r.yaml")
        return [str(problem) for problem in caught.value.problems]

    return of


def test_the_published_training_is_the_default() -> None:
    recipe = parse_recipe(HEAD + "training: {epochs: 3}\n", "r.yaml")
    assert isinstance(recipe.task, VoxelSegmentationTask)
    training = recipe.training
    assert (training.epochs, training.schedule, training.lr, training.clip_norm) == (3, "one_cycle", 2e-3, 3.0)
    assert recipe.evaluation.batch_size == 1
    assert parse_recipe(dump_recipe(recipe), "again") == recipe


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("sonata", "point_mae", "backbone.name is point_mae, and the data are rooms, which are of scenes"),
        ("rooms", "shapes", "backbone.name is sonata, and the data are shapes, which are of objects"),
        ("name: sonata, ", "", "missing key 'backbone.name', one of"),
        ("a.pth", "a.pth, groups: 3", "backbone.groups is for name: point_mae"),
        ("name: gem", "name: point_peft", "method.name is point_peft, which is for objects, and sonata reads scenes"),
        ("rooms", "rooms, features: [colors, colors]", "data.features names one twice"),
        ("rooms", "rooms, features: []", "data.features must have at least 1 entry"),
        ("rooms", "rooms, grid: 0", "data.grid must be greater than 0, is 0"),
        ("rooms", "rooms, mix3d: {probability: 2}", "data.mix3d.probability must be at most 1, is 2"),
        ("rooms", "rooms, augment: lidar, crop: {voxels: 9}", "data.crop has no meaning with augment: lidar"),
        ("rooms", "packed_scenes, path: a", "missing key 'data.labels'"),
        (
            "rooms",
            "packed_scenes, path: a, labels: {classes: [a], values: {b: [1]}}",
            "data.labels.values names 'b', which is not among the classes",
        ),
        ("rooms", "scene_files, root: a, labels: {classes: [a, a]}", "data.labels.classes names one twice"),
    ],
)
def test_mistakes(problems: Callable[[str], list[str]], old: str, new: str, expected: str) -> None:
    assert any(expected in problem for problem in problems(HEAD.replace(old, new)))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("task: {name: classification}", "task.name is classification, and the data are rooms, which are of scenes"),
        ("training: {warmup_epochs: 3}", "training.warmup_epochs has no meaning with schedule: one_cycle"),
        ("training: {schedule: cosine, one_cycle: {warmup: 0.1}}", "one_cycle has no meaning with schedule: cosine"),
        ("task: {class_weights: published}", "class_weights is published, which is for semantic_kitti, not for rooms"),
        ("evaluation: {voting: views}", "evaluation.voting is views, which is for objects; use fragments"),
        ("evaluation: {scene_views: tta13}", "evaluation.scene_views has no meaning with voting: none"),
        ("training: {select: best_validation}\nevaluation: {split: validation}", ""),
    ],
)
def test_mistakes_elsewhere(problems: Callable[[str], list[str]], line: str, expected: str) -> None:
    text = HEAD.replace("rooms", "rooms, validation: 0")
    assert any(expected in problem for problem in problems(f"{text}{line}\n"))


def test_fragments_are_for_scenes(problems: Callable[[str], list[str]]) -> None:
    text = HEAD.replace("rooms", "shapes").replace("sonata", "point_mae") + "evaluation: {voting: fragments}\n"
    assert any("evaluation.voting is fragments, which is for scenes" in problem for problem in problems(text))


def test_paths_of_scenes_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(HEAD.replace("rooms", "scannet, root: scans, limited_scenes: 1.txt"))
    data = resolve_paths(load_recipe("r.yaml")).data
    assert getattr(data, "root", None) == str(tmp_path / "scans")
    assert getattr(data, "limited_scenes", None) == str(tmp_path / "1.txt")
