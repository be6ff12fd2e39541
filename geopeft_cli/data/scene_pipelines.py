"""The published orders of changes that make a sample of a scene: for training, for validation, and for testing.

Indoor sets follow Pointcept's recipes of Sonata and PTv3, LiDAR frames those of SemanticKITTI.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from geopeft_cli.data import scene_motions
from geopeft_cli.data.keys import keyed_generator
from geopeft_cli.data.scene_colors import (
    chromatic_contrast,
    chromatic_jitter,
    chromatic_translation,
    normalize_colors,
)
from geopeft_cli.data.scene_motions import center_shift, random_flip, random_jitter, random_rotate, random_scale
from geopeft_cli.data.scene_subsets import random_dropout, sphere_crop
from geopeft_cli.data.scene_voxels import VoxelSample, fragments, grid_sample, voxel_table
from geopeft_cli.data.scenes import Scene, SceneSet

Training = Callable[[Scene, np.random.Generator], Scene]
View = Callable[[Scene], Scene]

_ORIGIN = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class IndoorTraining:
    """A training sample of a room.

    Attributes:
        grid: edge of a voxel, meters.
        dropout: which share of the points may be left out, and with which probability.
        elastic: whether the room is bent.
        share: of the voxels, which a first crop keeps; None for no such crop.
        most: voxels that are kept.
    """

    grid: float = 0.02
    dropout: tuple[float, float] = (0.2, 1.0)
    elastic: bool = True
    share: float | None = None
    most: int = 102_400

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        """The scene changed, one point a voxel, colors 0 to 1."""
        scene = random_dropout(center_shift(scene), generator, *self.dropout)
        scene = random_rotate(scene, generator, "z", center=_ORIGIN)
        scene = random_rotate(scene, generator, "x", (-1 / 64, 1 / 64))
        scene = random_rotate(scene, generator, "y", (-1 / 64, 1 / 64))
        scene = random_jitter(random_flip(random_scale(scene, generator), generator), generator)
        if self.elastic:
            scene = scene_motions.elastic_distortion(scene, generator)
        scene = chromatic_translation(chromatic_contrast(scene, generator), generator)
        scene = grid_sample(chromatic_jitter(scene, generator), generator, self.grid).scene
        return normalize_colors(center_shift(_cropped(scene, generator, self.share, self.most), vertical=False))


@dataclass(frozen=True)
class LidarTraining:
    """A training sample of a LiDAR frame, which keeps its place around the sensor.

    Attributes:
        grid: edge of a voxel, meters.
        low: corner of the box into which points are moved; before voxels are made, so that both agree.
        high: the opposite corner.
    """

    grid: float = 0.05
    low: tuple[float, float, float] = (-35.2, -35.2, -4.0)
    high: tuple[float, float, float] = (35.2, 35.2, 2.0)

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        """The frame changed, one point a voxel."""
        scene = random_rotate(scene, generator, "z", center=_ORIGIN)
        scene = random_scale(scene_motions.point_clip(scene, self.low, self.high), generator)
        scene = random_jitter(random_flip(scene, generator), generator)
        return normalize_colors(grid_sample(scene, generator, self.grid).scene)


@dataclass(frozen=True)
class PlainTraining:
    """A training sample without augmentation: other points of the voxels in every epoch, and another crop.

    Attributes:
        grid: edge of a voxel, meters.
        share: of the voxels, which a first crop keeps; None for no such crop.
        most: voxels that are kept.
    """

    grid: float = 0.02
    share: float | None = None
    most: int = 102_400

    def __call__(self, scene: Scene, generator: np.random.Generator) -> Scene:
        """The scene, one point a voxel, colors 0 to 1."""
        scene = grid_sample(center_shift(scene), generator, self.grid).scene
        return normalize_colors(center_shift(_cropped(scene, generator, self.share, self.most), vertical=False))


def _cropped(scene: Scene, generator: np.random.Generator, share: float | None, most: int) -> Scene:
    if share is not None:
        scene = sphere_crop(scene, generator, share=share)
    return sphere_crop(scene, generator, most=most)


def indoor_validation(scene: Scene, grid: float = 0.02) -> VoxelSample:
    """One view of a whole room without draws; ``inverse`` leads from every point to its row in the sample."""
    sample = grid_sample(center_shift(scene), None, grid)
    return VoxelSample(normalize_colors(center_shift(sample.scene, vertical=False)), sample.inverse)


def lidar_validation(scene: Scene, training: LidarTraining) -> VoxelSample:
    """One view of a whole frame without draws, in the box and the grid of ``training``."""
    sample = grid_sample(scene_motions.point_clip(scene, training.low, training.high), None, training.grid)
    return VoxelSample(normalize_colors(sample.scene), sample.inverse)


Views = Literal["single", "tta13", "tta12", "tta10", "rot4"]


def views_of(name: Views) -> list[View]:
    """The copies of a scene that are predicted and summed in testing.

    ``tta13``: four turns about z at scales 1, 0.95 and 1.05, and mirrored along x and y, which is the turn by pi once
    more; ``tta12`` leaves that out. ``tta10``: five scales without and with the mirroring. ``rot4``: the four turns.
    """
    turns = [_turned(quarter * np.pi / 2) for quarter in range(4)]
    if name == "single":
        return [_same]
    if name == "rot4":
        return turns
    if name == "tta10":
        sizes = [_scaled(factor) for factor in (0.9, 0.95, 1.0, 1.05, 1.1)]
        return sizes + [_then(size, _mirrored) for size in sizes]
    views = [_then(turn, _scaled(factor)) for factor in (1.0, 0.95, 1.05) for turn in turns]
    return views if name == "tta12" else [*views, _mirrored]


def fragments_of(scene: Scene, views: Sequence[View], grid: float = 0.02, indoor: bool = True) -> Iterator[Scene]:
    """All fragments of all views of a scene, made one by one; ``rows`` of each leads to the points of the scene.

    Args:
        scene: as read.
        views: see :func:`views_of`.
        grid: edge of a voxel, meters.
        indoor: whether the scene and every fragment are centered.
    """
    start = normalize_colors(center_shift(scene) if indoor else scene)
    for view in views:
        for piece in fragments(view(start), grid):
            yield center_shift(piece, vertical=False) if indoor else piece


@dataclass(frozen=True)
class ScenePipeline:
    """How scenes become samples, in training and in testing.

    Attributes:
        training: for example :class:`IndoorTraining`; of :class:`LidarTraining`, testing has the box and no centering.
        grid: edge of a voxel, meters.
        test_grid: of the voxels that are thinned to a point before fragments are made, meters; None for all points.
    """

    training: Training
    grid: float
    test_grid: float | None = None

    def view(self, scene: Scene) -> VoxelSample:
        """The whole scene without draws."""
        if isinstance(self.training, LidarTraining):
            return lidar_validation(scene, self.training)
        return indoor_validation(scene, self.grid)

    def thinned(self, scene: Scene) -> VoxelSample:
        """The first point of every voxel of ``test_grid``, with its own coordinates; ``inverse`` leads to it.

        The released code takes a random one.
        """
        if self.test_grid is None:
            return VoxelSample(scene, np.arange(len(scene)))
        placed = self._boxed(scene) if self._is_lidar else center_shift(scene)
        table = voxel_table(placed.coordinates, self.test_grid)
        return VoxelSample(scene.take(table.order[table.starts]), table.inverse)

    def fragments(self, scene: Scene, views: Views) -> Iterator[Scene]:
        """Samples that together hold every point, for each of the views; see :func:`fragments_of`."""
        placed = self._boxed(scene) if self._is_lidar else scene
        return fragments_of(placed, views_of(views), self.grid, indoor=not self._is_lidar)

    @property
    def _is_lidar(self) -> bool:
        return isinstance(self.training, LidarTraining)

    def _boxed(self, scene: Scene) -> Scene:
        assert isinstance(self.training, LidarTraining)
        return scene_motions.point_clip(scene, self.training.low, self.training.high)


@dataclass(frozen=True)
class TrainingScenes:
    """Samples of the scenes of a set, each drawn from a stream of its own.

    Attributes:
        scenes: the set.
        pipeline: for example :class:`IndoorTraining`.
        seed: of all draws.
    """

    scenes: SceneSet
    pipeline: Training
    seed: int

    def sample(self, epoch: int, index: int) -> Scene:
        """A sample of the scene ``index``; the same whatever else was asked for, and by whom."""
        return self.pipeline(self.scenes[index], keyed_generator(self.seed, "scene", epoch, index))


def _same(scene: Scene) -> Scene:
    return scene


def _turned(angle: float) -> View:
    return lambda scene: scene_motions.rotated(scene, "z", angle, _ORIGIN)


def _scaled(factor: float) -> View:
    return lambda scene: scene_motions.scaled(scene, factor)


def _mirrored(scene: Scene) -> Scene:
    return scene_motions.mirrored(scene, x=True, y=True)


def _then(first: View, second: View) -> View:
    return lambda scene: second(first(scene))
