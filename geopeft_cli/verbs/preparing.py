"""From a recipe to data and model, everything checked that can be before training."""

from __future__ import annotations

import logging

from geopeft_cli.assemble import AnySet, Experiment, build, load_splits, loss_weights, vocabulary
from geopeft_cli.data.clouds import Splits
from geopeft_cli.data.scenes import SceneSplits
from geopeft_cli.errors import UsageError
from geopeft_cli.recipe.schema import Recipe
from geopeft_cli.tasks.segmentation import SceneSegmentation
from geopeft_cli.tasks.voxel_segmentation import VoxelSegmentation
from geopeft_cli.training.schedule import parameter_groups

logger = logging.getLogger("geopeft")


def prepare(recipe: Recipe) -> tuple[Splits | SceneSplits, Experiment]:
    """Data and model of a recipe.

    Raises:
        UsageError, DataError, CheckpointError: what the recipe asks for is not there or does not fit.
    """
    splits = load_splits(recipe)
    if recipe.training.select == "best_validation" and splits.validation is None:
        raise UsageError("training.select: best_validation needs a validation split, and the data has none")
    experiment = build(recipe, vocabulary(splits.train))
    parameter_groups(experiment.model, recipe.training.weight_decay, experiment.own_groups)
    if experiment.checkpoint.head and recipe.task.head_from == "fresh":
        logger.warning("%s: its head is not used (task.head_from: fresh)", recipe.backbone.checkpoint)
    return splits, experiment


def weigh_labels(experiment: Experiment, train: AnySet) -> None:
    """Give the task the weights of its labels; where they are unequal, all of the training set is read.

    Raises:
        DataError: no point has a label.
    """
    if isinstance(experiment.task, SceneSegmentation | VoxelSegmentation):
        experiment.task.weights = loss_weights(experiment.recipe, train)
