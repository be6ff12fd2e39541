"""``report.html`` of a run: at its end, and again later from what it left."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.assemble import AnySet, make_batches, make_cloud_batches
from geopeft_cli.contracts import Backbone
from geopeft_cli.data.scenes import SceneSet
from geopeft_cli.errors import GeopeftError, UsageError
from geopeft_cli.evaluation.loop import Evaluation
from geopeft_cli.evaluation.mistakes import worst_mistakes, worst_scenes
from geopeft_cli.evaluation.overlaps import category_scores
from geopeft_cli.evaluation.scenes import evaluate_set
from geopeft_cli.recipe.dump import dump_recipe
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.reports.overlaps import CategoryScore
from geopeft_cli.reports.records import read_records
from geopeft_cli.reports.run_page import RunFacts, cost, run_page
from geopeft_cli.storage import new_file, refuse_existing
from geopeft_cli.tasks.segmentation import PartSegmentation
from geopeft_cli.training.precision import autocast, choose_device
from geopeft_cli.verbs.inspect import inspect_adapter
from geopeft_cli.verbs.opening import file_manifest, open_data, open_trained

REPORT, METRICS = "report.html", "metrics.jsonl"
TENSORS = "adapter/adapter_model.safetensors"

logger = logging.getLogger("geopeft")


def leave_report(run: Path, recipe: Recipe, model: Backbone, clouds: AnySet, found: Evaluation) -> None:
    """Write ``report.html`` into a run folder that is complete otherwise; a failure is a warning with its reason."""
    try:
        write_report(run / REPORT, run, recipe, model, clouds, found)
    except Exception as error:  # whatever it is, it must not take the result of hours with it
        reason = error.message if isinstance(error, GeopeftError) else f"{type(error).__name__}: {error}"
        logger.warning("%s was not written: %s", run / REPORT, reason)


def report_again(run: Path, file: Path, overrides: Sequence[str] = ()) -> None:
    """Measure a finished run on the test split of its data once more, and write its report into a new file.

    Args:
        run: the run folder.
        file: the report.
        overrides: ``key.sub=value`` over the recipe, such as ``data.root=PATH``.

    Raises:
        UsageError: it is no finished run, or the file exists.
        GeopeftError: anything else foreseeable.
    """
    refuse_existing(file, "Choose another --report, or remove it.", file=True)
    if not (run / METRICS).is_file() or not (run / TENSORS).is_file():
        raise UsageError(f"{run} is not a finished run", "A report needs a run folder that geopeft finetune has made.")
    opened = open_trained(run, overrides)
    recipe = opened.recipe
    clouds, device = open_data(opened).test, choose_device(recipe.training.device, scenes=recipe.of_scenes)
    if recipe.training.threads is not None:
        torch.set_num_threads(recipe.training.threads)
    batches = make_batches(recipe, clouds, "test", training=False, batch_size=recipe.evaluation.batch_size)
    precision = recipe.training.precision
    found = evaluate_set(opened.model.to(device), clouds, batches, device, lambda: autocast(precision, device))
    write_report(file, run, recipe, opened.model, clouds, found)


def write_report(file: Path, run: Path, recipe: Recipe, model: Backbone, clouds: AnySet, found: Evaluation) -> None:
    """Gather what a report shows and write it.

    Args:
        file: the report; one that is there is replaced.
        run: the run folder, with its log and its adapter.
        recipe: of the data and the measurement.
        model: as it was measured.
        clouds: the test split, of clouds or scenes.
        found: what came out for it.

    Raises:
        GeopeftError: something in the folder is damaged, or the file cannot be written.
    """
    page = run_page(_facts(run, recipe, model, clouds, found))
    with new_file(file) as partial:
        partial.write_text(page, encoding="utf-8")


def _facts(run: Path, recipe: Recipe, model: Backbone, clouds: AnySet, found: Evaluation) -> RunFacts:
    task = model.task
    assert task is not None
    manifest: Manifest = file_manifest(run / TENSORS)
    records = read_records(run / METRICS)
    summary = records[-1] if records else {}
    categories: dict[str, CategoryScore] = {}
    if isinstance(clouds, SceneSet):
        mistakes = worst_scenes(task, found, clouds)
    else:
        batches = make_cloud_batches(recipe, clouds, "test", training=False, batch_size=recipe.evaluation.batch_size)
        up = 2 if recipe.task.name == "scene_segmentation" or "rotate_z" in recipe.objects.augment else 1
        mistakes = worst_mistakes(task, found, clouds, batches, up)
    if isinstance(task, PartSegmentation):
        assert not isinstance(clouds, SceneSet)
        categories = category_scores(task, found, clouds)
    confusion = task.confusion(found.outcomes, found.targets)
    return RunFacts(
        recipe=recipe.model_dump(mode="json"),
        recipe_text=dump_recipe(recipe),
        selection=manifest.selection,
        records=records,
        metrics={**manifest.metrics, "test": found.metrics},
        clouds=len(clouds),
        classes=confusion.names,
        confusion=confusion.counts.tolist(),
        is_dense=task.is_dense,
        parameters=inspect_adapter(run).table,
        environment={**manifest.versions, **summary.get("environment", {}), **cost(summary)},
        mistakes=mistakes,
        categories=categories,
    )
