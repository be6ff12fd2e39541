"""From clouds of any size to clouds of one size, as the published models were fed."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from geopeft_cli.data.clouds import Cloud
from geopeft_cli.geometry.sampling import farthest_point_sample

logger = logging.getLogger("geopeft")

Float32 = npt.NDArray[np.float32]
Normalize = Literal["unit_sphere", "center", "none"]
Sampling = Literal["fps_random", "fps", "random"]
NearOrigin = Literal["skip", "keep"]

CANDIDATES = {1024: 1200, 2048: 2400, 4096: 4800, 8192: 8192}
"""How many points the released code keeps by farthest point sampling before it draws at random."""

LARGE = 1e4
"""Above it float32 coordinates in meters resolve no better than a millimeter."""


class Preparation:
    """Normalizes clouds and draws the same number of points from each.

    Args:
        points: how many points a prepared cloud has.
        normalize: ``unit_sphere`` subtracts the mean and divides by the largest norm, ``center`` subtracts the mean.
        sampling: ``fps_random`` as published: in training, farthest point sampling of the shuffled cloud to
            1.2 x ``points`` and a random choice among those; in testing, farthest point sampling from the stored
            order. ``fps``: without the random choice. ``random``: distinct points at random; in testing a cloud of
            exactly ``points`` points keeps its order.
        near_origin: ``skip`` as published, or ``keep`` to let farthest point sampling pick points near the origin.
    """

    def __init__(
        self,
        points: int,
        normalize: Normalize = "unit_sphere",
        sampling: Sampling = "random",
        near_origin: NearOrigin = "skip",
    ) -> None:
        self.points = points
        self.normalize = normalize
        self.sampling = sampling
        self.near_origin = near_origin
        self._warned = False

    def normalized(self, cloud: Cloud) -> Float32:
        """The points of a cloud, float32 (n, 3), normalized in float64: survey coordinates lose nothing.

        A cloud whose points all coincide becomes zeros.
        """
        points = cloud.points.astype(np.float64)
        if self.normalize == "none":
            self._warn_of_large(cloud)
            return points.astype(np.float32)
        points -= points.mean(axis=0)
        if self.normalize == "unit_sphere":
            points /= np.linalg.norm(points, axis=1).max() or 1.0
        return points.astype(np.float32)

    def draw(self, clouds: Sequence[Float32], generators: Sequence[np.random.Generator], training: bool) -> Float32:
        """``points`` points of each cloud; a smaller cloud gives all of its points, then random ones of them again.

        Args:
            clouds: normalized, each float32 (n, 3) with its own n >= 1.
            generators: one a cloud; no cloud's draw depends on another cloud.
            training: which of the two procedures.

        Returns:
            float32 (len(clouds), points, 3).
        """
        if training:
            clouds = _shuffled(clouds, generators)
        if self.sampling == "fps_random" and training:
            clouds = _shuffled(self._farthest(clouds, self._candidates), generators)
        elif self.sampling != "random":
            clouds = self._farthest(clouds, self.points)
        elif not training:
            clouds = [
                cloud[generator.permutation(len(cloud))] if len(cloud) > self.points else cloud
                for cloud, generator in zip(clouds, generators, strict=True)
            ]
        return np.stack([self._exactly(*pair) for pair in zip(clouds, generators, strict=True)])

    @property
    def _candidates(self) -> int:
        return CANDIDATES.get(self.points, math.ceil(1.2 * self.points))

    def _farthest(self, clouds: Sequence[Float32], count: int) -> list[Float32]:
        """Farthest point sampling to ``count`` points, or as many as there are; clouds of one size go together."""
        thinned = list(clouds)
        places: dict[int, list[int]] = defaultdict(list)
        for place, cloud in enumerate(clouds):
            if len(cloud) >= self.points:
                places[len(cloud)].append(place)
        for size, group in places.items():
            together = torch.from_numpy(np.stack([clouds[place] for place in group]))
            picked = farthest_point_sample(together, min(count, size), self.near_origin)
            for place, picks in zip(group, picked.numpy(), strict=True):
                thinned[place] = clouds[place][picks]
        return thinned

    def _exactly(self, cloud: Float32, generator: np.random.Generator) -> Float32:
        missing = self.points - len(cloud)
        if missing <= 0:
            return cloud[: self.points]
        return np.concatenate([cloud, cloud[generator.integers(len(cloud), size=missing)]])

    def _warn_of_large(self, cloud: Cloud) -> None:
        largest = float(np.abs(cloud.points).max())
        if largest > LARGE and not self._warned:
            self._warned = True
            logger.warning(
                "%s has coordinates up to %.0f, which float32 rounds; use `normalize: center` or `unit_sphere`",
                cloud.name,
                largest,
            )


def _shuffled(clouds: Sequence[Float32], generators: Sequence[np.random.Generator]) -> list[Float32]:
    return [cloud[generator.permutation(len(cloud))] for cloud, generator in zip(clouds, generators, strict=True)]
