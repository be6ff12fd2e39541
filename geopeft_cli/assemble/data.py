"""From a recipe to its data."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from geopeft_cli.contracts import Vocabulary
from geopeft_cli.data.batches import Batches
from geopeft_cli.data.clouds import IGNORED, CloudSet, Labels, Splits
from geopeft_cli.data.preparation import Preparation
from geopeft_cli.data.s3dis_blocks import S3DISBlocks, label_weights
from geopeft_cli.data.scene_batches import Mix3D, SceneBatches
from geopeft_cli.data.scene_classes import SEMANTIC_KITTI_WEIGHTS
from geopeft_cli.data.scene_pipelines import IndoorTraining, LidarTraining, PlainTraining, ScenePipeline, Training
from geopeft_cli.data.scene_protocols import class_counts, class_weights
from geopeft_cli.data.scene_sources import in_meters, limited, scene_splits_for
from geopeft_cli.data.scenes import SceneSet, SceneSplits
from geopeft_cli.data.sources import splits_for
from geopeft_cli.errors import UsageError
from geopeft_cli.recipe.backbones import ObjectBackboneSection
from geopeft_cli.recipe.scene_data import SceneDataSettings
from geopeft_cli.recipe.schema import Recipe, SceneSegmentationTask, VoxelSegmentationTask

AnySet: TypeAlias = CloudSet | SceneSet

# Of clouds and of scenes: what is not said of their source.
PREPARATION = ("points", "normalize", "sampling", "augment", "on_error")
SCENE_PREPARATION = tuple(SceneDataSettings.model_fields)


def load_splits(recipe: Recipe) -> Splits | SceneSplits:
    """The clouds or scenes of a recipe, in parts."""
    data = recipe.data
    values = data.model_dump()
    if isinstance(data, SceneDataSettings):
        source = {key: value for key, value in values.items() if key not in SCENE_PREPARATION}
        found = scene_splits_for(**{"seed": recipe.seed, **source})
        return in_meters(limited(found, data.limited_scenes, data.limited_points), data.scale)
    source = {key: value for key, value in values.items() if key not in PREPARATION}
    if data.format == "folder":
        source |= {"points": data.points, "on_error": data.on_error}
    if data.format in ("shapes", "s3dis_blocks"):
        source |= {"points": data.points}
    if data.format != "shapes":
        source |= {"seed": recipe.seed}
    return splits_for(**source)


def object_splits(recipe: Recipe, what: str) -> Splits:
    """The clouds of a recipe that is about objects.

    Raises:
        UsageError: it is about scenes, which ``what`` is not for.
    """
    splits = load_splits(recipe)
    if not isinstance(splits, Splits):
        raise UsageError(f"{what} is for objects, and {recipe.name} is a recipe of scenes")
    return splits


def vocabulary(found: AnySet) -> Vocabulary:
    """The names of the labels of a set."""
    return Vocabulary(tuple(found.classes)) if isinstance(found, SceneSet) else Vocabulary.of(found)


def make_preparation(recipe: Recipe) -> Preparation:
    """How a recipe's clouds are normalized and their points drawn."""
    data, backbone = recipe.objects, recipe.backbone
    assert isinstance(backbone, ObjectBackboneSection)
    return Preparation(data.points, data.normalize, data.sampling, backbone.near_origin)


def make_pipeline(recipe: Recipe) -> ScenePipeline:
    """How a recipe's scenes become samples."""
    data = recipe.data
    assert isinstance(data, SceneDataSettings)
    crop = data.crop.share, data.crop.voxels
    training: Training
    if data.augment == "lidar":
        training = LidarTraining(data.grid)
    elif data.augment == "indoor":
        training = IndoorTraining(data.grid, (data.dropout.share, data.dropout.probability), data.elastic, *crop)
    else:
        training = PlainTraining(data.grid, *crop)
    return ScenePipeline(training, data.grid, data.test_grid)


def make_batches(
    recipe: Recipe, found: AnySet, purpose: str, *, training: bool, batch_size: int
) -> Batches | SceneBatches:
    """Batches of prepared clouds or scenes; ``purpose`` names the part and keys its random draws."""
    make: Any = make_scene_batches if isinstance(found, SceneSet) else make_cloud_batches
    batches: Batches | SceneBatches = make(recipe, found, purpose, training=training, batch_size=batch_size)
    return batches


def make_cloud_batches(recipe: Recipe, clouds: CloudSet, purpose: str, *, training: bool, batch_size: int) -> Batches:
    """:func:`make_batches` for clouds."""
    return Batches(
        clouds,
        make_preparation(recipe),
        batch_size=batch_size,
        seed=recipe.seed,
        augment=recipe.objects.augment if training else (),
        training=training,
        purpose=purpose,
    )


def make_scene_batches(
    recipe: Recipe, scenes: SceneSet, purpose: str, *, training: bool, batch_size: int
) -> SceneBatches:
    """:func:`make_batches` for scenes."""
    data = recipe.data
    assert isinstance(data, SceneDataSettings)
    mix = None
    if data.mix3d is not None:
        mix = Mix3D(data.mix3d.probability, data.grid if data.mix3d.grid == "recompute" else None)
    return SceneBatches(
        scenes,
        make_pipeline(recipe),
        data.features,
        batch_size=batch_size,
        seed=recipe.seed,
        training=training,
        purpose=purpose,
        mix=mix,
        repeat=data.repeat,
    )


def loss_weights(recipe: Recipe, train: AnySet) -> Tensor | None:
    """Of the labels of points in the loss, float32 (labels,); ``None`` where all weigh the same."""
    task = recipe.task
    if isinstance(task, SceneSegmentationTask) and task.class_weights == "cube_root":
        assert not isinstance(train, SceneSet)
        return torch.from_numpy(label_weights(_point_counts(train))).float()
    if isinstance(task, VoxelSegmentationTask) and task.class_weights != "equal":
        assert isinstance(train, SceneSet)
        if task.class_weights == "published":
            return torch.tensor(SEMANTIC_KITTI_WEIGHTS)
        return torch.from_numpy(class_weights(class_counts(train), task.class_weights)).float()
    return None


def _point_counts(clouds: CloudSet) -> Labels:
    """How many points of each label a set has, int64 (labels,)."""
    if isinstance(clouds, S3DISBlocks):
        return clouds.point_counts()
    count = len(clouds.part_names)
    counts = np.zeros(count, dtype=np.int64)
    for index in range(len(clouds)):
        labels = clouds[index].point_labels
        assert labels is not None
        counts += np.bincount(labels[labels != IGNORED], minlength=count)
    return counts
