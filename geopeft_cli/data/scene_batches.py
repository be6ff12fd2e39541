"""Samples of scenes packed into tensors: one after the other, with offsets, and mixed in pairs in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from geopeft_cli.contracts import Scenes
from geopeft_cli.data.scene_voxels import voxel_table
from geopeft_cli.data.scenes import Float32, Scene
from geopeft_cli.errors import DataError, UsageError

SONATA_FEATURES = ("coordinates", "colors", "normals")
PTV3_FEATURES = ("colors", "normals")
LIDAR_FEATURES = ("coordinates", "strength")

FEATURE_WIDTHS = {"coordinates": 3, "colors": 3, "normals": 3, "strength": 1}


@dataclass(frozen=True)
class SceneBatch:
    """Packed samples for a step of training.

    Attributes:
        scenes: what a network reads.
        labels: int64 (N,), indices into the classes, or ``IGNORED``.
        names: of the samples; more than the scenes where these are mixed.
    """

    scenes: Scenes
    labels: Tensor
    names: tuple[str, ...]


def feature_width(names: Sequence[str]) -> int:
    """How many channels these features have.

    Raises:
        UsageError: one is unknown.
    """
    for name in names:
        if name not in FEATURE_WIDTHS:
            raise UsageError(f"data.features: unknown {name!r}", f"There is: {', '.join(FEATURE_WIDTHS)}.")
    return sum(FEATURE_WIDTHS[name] for name in names)


def scene_features(scene: Scene, names: Sequence[str]) -> Float32:
    """What a network reads of every point, float32 (n, C): the arrays called so, side by side.

    Raises:
        UsageError: a name is unknown, or the scene lacks the array.
    """
    feature_width(names)
    for name in names:
        if getattr(scene, name) is None:
            raise UsageError(
                f"data.features: scene {scene.name} has no {name}", "Leave it out, or set what stands in for it."
            )
    return np.concatenate([getattr(scene, name) for name in names], axis=1).astype(np.float32)


def packed(scenes: Sequence[Scene], features: Sequence[str] = SONATA_FEATURES) -> SceneBatch:
    """Pack samples, whose points have voxels.

    Raises:
        UsageError: there is none, one has no voxels, or one lacks a feature.
        DataError: one has no points, or a feature that is not finite.
    """
    if not scenes:
        raise UsageError("a batch of no scenes")
    for scene in scenes:
        if not len(scene):
            raise DataError(f"scene {scene.name} has no points", "Leave it out.")
    voxels = [scene.voxels for scene in scenes if scene.voxels is not None]
    if len(voxels) < len(scenes):
        raise UsageError("a batch of scenes without voxels", "Apply grid_sample first.")
    offsets = np.cumsum([0, *map(len, scenes)])
    coordinates = np.concatenate([scene.coordinates.astype(np.float32) for scene in scenes])
    inputs = np.concatenate([_finite(scene_features(scene, features), scene.name) for scene in scenes])
    parts = coordinates, np.concatenate(voxels), inputs, offsets
    labels = torch.from_numpy(np.concatenate([scene.labels for scene in scenes]))
    return SceneBatch(Scenes(*map(torch.from_numpy, parts)), labels, tuple(scene.name for scene in scenes))


def _finite(features: Float32, name: str) -> Float32:
    damaged = int((~np.isfinite(features).all(axis=1)).sum())
    if damaged:
        raise DataError(
            f"scene {name}: features of {damaged} of {len(features)} points are not finite",
            "Remove or repair these points.",
        )
    return features


def mix3d(
    batch: SceneBatch, generator: np.random.Generator, probability: float = 0.8, grid: float | None = None
) -> SceneBatch:
    """With ``probability``, make one scene of every pair of neighbors in a batch (Nekrasov et al., 3DV 2021).

    An odd last scene stays alone. Scenes keep their own coordinates, and so overlap; as released, they keep their
    voxels too, each counted from its own lowest, and may share some.

    Args:
        batch: of training samples.
        generator: of the one draw.
        probability: of mixing, all pairs or none.
        grid: edge of a voxel, meters, to count the voxels of mixed scenes anew from their coordinates.
    """
    scenes = batch.scenes
    if generator.random() >= probability or len(scenes.offsets) < 3:
        return batch
    offsets = scenes.offsets[::2]
    if len(scenes.offsets) % 2 == 0:
        offsets = torch.cat([offsets, scenes.offsets[-1:]])
    voxels = scenes.voxels
    if grid is not None:
        coordinates = scenes.coordinates.numpy()
        parts = [voxel_table(coordinates[low:high], grid).voxels for low, high in pairwise(offsets.tolist())]
        voxels = torch.from_numpy(np.concatenate(parts))
    return replace(batch, scenes=replace(scenes, offsets=offsets, voxels=voxels))
