"""Adapters that were not trained but made: their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from geopeft_cli.adapters.directory import write_adapter
from geopeft_cli.adapters.manifest import Manifest
from geopeft_cli.assemble import Experiment
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.reports.model_card import model_card


def write_made(folder: Path, experiment: Experiment, tensors: Mapping[str, Tensor], manifest: Manifest) -> None:
    """Write an adapter, its configuration and its card into a folder that exists.

    Args:
        folder: the directory.
        experiment: the model that the adapter belongs to.
        tensors: of the adapter, by official name.
        manifest: its record.
    """
    card = model_card(
        recipe=Recipe.model_validate(manifest.recipe).model_dump(mode="json"),  # in the order of the schema
        classes=manifest.classes,
        base_sha256=manifest.base_sha256,
        trainable_parameters=manifest.trainable_parameters,
        total_parameters=manifest.total_parameters,
        metrics=manifest.metrics,
        selection=manifest.selection["text"],
        part_names=manifest.part_names,
        parts=manifest.parts,
    )
    method = experiment.method
    write_adapter(folder, experiment.model, tensors, manifest, method.name, method.settings(), card)
