"""Samples of scenes packed into tensors: one after the other, with offsets, and mixed in pairs in training."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from geopeft_cli.contracts import Scenes
from geopeft_cli.data.keys import keyed_generator
from geopeft_cli.data.prefetch import prefetched
from geopeft_cli.data.scene_pipelines import ScenePipeline, TrainingScenes
from geopeft_cli.data.scene_voxels import voxel_table
from geopeft_cli.data.scenes import Float32, Int64, Scene, SceneSet
from geopeft_cli.errors import DataError, UsageError

SONATA_FEATURES = ("coordinates", "colors", "normals")
PTV3_FEATURES = ("colors", "normals")
LIDAR_FEATURES = ("coordinates", "strength")

FEATURE_WIDTHS = {"coordinates": 3, "colors": 3, "normals": 3, "strength": 1}


@dataclass(frozen=True)
class SceneBatch:
    """Packed samples.

    Attributes:
        scenes: what a network reads.
        labels: int64 (N,), indices into the classes, or ``IGNORED``.
        names: of the samples; more than the scenes where these are mixed.
        rows: in testing, for every point of every scene as stored its row in the batch, an array a scene.
        truth: in testing, the labels of these points.
    """

    scenes: Scenes
    labels: Tensor
    names: tuple[str, ...]
    rows: tuple[Int64, ...] = ()
    truth: tuple[Int64, ...] = ()

    @property
    def points(self) -> Scenes:
        """What the model is given, as of other batches."""
        return self.scenes


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
                f"data.features: scene {scene.name} has no {name}",
                "Leave it out." if name == "strength" else f"Leave it out, or set data.absent.{name}.",
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


@dataclass(frozen=True)
class Mix3D:
    """How scenes are mixed in training; see :func:`mix3d`."""

    probability: float = 0.8
    grid: float | None = None


class SceneBatches:
    """A set of scenes as batches, prepared one ahead in a background thread.

    In training the order, the points of the voxels, the augmentation, the crop and the mixing are new in every epoch,
    and a last batch that is not full is left out unless it is the only one. In testing there is one order, the stored
    one, with whole scenes. Draws are keyed by (seed, epoch, index of the scene), those of mixing by the batch.

    Args:
        scenes: the set.
        pipeline: what makes samples of them.
        features: what a network reads of a voxel.
        batch_size: scenes in a batch.
        seed: of all draws.
        training: which of the two ways.
        purpose: what messages call the set; "train" for example.
        mix: in training; None for no mixing.
        repeat: passes over the set in an epoch of training.

    Raises:
        DataError: the set is empty.
    """

    def __init__(
        self,
        scenes: SceneSet,
        pipeline: ScenePipeline,
        features: Sequence[str],
        *,
        batch_size: int,
        seed: int,
        training: bool,
        purpose: str,
        mix: Mix3D | None = None,
        repeat: int = 1,
    ) -> None:
        if not len(scenes):
            raise DataError(f"the {purpose} set has no scenes", "Check the split of the data.")
        self.scenes, self.pipeline, self.features = scenes, pipeline, tuple(features)
        self._batch_size, self._seed, self._training, self._mix = batch_size, seed, training, mix
        self._repeat = repeat if training else 1
        self._samples = TrainingScenes(scenes, pipeline.training, seed)

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(self._repeat * len(self.scenes), self._batch_size)
        return full if self._training and full else full + (rest > 0)

    def epoch(self, epoch: int) -> Generator[SceneBatch, None, None]:
        """One pass; ``epoch`` selects the draws in training and means nothing in testing."""
        order = np.arange(self._repeat * len(self.scenes))
        if self._training:
            order = keyed_generator(self._seed, "scenes", epoch, "order").permutation(len(order))
        size = self._batch_size
        chunks = [order[start : start + size] for start in range(0, len(order), size)][: len(self)]
        make = self._trained if self._training else self._tested
        yield from prefetched(partial(make, epoch, number, chunk) for number, chunk in enumerate(chunks))

    def _trained(self, epoch: int, number: int, chunk: Int64) -> SceneBatch:
        count = len(self.scenes)
        samples = [self._samples.sample(epoch * self._repeat + at // count, at % count) for at in chunk.tolist()]
        batch = packed(samples, self.features)
        if self._mix is None:
            return batch
        generator = keyed_generator(self._seed, "mix3d", epoch, number)
        return mix3d(batch, generator, self._mix.probability, self._mix.grid)

    def _tested(self, epoch: int, number: int, chunk: Int64) -> SceneBatch:
        scenes = [self.scenes[at] for at in chunk.tolist()]
        views = [self.pipeline.view(scene) for scene in scenes]
        batch = packed([view.scene for view in views], self.features)
        starts = batch.scenes.offsets[:-1].tolist()
        rows = tuple(start + view.inverse for start, view in zip(starts, views, strict=True))
        return replace(batch, rows=rows, truth=tuple(scene.labels for scene in scenes))
