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

from geopeft_cli.data.clouds import Cloud, Labels
from geopeft_cli.geometry.sampling import farthest_point_sample

logger = logging.getLogger("geopeft")

Float32 = npt.NDArray[np.float32]
Normalize = Literal["unit_sphere", "center", "none"]
Sampling = Literal["fps_random", "fps", "random", "with_replacement"]
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
            exactly ``points`` points keeps its order. ``with_replacement``: every point drawn from the whole cloud, in
            testing too, as the released part segmentation does it; some points come twice and others not at all.
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
        """The points that :meth:`picks` chooses, float32 (len(clouds), points, 3)."""
        picks = self.picks(clouds, generators, training)
        return np.stack([cloud[own] for cloud, own in zip(clouds, picks, strict=True)])

    def picks(self, clouds: Sequence[Float32], generators: Sequence[np.random.Generator], training: bool) -> Labels:
        """Which ``points`` points of each cloud; a smaller cloud gives all of its points, then random ones again.

        Args:
            clouds: normalized, each float32 (n, 3) with its own n >= 1.
            generators: one a cloud; no cloud's draw depends on another cloud.
            training: which of the two procedures.

        Returns:
            int64 (len(clouds), points), indices into the cloud.
        """
        if self.sampling == "with_replacement":
            return np.stack(
                [own.integers(len(cloud), size=self.points) for cloud, own in zip(clouds, generators, strict=True)]
            )
        orders = [np.arange(len(cloud)) for cloud in clouds]
        if training:
            orders = _shuffled(orders, generators)
        if self.sampling == "fps_random" and training:
            orders = _shuffled(self._farthest(clouds, orders, self._candidates), generators)
        elif self.sampling != "random":
            orders = self._farthest(clouds, orders, self.points)
        elif not training:
            orders = [
                order[generator.permutation(len(order))] if len(order) > self.points else order
                for order, generator in zip(orders, generators, strict=True)
            ]
        return np.stack([self._exactly(*pair) for pair in zip(orders, generators, strict=True)])

    def candidates(self, clouds: Sequence[Float32]) -> list[Labels]:
        """Which points of each cloud its views in voting draw from, indices into the cloud.

        As published, farthest point sampling from the stored order to 1.2 x ``points``; with a sampling that has none,
        all points.
        """
        orders = [np.arange(len(cloud)) for cloud in clouds]
        if self.sampling in ("random", "with_replacement"):
            return orders
        return self._farthest(clouds, orders, self._candidates)

    def chosen(self, count: int, generator: np.random.Generator) -> Labels:
        """``points`` of ``count`` points at random, int64 (points,), distinct where there are enough."""
        if self.sampling == "with_replacement":
            return generator.integers(count, size=self.points)
        return self._exactly(generator.permutation(count), generator)

    @property
    def _candidates(self) -> int:
        return CANDIDATES.get(self.points, math.ceil(1.2 * self.points))

    def _farthest(self, clouds: Sequence[Float32], orders: Sequence[Labels], count: int) -> list[Labels]:
        """Farthest point sampling to ``count`` points, or as many as there are; clouds of one size go together."""
        thinned = list(orders)
        places: dict[int, list[int]] = defaultdict(list)
        for place, cloud in enumerate(clouds):
            if len(cloud) >= self.points:
                places[len(cloud)].append(place)
        for size, group in places.items():
            together = torch.from_numpy(np.stack([clouds[place][orders[place]] for place in group]))
            picked = farthest_point_sample(together, min(count, size), self.near_origin)
            for place, picks in zip(group, picked.numpy(), strict=True):
                thinned[place] = orders[place][picks]
        return thinned

    def _exactly(self, order: Labels, generator: np.random.Generator) -> Labels:
        missing = self.points - len(order)
        if missing <= 0:
            return order[: self.points]
        return np.concatenate([order, order[generator.integers(len(order), size=missing)]])

    def _warn_of_large(self, cloud: Cloud) -> None:
        largest = float(np.abs(cloud.points).max())
        if largest > LARGE and not self._warned:
            self._warned = True
            logger.warning(
                "%s has coordinates up to %.0f, which float32 rounds; use `normalize: center` or `unit_sphere`",
                cloud.name,
                largest,
            )


def _shuffled(orders: Sequence[Labels], generators: Sequence[np.random.Generator]) -> list[Labels]:
    return [order[generator.permutation(len(order))] for order, generator in zip(orders, generators, strict=True)]
