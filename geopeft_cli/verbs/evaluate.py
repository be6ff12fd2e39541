"""Measure an adapter on its own data, or on other data with the same classes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from geopeft_cli.assemble import AnySet, make_batches, make_preparation, make_scene_batches
from geopeft_cli.contracts import Backbone, Task
from geopeft_cli.data.scene_pipelines import views_of
from geopeft_cli.data.scenes import SceneSet
from geopeft_cli.data.views import Views
from geopeft_cli.errors import UsageError
from geopeft_cli.evaluation.loop import Evaluation
from geopeft_cli.evaluation.overlaps import category_scores, label_scores
from geopeft_cli.evaluation.scenes import Keep, evaluate_set, vote_scenes
from geopeft_cli.evaluation.voting import Votes, vote
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.reports.overlaps import CategoryScore, LabelScore
from geopeft_cli.tasks.segmentation import PartSegmentation
from geopeft_cli.training.precision import autocast, choose_device
from geopeft_cli.verbs.opening import Opened, open_data, open_trained


@dataclass(frozen=True)
class Result:
    """Figures of one split.

    Attributes:
        split: its name.
        clouds: how many clouds or scenes it holds.
        unit: which of them, ``cloud`` or ``scene``.
        metrics: in percent.
        classes: names of the classes of clouds, or of points where those are labelled.
        confusion: (classes, classes) counts, rows are true classes.
        counted: what is counted there, ``clouds`` or ``points``.
        select: ``training.select`` of the recipe that the weights were trained with.
        weights_kept: the same in words.
        voting: ``evaluation.voting``; the metrics above are always those of one view.
        votes: the figures of the vote, where there was one.
        labels: where points are counted, their labels in the order of ``classes``.
        categories: for parts of objects, by name.
    """

    split: str
    clouds: int
    metrics: dict[str, float]
    classes: list[str]
    confusion: list[list[int]]
    counted: str
    select: str
    weights_kept: str
    voting: str = "none"
    unit: str = "cloud"
    votes: Votes | None = None
    labels: list[LabelScore] = field(default_factory=list)
    categories: dict[str, CategoryScore] = field(default_factory=dict)


def evaluate_trained(path: Path, overrides: Sequence[str] = ()) -> Result:
    """Measure a run, an adapter or a merged file on ``evaluation.split`` of its recipe's data.

    Raises:
        GeopeftError: anything foreseeable.
    """
    opened = open_trained(path, overrides)
    return measure(opened, measured_part(opened))


def measured_part(opened: Opened) -> AnySet:
    """The part of the data that ``evaluation.split`` names.

    Raises:
        UsageError: there is none.
        DataError: the data cannot be used, or has other classes.
    """
    part = opened.recipe.evaluation.split
    clouds: AnySet | None = getattr(open_data(opened), part)
    if clouds is None or len(clouds) == 0:
        raise UsageError(f"evaluation.split: the data has no {part} split", "Choose train, validation or test.")
    return clouds


def measure(opened: Opened, clouds: AnySet, keep: Keep | None = None) -> Result:
    """Measure a model on clouds or scenes; what it says of each scene, by vote where there is one, goes to ``keep``.

    Raises:
        GeopeftError: anything foreseeable.
    """
    recipe = opened.recipe
    part, votes = recipe.evaluation.split, recipe.evaluation.voting == "fragments"
    device = choose_device(recipe.training.device, scenes=recipe.of_scenes)
    if recipe.training.threads is not None:
        torch.set_num_threads(recipe.training.threads)
    batches = make_batches(recipe, clouds, part, training=False, batch_size=recipe.evaluation.batch_size)
    precision = recipe.training.precision
    found = evaluate_set(
        opened.model.to(device), clouds, batches, device, lambda: autocast(precision, device), None if votes else keep
    )
    task = opened.model.task
    assert task is not None
    confusion = task.confusion(found.outcomes, found.targets)
    manifest = opened.manifest
    return Result(
        part,
        len(clouds),
        found.metrics,
        list(confusion.names),
        confusion.counts.tolist(),
        "points" if task.is_dense else "clouds",
        select=manifest.recipe["training"]["select"],
        weights_kept=manifest.selection["text"],
        voting=recipe.evaluation.voting,
        unit="scene" if isinstance(clouds, SceneSet) else "cloud",
        votes=_votes(opened.model, clouds, recipe, device, keep),
        labels=label_scores(confusion) if task.is_dense else [],
        categories=_categories(task, found, clouds),
    )


def _categories(task: Task, found: Evaluation, clouds: AnySet) -> dict[str, CategoryScore]:
    if not isinstance(task, PartSegmentation):
        return {}
    assert not isinstance(clouds, SceneSet)
    return category_scores(task, found, clouds)


def _votes(model: Backbone, clouds: AnySet, recipe: Recipe, device: torch.device, keep: Keep | None) -> Votes | None:
    section, precision = recipe.evaluation, recipe.training.precision
    if section.voting == "none":
        return None
    if section.voting == "fragments":
        return _fragment_votes(model, clouds, recipe, device, keep)
    assert not isinstance(clouds, SceneSet)
    augment = section.view_augment
    views = Views(clouds, make_preparation(recipe), batch_size=section.batch_size, seed=recipe.seed, augment=augment)
    passes = section.views * (section.rounds if section.voting == "published" else 1)
    with tqdm(total=passes, unit="view", disable=not sys.stderr.isatty(), dynamic_ncols=True, leave=False) as bar:
        return vote(
            model,
            views,
            device,
            lambda: autocast(precision, device),
            voting=section.voting,
            count=section.views,
            rounds=section.rounds,
            augment=augment,
            advance=bar.update,
        )


def _fragment_votes(model: Backbone, scenes: AnySet, recipe: Recipe, device: torch.device, keep: Keep | None) -> Votes:
    section, precision = recipe.evaluation, recipe.training.precision
    assert isinstance(scenes, SceneSet)
    batches = make_scene_batches(recipe, scenes, "test", training=False, batch_size=1)
    with tqdm(total=len(scenes), unit="scene", disable=not sys.stderr.isatty(), dynamic_ncols=True, leave=False) as bar:
        found = vote_scenes(
            model, batches, section.scene_views, device, lambda: autocast(precision, device), bar.update, keep
        )
    views = len(views_of(section.scene_views))
    return Votes("fragments", views, 1, (section.scene_views,), {"fragments": found.metrics})
