"""From a path that a user gives (run, adapter, merged file) to the model that it means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from geopeft_cli.adapters.directory import read_adapter
from geopeft_cli.adapters.header import read_header
from geopeft_cli.adapters.manifest import HEADER_KEY, Manifest
from geopeft_cli.adapters.peft_layout import find_adapter
from geopeft_cli.assemble import (
    Experiment,
    load_splits,
    make_cloud_batches,
    make_scene_batches,
    rebuild,
    rebuild_merged,
)
from geopeft_cli.contracts import Backbone, Scenes
from geopeft_cli.data.clouds import Labels, Splits, Subset
from geopeft_cli.data.scenes import MemoryScenes, Scene, SceneSet, SceneSplits, SomeScenes
from geopeft_cli.errors import DataError, UsageError
from geopeft_cli.recipe.load import parse_recipe
from geopeft_cli.recipe.scene_data import SceneDataSettings
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.verbs.foreign import adopt

CHECKED_SCENES = 4


@dataclass(frozen=True)
class Opened:
    """A trained model and its record.

    Attributes:
        model: in eval mode, on the CPU.
        recipe: the adapter's own, with the user's overrides.
        manifest: the adapter's record.
        source: where it came from.
        experiment: how it was built, unless it was merged.
    """

    model: Backbone
    recipe: Recipe
    manifest: Manifest
    source: Path
    experiment: Experiment | None = None


def open_trained(path: Path, overrides: Sequence[str] = ()) -> Opened:
    """Rebuild the model behind a run folder, an adapter directory, or a merged safetensors file.

    A LoRA adapter of Hugging Face peft needs backbone and data among the overrides, since it records neither.

    Args:
        path: what the user gives.
        overrides: ``key.sub=value`` over the recipe in the adapter, such as ``backbone.checkpoint=PATH``.

    Raises:
        UsageError: nothing usable is there.
        AdapterError, CheckpointError: damaged, or made for another base.
    """
    if path.is_file():
        manifest = file_manifest(path)
        recipe = recorded_recipe(manifest, path, overrides)
        return Opened(rebuild_merged(path, manifest, recipe), recipe, manifest, path)
    folder = find_adapter(path)
    adapter = read_adapter(folder)
    if adapter.manifest is None:
        experiment, manifest = adopt(adapter, overrides)
        return Opened(experiment.model, experiment.recipe, manifest, folder, experiment)
    recipe = recorded_recipe(adapter.manifest, folder, overrides)
    experiment = rebuild(recipe, adapter)
    return Opened(experiment.model, recipe, adapter.manifest, folder, experiment)


def open_unmerged(path: Path, overrides: Sequence[str] = ()) -> Opened:
    """:func:`open_trained` for what has an update of its own.

    Raises:
        UsageError: a merged file.
    """
    opened = open_trained(path, overrides)
    if opened.manifest.merged is not None:
        raise UsageError(f"{path} is merged already", "Merge the run or the adapter that it was made from.")
    return opened


def file_manifest(path: Path) -> Manifest:
    """The record of a merged file.

    Raises:
        UsageError: a file without one.
        AdapterError: damaged.
    """
    header = read_header(path)
    if HEADER_KEY not in header.metadata:
        raise UsageError(
            f"{path} is a checkpoint, not a run or an adapter", f"See what it holds with geopeft inspect {path}."
        )
    return Manifest.from_text(header.metadata[HEADER_KEY], str(path))


def recorded_recipe(manifest: Manifest, source: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the record of ``source``, with the user's overrides.

    Raises:
        RecipeError: an override is wrong.
    """
    return parse_recipe(json.dumps(manifest.recipe), f"the recipe in {source}", overrides)


def open_data(opened: Opened) -> Splits | SceneSplits:
    """The clouds or scenes of the recipe, whose classes must be those of the adapter.

    Raises:
        DataError: the data has other classes.
    """
    splits = load_splits(opened.recipe)
    _require_same("classes", splits.test.classes, opened.manifest.classes, opened.source)
    if opened.manifest.part_names and isinstance(splits, Splits):
        _require_same("labels of points", splits.test.part_names, opened.manifest.part_names, opened.source)
    return splits


def _require_same(what: str, found: Sequence[str], known: Sequence[str], source: Path) -> None:
    if len(found) != len(known):
        detail = f"it has {len(found)} {what}, the adapter {len(known)}"
    else:
        other = next(((a, b) for a, b in zip(found, known, strict=True) if a != b), None)
        if other is None:
            return
        detail = f"it has {other[0]!r} where the adapter has {other[1]!r}"
    raise DataError(f"the data does not have the {what} that {source} was trained on: {detail}")


def check_clouds(opened: Opened, count: int = 64) -> tuple[Sequence[Tensor] | Sequence[Scenes], str]:
    """Batches of prepared clouds on which a result is held against the model, and what they are in words.

    They are spread over the recipe's training split, or over simulated scans where its data is not on this machine.
    Of scenes there are fewer, each a batch.
    """
    recipe, note = opened.recipe, "of the training split"
    try:
        splits = load_splits(recipe)
    except (UsageError, DataError):
        recipe, note = _simulated(recipe), "simulated, since the recipe's data is not here"
        splits = load_splits(recipe)
    if isinstance(splits, SceneSplits):
        some: SceneSet = SomeScenes(splits.train, _spread(len(splits.train), min(count, CHECKED_SCENES)))
        if recipe is not opened.recipe:
            some = MemoryScenes([_lit(some[index]) for index in range(len(some))], some.classes)
        views = make_scene_batches(recipe, some, "check", training=False, batch_size=1)
        return [batch.points for batch in views.epoch(0)], f"{len(some)} scenes {note}"
    chosen = Subset(splits.train, _spread(len(splits.train), count))
    batches = make_cloud_batches(recipe, chosen, "check", training=False, batch_size=16)
    return [batch.points for batch in batches.epoch(0)], f"{len(chosen)} clouds {note}"


def _simulated(recipe: Recipe) -> Recipe:
    """The recipe with embedded data in place of its own, prepared as that is."""
    data = recipe.data
    values: dict[str, Any]
    if isinstance(data, SceneDataSettings):
        values = {"format": "rooms", "grid": data.grid, "features": data.features, "augment": data.augment}
    else:
        values = {"format": "shapes", "points": data.points, "normalize": data.normalize}
    return Recipe.model_validate({**recipe.model_dump(), "data": values})


def _lit(room: Scene) -> Scene:
    """The embedded rooms have no laser's strength; how red a point is stands in."""
    assert room.colors is not None
    return replace(room, strength=room.colors[:, :1] / np.float32(255))


def _spread(size: int, count: int) -> Labels:
    """``count`` indices below ``size``, at even distances, or all."""
    return np.unique(np.linspace(0, size - 1, count).round().astype(np.int64))
