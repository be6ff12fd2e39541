"""Scenes: what a scene network reads, and what such a network is."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from geopeft_cli.contracts.model import Backbone
from geopeft_cli.contracts.tokens import Tokens
from geopeft_cli.errors import DataError, ShapeError


@dataclass(frozen=True)
class Scenes:
    """Scenes of different sizes, cut into voxels, one after the other without padding.

    Attributes:
        coordinates: (N, 3), meters, z up; what geometry-aware layers read.
        voxels: whole numbers (N, 3), 0 or more, the places of the rows in the grid of their scene. Rows may share one.
        features: (N, C), what the network reads, coordinates included where it was trained so.
        offsets: int64 (scenes + 1,), where the scenes begin, and N.
    """

    coordinates: Tensor
    voxels: Tensor
    features: Tensor
    offsets: Tensor

    def to(self, device: torch.device) -> Scenes:
        """The same on a device."""
        parts = (self.coordinates, self.voxels, self.features, self.offsets)
        return Scenes(*(part.to(device) for part in parts))

    def check(self, channels: int) -> None:
        """Stop scenes that a network of so many input channels cannot read.

        Raises:
            ShapeError: shapes do not go together.
            DataError: a scene is empty, or a coordinate or feature is not finite.
        """
        size = len(self.coordinates)
        expected = {"coordinates": (size, 3), "voxels": (size, 3), "features": (size, channels)}
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ShapeError(f"scenes: {name} of shape {tuple(getattr(self, name).shape)}, expected {shape}")
        bounds = self.offsets.tolist()
        if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != size or sorted(bounds) != bounds:
            raise ShapeError(f"scenes: offsets {bounds[:8]} do not rise from 0 to the number of voxels, {size}")
        for scene, (first, end) in enumerate(pairwise(bounds)):
            if first == end:
                raise DataError(f"scene {scene} of the batch has no points", "Leave it out.")
        for name in ("coordinates", "features"):
            damaged = (~getattr(self, name).isfinite().all(dim=1)).nonzero()[:, 0]
            if len(damaged):
                scene = bisect_right(bounds, int(damaged[0])) - 1
                first, end = bounds[scene : scene + 2]
                count = int((damaged < end).sum())
                raise DataError(
                    f"scene {scene} of the batch: {name} of {count} of {end - first} points are not finite",
                    "Remove or repair these points.",
                )


class SceneBackbone(Backbone):
    """A network that reads packed scenes and gives a feature for every voxel.

    Its methods have the meaning of :class:`Backbone`'s, with :class:`Scenes` for clouds and (N, C) for (B, T, C).

    Attributes:
        in_channels: features of a voxel that it reads.
        stem: how the names of the layer begin that reads the features of voxels.
    """

    stem: ClassVar[str]
    in_channels: int

    @property
    @abstractmethod
    def encoder_blocks(self) -> range:
        """The blocks of the encoder, by the indices of their sites."""

    @abstractmethod
    def encode(self, points: Scenes, layers: Sequence[int] = ()) -> Tokens:  # type: ignore[override]
        """Features (N, feature_width) of the voxels, with the raw outputs of the blocks named in ``layers``."""

    def pool(self, tokens: Tokens, fused: Tensor | None = None) -> Tensor:
        """The features as they are, since the head reads every voxel's own."""
        return tokens.features

    def forward(self, points: Scenes, categories: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """The task's prediction for packed scenes."""
        if self.task is None:
            raise RuntimeError("attach a task before calling the backbone")
        return self.task.predict(self, points)  # type: ignore[arg-type]
