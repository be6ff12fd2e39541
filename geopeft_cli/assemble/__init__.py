"""From a recipe, or from an adapter, to a model and its data: the only room that sees all the others."""

from __future__ import annotations

from geopeft_cli.assemble.data import (
    AnySet,
    load_splits,
    loss_weights,
    make_batches,
    make_cloud_batches,
    make_pipeline,
    make_preparation,
    make_scene_batches,
    object_splits,
    vocabulary,
)
from geopeft_cli.assemble.model import Experiment, build, read_base, rebuild, rebuild_merged, skeleton

__all__ = [
    "AnySet",
    "Experiment",
    "build",
    "load_splits",
    "loss_weights",
    "make_batches",
    "make_cloud_batches",
    "make_pipeline",
    "make_preparation",
    "make_scene_batches",
    "object_splits",
    "read_base",
    "rebuild",
    "rebuild_merged",
    "skeleton",
    "vocabulary",
]
