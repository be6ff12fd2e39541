"""Train what a recipe describes, measure it, and leave a run folder."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geopeft_cli.adapters.directory import adapter_state, save_adapter
from geopeft_cli.adapters.manifest import Manifest, label_names
from geopeft_cli.assemble import AnySet, Experiment, make_batches
from geopeft_cli.contracts import Backbone, Foldable, SceneBackbone, Wrapper, load_official_state, memories
from geopeft_cli.data.clouds import Splits
from geopeft_cli.data.scenes import SceneSet, SceneSplits
from geopeft_cli.errors import UsageError
from geopeft_cli.evaluation.loop import Evaluation
from geopeft_cli.evaluation.scenes import evaluate_set
from geopeft_cli.recipe.dump import dump_recipe
from geopeft_cli.recipe.load import load_recipe
from geopeft_cli.recipe.locations import resolve_paths
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.reports.environment import environment, versions
from geopeft_cli.reports.memory import peak_memory
from geopeft_cli.reports.model_card import model_card
from geopeft_cli.reports.progress import ProgressBar, RunListener, TensorBoard
from geopeft_cli.reports.records import MetricsLog, read_records
from geopeft_cli.storage import new_file, refuse_existing
from geopeft_cli.tasks import task_class
from geopeft_cli.training.checkpoints import load_progress, seed_everything
from geopeft_cli.training.distribution import Ranks
from geopeft_cli.training.loop import Outcome, Plan, train
from geopeft_cli.training.precision import autocast, choose_device
from geopeft_cli.training.schedule import OneCycle, epochs_run
from geopeft_cli.verbs.preparing import prepare, weigh_labels
from geopeft_cli.verbs.remembering import remember
from geopeft_cli.verbs.report import METRICS, leave_report

logger = logging.getLogger("geopeft")

RECIPE, ADAPTER, CHECKPOINTS = "recipe.yaml", "adapter", "checkpoints"


@dataclass(frozen=True)
class Run:
    """A finished run: where it is and what came out.

    Attributes:
        folder: the run folder.
        selection: which epoch's weights were kept and how they were chosen, in words.
        metrics: figures in percent, by split.
        summary: the last record of ``metrics.jsonl``.
        next_verbs: the commands that can be given it.
    """

    folder: Path
    recipe: Recipe
    selection: str
    metrics: dict[str, dict[str, float]]
    summary: dict[str, Any] = field(default_factory=dict)
    next_verbs: tuple[str, ...] = ()


def finetune(
    source: str | Path, overrides: Sequence[str] = (), output: Path | None = None, resume: bool = False
) -> Run:
    """Run a recipe.

    Args:
        source: a recipe file or the name of a shipped one.
        overrides: ``key.sub=value``.
        output: the run folder, ``runs/NAME`` by default.
        resume: go on with the unfinished run in the folder, where there is one.

    Raises:
        GeopeftError: anything foreseeable; a run that had begun can be resumed.
    """
    recipe = resolve_paths(load_recipe(source, overrides))
    folder = output or Path("runs") / recipe.name
    if resume:
        check_same_recipe(folder, recipe)
        if (folder / ADAPTER).is_dir():
            raise UsageError(f"{folder} is finished", f"Measure it with geopeft eval {folder}.")
    else:
        refuse_existing(folder, "Go on with it by --resume, choose another --output, or remove it.")
    try:
        return run_recipe(recipe, folder)
    except KeyboardInterrupt:
        if (folder / RECIPE).is_file():
            logger.warning("go on with geopeft finetune %s --output %s --resume", folder / RECIPE, folder)
        raise


def run_recipe(recipe: Recipe, folder: Path) -> Run:
    """Run a recipe with absolute paths in its folder, from the last checkpoint where there is one.

    Raises:
        GeopeftError: as for :func:`finetune`.
    """
    if recipe.training.threads is not None:
        torch.set_num_threads(recipe.training.threads)
    with Ranks() as ranks:
        return _run(recipe, folder, ranks)


def finished(folder: Path) -> dict[str, Any] | None:
    """The last record of a run that came to its end, else ``None``."""
    log = folder / METRICS
    records = read_records(log) if log.is_file() and (folder / ADAPTER).is_dir() else []
    return records[-1] if records and "finished" in records[-1] else None


def _run(recipe: Recipe, folder: Path, ranks: Ranks) -> Run:
    started = time.perf_counter()
    settings = recipe.training
    if recipe.of_scenes and ranks.size > 1:
        raise UsageError("scenes train in one process", "Start geopeft without torchrun.")
    device = choose_device(settings.device, ranks.local_rank, scenes=recipe.of_scenes)
    seed_everything(recipe.seed)
    splits, experiment = prepare(recipe)
    weigh_labels(experiment, splits.train)
    model = experiment.model.to(device)
    memory = None
    if not isinstance(splits.train, SceneSet):
        memory = remember(experiment, splits.train, device)
        _check_share(model, min(settings.batch_size, len(splits.train)), ranks)
    batches = make_batches(recipe, splits.train, "train", training=True, batch_size=settings.batch_size)
    watched = _watched_split(recipe, splits)
    measure_watched = None if watched is None else _measuring(experiment, device, *watched)

    done = load_progress(folder / CHECKPOINTS)
    if done and done.recipe_digest != digest(recipe):
        raise UsageError(f"{folder} was started with another recipe than {folder / RECIPE} is now", "Undo the change.")
    if done:
        _check_same_memory(folder, model, done.tensors)
    if ranks.is_first:
        with new_file(folder / RECIPE) as partial:
            partial.write_text(dump_recipe(recipe), encoding="utf-8")
    listener = RunListener(
        ProgressBar() if ranks.is_first else None,
        MetricsLog(folder / METRICS, done.epoch if done else 0) if ranks.is_first else None,
        TensorBoard(folder / "tensorboard") if ranks.is_first and settings.tensorboard else None,
    )
    plan_fields = {name: getattr(settings, name) for name in Plan.__dataclass_fields__}
    plan_fields["groups"] = experiment.own_groups
    plan_fields["one_cycle"] = OneCycle(**settings.one_cycle.model_dump()) if settings.one_cycle else OneCycle()
    try:
        outcome = train(
            model,
            experiment.method,
            experiment.task,
            batches,
            Plan(**plan_fields),
            device=device,
            folder=folder / CHECKPOINTS,
            collect=lambda: adapter_state(model, experiment.fresh),
            evaluate=None if measure_watched is None else lambda: measure_watched().metrics,
            listener=listener,
            ranks=ranks,
            recipe_digest=digest(recipe),
            seed=recipe.seed,
        )
    finally:
        listener.close()

    load_official_state(model, outcome.tensors)
    experiment.method.start_epoch(outcome.epoch, epochs_run(settings.schedule, settings.epochs))
    tested = _measuring(experiment, device, "test", splits.test)()
    metrics = {"test": tested.metrics}
    if splits.validation is not None and len(splits.validation):
        metrics["validation"] = _measuring(experiment, device, "validation", splits.validation)().metrics
    selection = describe_selection(recipe, outcome)
    if not ranks.is_first:
        return Run(folder, recipe, selection, metrics)
    _save(folder / ADAPTER, experiment, outcome, metrics, selection, memory)
    epochs = [record for record in read_records(folder / METRICS) if "epoch" in record]
    summary = {
        "finished": True,
        "selection": selection,
        **metrics,
        "trainable_parameters": experiment.trainable_parameters,
        "total_parameters": experiment.total_parameters,
        "adapter_bytes": (folder / ADAPTER / "adapter_model.safetensors").stat().st_size,
        "seconds": sum(record["seconds"] for record in epochs),
        "seconds_per_step": float(np.median([record["seconds_per_step"] for record in epochs])),
        "wall_seconds": time.perf_counter() - started,
        "peak_memory_bytes": peak_memory(device),
        "environment": environment(device),
    }
    MetricsLog.append(folder / METRICS, summary)
    leave_report(folder, recipe, model, splits.test, tested)
    return Run(folder, recipe, selection, metrics, summary, next_verbs(model))


def next_verbs(model: Backbone) -> tuple[str, ...]:
    """What can be done with a trained model: merging where all of its layers can be, programs of objects' networks."""
    wrappers = (module for module in model.modules() if isinstance(module, Wrapper))
    merge = ("merge",) if all(isinstance(module, Foldable) for module in wrappers) else ()
    return "eval", *merge, *(() if isinstance(model, SceneBackbone) else ("export",)), "inspect"


def _measuring(experiment: Experiment, device: torch.device, part: str, found: AnySet) -> Callable[[], Evaluation]:
    """A function that measures the experiment's model, as it is at the call, on a part of its data."""
    recipe = experiment.recipe
    batches = make_batches(recipe, found, part, training=False, batch_size=recipe.evaluation.batch_size)

    def measure() -> Evaluation:
        precision = recipe.training.precision
        return evaluate_set(experiment.model, found, batches, device, lambda: autocast(precision, device))

    return measure


def digest(recipe: Recipe) -> str:
    """A short fingerprint of a resolved recipe."""
    return hashlib.sha256(dump_recipe(recipe).encode()).hexdigest()[:16]


def describe_selection(recipe: Recipe, outcome: Outcome) -> str:
    """``last of 300 epochs``, or how the best one was chosen, which for the test split says so plainly."""
    select = recipe.training.select
    total = epochs_run(recipe.training.schedule, recipe.training.epochs)
    if select == "last" or outcome.score is None:
        return f"last of {total} epochs"
    split = "validation" if select == "best_validation" else "TEST"
    note = "; chosen on the test split: not an unbiased figure" if select == "best_test" else ""
    score = task_class(recipe.task.name).score
    figure = f"{outcome.score:.2f} %" if score == "accuracy" else f"{score.replace('_', ' ')} {outcome.score:.2f} %"
    return f"epoch {outcome.epoch + 1} of {total}, best on the {split} split ({figure}){note}"


def _check_share(model: Backbone, batch: int, ranks: Ranks) -> None:
    """Every process needs the same number of clouds, and batch normalization that trains more than one."""
    if batch % ranks.size:
        raise UsageError(f"training.batch_size: a batch of {batch} clouds does not divide among {ranks.size} processes")
    norms = (module for module in model.train().modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    if batch == ranks.size and any(norm.training for norm in norms):
        raise UsageError(
            f"training.batch_size: {batch} is one cloud for a step of a process",
            "Batch normalization needs at least two: use a larger batch, or task.head: linear with a frozen backbone.",
        )


def _watched_split(recipe: Recipe, splits: Splits | SceneSplits) -> tuple[str, AnySet] | None:
    """The split measured during training: the test split only where the recipe selects by it."""
    if recipe.training.select == "best_test":
        return "test", splits.test
    if splits.validation is not None and len(splits.validation):
        return "validation", splits.validation
    return None


def check_same_recipe(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder that holds something else than a run, or the run of another recipe.

    Raises:
        UsageError: it does; what differs is named.
    """
    path = folder / RECIPE
    if not path.is_file():
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not a run: it has no {RECIPE}", "Choose another --output.")
        return
    former = load_recipe(path)
    if digest(former) == digest(recipe):
        return
    changed = ", ".join(_differences(former.model_dump(), recipe.model_dump()))
    raise UsageError(
        f"{folder} was started with another recipe: {changed} differ",
        "Resume with the same recipe and arguments, or start a new run with another --output.",
    )


def _check_same_memory(folder: Path, model: Backbone, tensors: dict[str, Tensor]) -> None:
    for path, memory in memories(model).items():
        if not torch.equal(tensors[f"{path}.columns"], memory.columns.cpu()):
            raise UsageError(
                f"{folder}: the training clouds or the checkpoint are not those that the run remembers",
                "Undo the change, or start a new run with another --output.",
            )


def _differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in dict.fromkeys([*a, *b]):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += _differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append(f"{prefix}{key}")
    return found


def _save(
    folder: Path, experiment: Experiment, outcome: Outcome, metrics: dict[str, dict[str, float]], selection: str,
    memory: dict[str, Any] | None,
) -> None:  # fmt: skip
    recipe = experiment.recipe.model_dump(mode="json")
    facts: dict[str, Any] = {
        "recipe": recipe,
        **label_names(experiment.task.settings()),
        "base_sha256": experiment.checkpoint.sha256,
        "trainable_parameters": experiment.trainable_parameters,
        "total_parameters": experiment.total_parameters,
        "metrics": metrics,
    }
    manifest = Manifest(
        **facts,
        backbone=experiment.model.settings(),
        fresh=list(experiment.fresh),
        memory=memory,
        selection={"epoch": outcome.epoch, "text": selection},
        versions=versions(),
    )
    tensors: dict[str, Tensor] = outcome.tensors
    card = model_card(**facts, selection=selection)
    save_adapter(
        folder, experiment.model, tensors, manifest, experiment.method.name, experiment.method.settings(), card
    )
